"""The tree as a residual on a scorer: where it starts, and what it then weighs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import config
from cmtree_jax.jobs import build, variants
from cmtree_jax.methods import classifier, residual
from cmtree_jax.tree import mixture
from cmtree_jax.types import UserError
from tests.methods.world import POOL, SIGNALS, facts, make, take

R = 4.0
SCORER = classifier.make(kind="soft", features="embedding")


@functools.cache
def one_round(scores):
  """(method, state before, state after, info) of one round on the pool."""
  method = make(
    "cmtree", scores=scores, offset=SCORER, start=dict(kind="kmeans")
  )
  before = method.init(jax.random.key(0), facts(R))
  signals = SIGNALS._replace(
    log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B)
  )
  step = jax.jit(method.step)
  return method, before, *step(before, take(method, np.arange(POOL), signals))


def log_w(method, state):
  weights = method.finalize(state)
  return np.asarray(weights.log_w(take(method, np.arange(POOL))), np.float64)


@pytest.mark.parametrize("scores", [False, True])
def test_it_starts_as_the_scorer_and_goes_where_values_lead(scores):
  method, before, after, info = one_round(scores)
  scored_N = SCORER.init(jax.random.key(0), facts(R)).log_w_N
  old_N, new_N = log_w(method, before), log_w(method, after)
  np.testing.assert_allclose(old_N, scored_N, atol=2e-5)
  assert np.exp(scored_N).max() == pytest.approx(R)  # some are at the cap
  assert info.stepped
  mass_N = SIGNALS.mass_B[:POOL].astype(np.float64)
  value_N = SIGNALS.value_BT[:POOL].mean(axis=1)
  assert (mass_N * value_N) @ (np.exp(new_N) - np.exp(old_N)) > 0
  assert mass_N @ np.exp(new_N) == pytest.approx(1, rel=1e-5)
  assert np.exp(new_N).max() <= R * (1 + 1e-6)
  # One factor is the scorer's, the other the tree's.
  (theta, log_w_L), embedding_NE = (
    after.learner[:2],
    jnp.asarray(SIGNALS.embedding_BE[:POOL]),
  )
  with_none_NE = jnp.pad(embedding_NE, ((0, 0), (0, 1)))
  placed_N = residual.place(theta, with_none_NE)
  tree_N = np.asarray(mixture.score(placed_N, log_w_L))
  expected_N = np.minimum(scored_N + tree_N, np.log(R))
  np.testing.assert_allclose(new_N, expected_N, atol=1e-5)
  np.testing.assert_array_equal(log_w(method, method.undo(after)), old_N)


def test_documents_bring_their_own_offset_in_any_order():
  method, before, after, _ = one_round(False)
  order = np.random.default_rng(0).permutation(POOL)
  weights = method.finalize(after)
  np.testing.assert_allclose(
    weights.log_w(take(method, order)), log_w(method, after)[order], atol=1e-6
  )
  del before


def test_the_offset_is_a_method_or_a_variant_of_the_config():
  loaded = config.load("configs/default.py", [])
  for name, features in (
    ("classifier_soft", {"grams"}),
    ("classifier_embedding", set()),
    ("classifier", {"grams"}),
  ):
    loaded.cmtree.offset = name
    made = build.make_method("cmtree", loaded)
    assert made is build.make_method("cmtree", loaded)
    assert made.features == features and made.weighs == "documents"
  mine = ("cmtree", "cmtree.offset=dsir", "dsir.share=0.25")
  with loaded.unlocked():
    loaded.variants.mine = mine
  assert variants.config_of("mine", loaded).dsir.share == 0.25
  loaded.cmtree.offset = "classifer"
  with pytest.raises(
    UserError, match="Unknown offset 'classifer'. Known: betr"
  ):
    build.make_method("cmtree", loaded)


@pytest.mark.parametrize("name", ["crisp_16", "svp", "pds"])
def test_what_weighs_no_documents_or_trains_cannot_be_one(name):
  loaded = config.load("configs/default.py", [f"cmtree.offset={name}"])
  with pytest.raises(UserError, match=r"config\.cmtree: offset must be a meth"):
    build.make_method("cmtree", loaded)
