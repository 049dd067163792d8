"""Trees whose leaves score, as recipes: their weights, their powers, their file."""

import json
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.evaluate.concentration import effective_sample_size
from cmtree_jax.methods.base import Signals
from cmtree_jax.methods.cmtree import TreeWeights
from cmtree_jax.recipe import concentrate
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe.partition import TreePartition
from cmtree_jax.tree import mixture, model
from tests.methods import world

N, R = 300, 2.0
RNG = np.random.default_rng(0)
EMBEDDING_NE = world.features(N, 3)
MASS_N = RNG.dirichlet(np.ones(N))


@pytest.fixture(scope="module")
def weights() -> TreeWeights:
  """Of a tree of 2 x 2 leaves that score; many documents are at the cap."""
  method = world.make("cmtree", start=dict(kind="kmeans"))
  theta = method.init(jax.random.key(0), world.facts(R)).theta
  last: Any = model.with_scores(theta)[-1]
  score_MCP = RNG.normal(0, 2, last.score_MCP.shape)
  theta = (*theta[:-1], last._replace(score_MCP=jnp.float32(score_MCP)))
  log_w_L = mixture.normalized(
    mixture.leaf_tilt(theta),
    model.place(theta, jnp.asarray(EMBEDDING_NE)),
    jnp.float32(MASS_N),
    max_weight=R,
  )
  return TreeWeights(theta, log_w_L, jnp.float32(R))


@pytest.fixture(scope="module")
def tree(weights) -> TreePartition:
  found = partitions.measured(TreePartition(weights), EMBEDDING_NE, MASS_N)
  assert isinstance(found, TreePartition)
  return found


def log_w_of(tree):
  log_p_NL = tree.log_p_leaf(EMBEDDING_NE)
  return partitions.document_log_w(tree, EMBEDDING_NE, log_p_NL)


def test_a_recipe_weighs_documents_as_its_search_did(tree, weights):
  log_w_N = log_w_of(tree)
  searched_N = weights.log_w(Signals(embedding_BE=jnp.asarray(EMBEDDING_NE)))
  np.testing.assert_allclose(log_w_N, searched_N, atol=1e-5)
  assert MASS_N @ np.exp(log_w_N) == pytest.approx(1, rel=1e-5)
  assert 20 < np.sum(np.exp(log_w_N) > R * (1 - 1e-6)) < N / 2
  assert np.exp(log_w_N).max() <= R * (1 + 1e-6)
  applied = partitions.apply_partition(tree, EMBEDDING_NE)
  np.testing.assert_array_equal(applied.weight_N, np.exp(log_w_N))


def test_leaves_have_the_mean_weight_inside(tree, monkeypatch):
  log_p_NL = tree.log_p_leaf(EMBEDDING_NE)
  q_L = MASS_N @ np.exp(log_p_NL)
  w_N = np.exp(log_w_of(tree))
  mean_L = [np.average(w_N, weights=MASS_N * p_N) for p_N in np.exp(log_p_NL).T]
  np.testing.assert_allclose(np.exp(tree.log_w_L), mean_L, rtol=1e-5)
  np.testing.assert_allclose(q_L @ np.exp(tree.log_w_L), 1.0, rtol=1e-5)
  monkeypatch.setattr(partitions, "CHUNK", 70)
  again = partitions.measured(tree, EMBEDDING_NE, MASS_N)
  np.testing.assert_allclose(again.log_w_L, tree.log_w_L, atol=1e-5)


def test_scores_of_zero_leave_the_weights_of_leaves(weights):
  # Where each document is in one leaf.
  *above, last = (x._replace(log_kappa=jnp.float32(9.0)) for x in weights.theta)
  zero = weights._replace(
    theta=(*above, last._replace(score_MCP=0 * last.score_MCP)),
    max_weight=jnp.float32(1e9),
  )
  found = partitions.measured(TreePartition(zero), EMBEDDING_NE, MASS_N)
  np.testing.assert_allclose(found.log_w_L, weights.log_w_L, atol=1e-2)


@pytest.mark.parametrize("power", [1.0, 0.6])
def test_a_recipe_is_read_back_from_its_file(tree, power):
  tree = tree._replace(power=power, log_scale=0.1)
  told = json.loads(json.dumps(tree.to_json()))
  again = partitions.partition_from_json(told)
  assert isinstance(again, TreePartition) and again.scores
  np.testing.assert_array_equal(log_w_of(again), log_w_of(tree))
  np.testing.assert_array_equal(again.log_w_L, tree.log_w_L)
  assert again.to_json() == told


def test_the_likeliest_leaf_has_a_score_too(tree, weights):
  applied = partitions.apply_partition(tree, EMBEDDING_NE, harden=True)
  lean_NL = tree.lean(EMBEDDING_NE)
  own_N = np.asarray(weights.log_w_L)[applied.leaf_N]
  own_N = own_N + lean_NL[np.arange(N), applied.leaf_N]
  expected_N = np.minimum(np.exp(own_N), R)
  np.testing.assert_allclose(applied.weight_N, expected_N, rtol=1e-5)


def test_other_weights_are_those_of_leaves_alone(tree):
  log_w_L = np.array([0.1, -0.2, 0.3, 0.0], np.float32)
  told = tree.with_weights(log_w_L)
  assert not told.scores and "score" not in told.to_json()
  np.testing.assert_array_equal(told.log_w_L, log_w_L)
  log_p_NL = tree.log_p_leaf(EMBEDDING_NE)
  np.testing.assert_array_equal(told.log_p_leaf(EMBEDDING_NE), log_p_NL)
  np.testing.assert_allclose(
    np.exp(log_w_of(told)), np.exp(log_p_NL) @ np.exp(log_w_L), rtol=1e-5
  )


def ground_of(tree):
  tokens = SimpleNamespace(mass_N=MASS_N)
  pool: Any = SimpleNamespace(tokens=tokens, embedding_NE=EMBEDDING_NE)
  data: Any = SimpleNamespace(pool=pool)
  return concentrate.ground_of(tree, data)


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_a_power_of_its_weights_reaches_any_share(tree, share, monkeypatch):
  monkeypatch.setattr(concentrate, "CHUNK", 70)
  ground = ground_of(tree)
  assert ground.share(concentrate.units(tree, ground)) == pytest.approx(
    effective_sample_size(log_w_of(tree), MASS_N), rel=1e-4
  )
  found = concentrate.to_share(tree, share, ground, max_weight=R)
  assert isinstance(found, TreePartition) and found.scores
  log_v_N = log_w_of(found)
  assert MASS_N @ np.exp(log_v_N) == pytest.approx(1, rel=1e-5)
  assert effective_sample_size(log_v_N, MASS_N) == pytest.approx(
    share, rel=1e-3
  )
  assert np.exp(log_v_N).max() <= R * (1 + 1e-5)
  # The order of documents stays, and one power of another is their product.
  f_N = tree.score(EMBEDDING_NE, tree.log_p_leaf(EMBEDDING_NE))
  assert np.all(np.diff(log_v_N[np.argsort(f_N)]) >= -1e-6)
  twice = concentrate.at_power(found, 1.5, ground, max_weight=R)
  once = concentrate.at_power(tree, 1.5 * found.power, ground, max_weight=R)
  np.testing.assert_allclose(log_w_of(twice), log_w_of(once), atol=1e-4)
  again = concentrate.at_power(tree, 1.0, ground, max_weight=R)
  np.testing.assert_allclose(log_w_of(again), log_w_of(tree), atol=1e-4)


def test_an_encoder_is_in_the_file(weights):
  theta: Any = model.with_encoder(weights.theta, jax.random.key(1), 7)
  out_EH = jnp.float32(RNG.normal(0, 0.3, (world.E, 7)))
  encoder = theta[0].encoder._replace(out_EH=out_EH)
  theta = (theta[0]._replace(encoder=encoder), *theta[1:])
  tree: Any = partitions.measured(
    TreePartition(weights._replace(theta=theta)), EMBEDDING_NE, MASS_N
  )
  told = json.loads(json.dumps(tree.to_json()))
  again = partitions.partition_from_json(told)
  np.testing.assert_array_equal(log_w_of(again), log_w_of(tree))
  without = tree._replace(weights=weights)
  assert np.abs(log_w_of(without) - log_w_of(tree)).max() > 0.1
  # Other weights of the leaves are those of the same leaves.
  other = tree.with_weights(np.zeros(4, np.float32))
  np.testing.assert_array_equal(
    other.log_p_leaf(EMBEDDING_NE), tree.log_p_leaf(EMBEDDING_NE)
  )
