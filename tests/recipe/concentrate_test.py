"""Powers of a recipe's weights: of leaves and of documents."""

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.evaluate.concentration import effective_sample_size
from cmtree_jax.methods.base import DocumentWeights, Path
from cmtree_jax.recipe import concentrate
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.tree import mixture

RNG = np.random.default_rng(0)
N, L = 500, 6
MASS_N = RNG.dirichlet(np.ones(N))
LOG_W_N = RNG.normal(size=N)
DOCUMENTS = concentrate.Ground(MASS_N)


class SoftLeaves:
  """Leaves by a softmax of the first features."""

  branching = (L,)

  def __init__(self, log_w_L):
    self.log_w_L = log_w_L

  def log_p_leaf(self, embedding_NE, source_N=None):
    del source_N
    logit_NL = np.asarray(embedding_NE)[:, :L]
    return logit_NL - np.log(np.exp(logit_NL).sum(axis=1, keepdims=True))

  def with_weights(self, log_w_L):
    return SoftLeaves(log_w_L)

  def to_json(self):
    raise AssertionError("not written here")


def corpus(embedding_NE, label_N=None, names=()) -> Any:
  """As much of a prepared corpus as a ground reads."""
  pool = SimpleNamespace(
    tokens=SimpleNamespace(mass_N=MASS_N), embedding_NE=embedding_NE
  )
  documents = SimpleNamespace(labels=lambda column: (label_N, names))
  return SimpleNamespace(pool=pool, documents=documents)


@pytest.fixture
def soft(monkeypatch):
  """Leaves, the corpus they stand on, and where its documents fall."""
  monkeypatch.setattr(concentrate, "CHUNK", 150)
  embedding_NE = np.random.default_rng(1).normal(size=(N, L + 2)) * 2
  leaves = SoftLeaves(np.linspace(-1, 2, L))
  ground = concentrate.ground_of(leaves, corpus(embedding_NE))
  return leaves, ground, leaves.log_p_leaf(embedding_NE)


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_the_share_is_reached_by_a_power_of_the_documents_weights(share):
  path = Path(np.arange(len(LOG_W_N), dtype=np.int32))
  weights = DocumentWeights(LOG_W_N, path)
  found = concentrate.to_share(weights, share, DOCUMENTS, max_weight=1e9)
  assert isinstance(found, DocumentWeights) and found.path is path
  log_v_N = found.log_w_N
  assert MASS_N @ np.exp(log_v_N) == pytest.approx(1, rel=1e-12)
  assert effective_sample_size(log_v_N, MASS_N) == pytest.approx(share)
  power = concentrate.power_of(weights, share, DOCUMENTS, max_weight=1e9)
  slope = np.polyfit(LOG_W_N, log_v_N, 1)
  np.testing.assert_allclose(np.polyval(slope, LOG_W_N), log_v_N, atol=1e-9)
  assert slope[0] == pytest.approx(power)


def test_no_document_is_above_the_cap():
  weights = DocumentWeights(LOG_W_N)
  found = concentrate.to_share(weights, 0.3, DOCUMENTS, max_weight=4.0)
  assert np.exp(found.log_w_N).max() == pytest.approx(4.0)
  assert effective_sample_size(found.log_w_N, MASS_N) == pytest.approx(0.3)


def test_a_document_without_weight_keeps_none():
  half_N = np.cumsum(MASS_N) < 0.5
  with np.errstate(divide="ignore"):
    weights = DocumentWeights(np.log(np.where(half_N, np.exp(LOG_W_N), 0.0)))
  found = concentrate.to_share(weights, 0.9, DOCUMENTS, max_weight=1e9)
  # No power keeps more than natural on what has a weight.
  np.testing.assert_array_equal(found.log_w_N == -np.inf, ~half_N)
  assert effective_sample_size(found.log_w_N, MASS_N) == pytest.approx(
    MASS_N[half_N].sum(), rel=1e-6
  )


def test_a_share_out_of_reach_is_approached():
  # Equal weights on half of the mass cannot be more concentrated than that.
  weights = DocumentWeights(np.where(np.cumsum(MASS_N) < 0.5, 1.0, 0.0))
  found = concentrate.to_share(weights, 0.1, DOCUMENTS, max_weight=1e9)
  top = MASS_N[weights.log_w_N > 0].sum()
  assert effective_sample_size(found.log_w_N, MASS_N) == pytest.approx(
    top, rel=1e-3
  )


def test_the_ground_of_leaves_knows_the_documents_share(soft):
  leaves, ground, log_p_NL = soft
  np.testing.assert_allclose(ground.mass_U, MASS_N @ np.exp(log_p_NL))
  log_w_N = mixture.document_log_w(
    jnp.asarray(log_p_NL), jnp.asarray(leaves.log_w_L)
  )
  assert ground.share(leaves.log_w_L) == pytest.approx(
    effective_sample_size(np.asarray(log_w_N, float), MASS_N), rel=1e-5
  )


@pytest.mark.parametrize(
  ("share", "max_weight"), [(0.8, 1e9), (0.5, 1e9), (0.75, 2.0)]
)
def test_a_recipe_of_leaves_stays_one_at_any_share(soft, share, max_weight):
  leaves, ground, log_p_NL = soft
  found = concentrate.to_share(leaves, share, ground, max_weight=max_weight)
  assert isinstance(found, SoftLeaves)
  w_L = np.exp(found.log_w_L)
  assert ground.mass_U @ w_L == pytest.approx(1, rel=1e-5)
  assert w_L.max() <= max_weight * (1 + 1e-5)
  w_N = np.exp(log_p_NL) @ w_L
  assert 1 / (MASS_N @ w_N**2) == pytest.approx(share, rel=1e-3)
  order = np.argsort(leaves.log_w_L)
  assert (np.diff(found.log_w_L[order]) >= 0).all()


def test_powers_of_leaves(soft):
  leaves, ground, _ = soft
  natural = concentrate.at_power(leaves, 0.0, ground, max_weight=9.0)
  np.testing.assert_allclose(natural.log_w_L, 0, atol=1e-6)
  double = concentrate.at_power(leaves, 2.0, ground, max_weight=1e9)
  np.testing.assert_allclose(
    np.diff(double.log_w_L), 2 * np.diff(leaves.log_w_L), rtol=1e-5
  )
  # At the largest power of a search every weight is still a number.
  most = concentrate.at_power(leaves, 64.0, ground, max_weight=3.0)
  assert np.isfinite(most.log_w_L).all()


def test_labelled_sources_are_where_their_labels_say():
  embedding_NE = RNG.normal(size=(N, 3)).astype(np.float32)
  label_N = RNG.integers(0, 2, N)
  sources = partitions.ClusterPartition(
    *(np.eye(2, 3, dtype=np.float32), np.zeros(2, np.float32), np.arange(2)),
    sources=("b", "a"),
  )
  data = corpus(embedding_NE, label_N, ("a", "b"))
  ground = concentrate.ground_of(sources, data)
  of_a = MASS_N[label_N == 0].sum()
  assert ground.overlap_UU is not None
  np.testing.assert_allclose(ground.overlap_UU, np.diag([1 - of_a, of_a]))
