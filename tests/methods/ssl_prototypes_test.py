"""SSL prototypes: the published ranking, budgets, balance, what is planted."""

import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import ssl_prototypes
from cmtree_jax.methods.base import Documents
from cmtree_jax.selection import neighbors
from cmtree_jax.selection.kmeans import Clusters
from cmtree_jax.types import UserError
from tests.methods import measured, world

CASE = np.load(
  pathlib.Path(__file__).parent / "cases" / "derived_ssl_prototypes_d4.npz"
)
# Three clusters of very different sizes; every tenth document lies far out.
SIZES, E = (60, 30, 10), 12
N = sum(SIZES)
CLUSTER_N = np.repeat(np.arange(3), SIZES)
FAR_N = np.arange(N) % 10 == 0


def pool() -> Documents:
  rng = np.random.default_rng(0)
  noise_NE = np.where(FAR_N, 0.8, 0.1)[:, None] * rng.normal(size=(N, E))
  return Documents(
    rng.integers(2**63, size=N, dtype=np.uint64),
    rng.integers(20, 90, N),
    (3 * np.eye(3, E)[CLUSTER_N] + noise_NE).astype(np.float32),
    CLUSTER_N,
  )


POOL = pool()


def found(documents=POOL, *, max_weight=100.0, seed=0, **options):
  known = world.facts(max_weight)._replace(
    pool=documents, train=(), validation=()
  )
  method = ssl_prototypes.make(**options)
  return method.init(jax.random.key(seed), known)


def kept(state) -> np.ndarray:
  return state.log_w_N > -1


def test_the_ranking_of_the_reference():
  """By hand from the paper's formula, with the centers that are given."""
  near = neighbors.nearest(CASE["embeddings"], CASE["ssl_centroids"])
  np.testing.assert_array_equal(near.index_N, CASE["ssl_labels"])
  np.testing.assert_allclose(1 - near.cosine_N, CASE["ssl_dist"], atol=1e-6)
  clusters = Clusters(CASE["ssl_centroids"], near.index_N, near.cosine_N)
  size = len(near.index_N)
  # Of equal ones the first.
  documents = Documents(
    np.arange(size, dtype=np.uint64), np.full(size, 9), CASE["embeddings"]
  )
  order_N = ssl_prototypes.ranking(clusters, documents, keep="hard")
  count = int(CASE["ssl_keep_fraction"] * size)
  np.testing.assert_array_equal(order_N[:count], CASE["ssl_selected"])
  reverse_N = ssl_prototypes.ranking(clusters, documents, keep="easy")
  distance_N = CASE["ssl_dist"]
  assert (np.diff(distance_N[order_N]) <= 1e-6).all()
  assert (np.diff(distance_N[reverse_N]) >= -1e-6).all()


@pytest.mark.parametrize("within", ssl_prototypes.clustered.WITHIN)
def test_what_lies_far_out_stays_or_leaves(within):
  options = {"within": within, "clusters": 3, "balance": 0.0}
  # A seed that starts in each cluster, as k-means may end elsewhere.
  tokens = POOL.tokens_N[FAR_N].sum() / POOL.tokens_N.sum()
  hard_N = kept(found(share=tokens, **options))
  assert (hard_N == FAR_N).mean() > 0.95
  easy_N = kept(found(keep="easy", share=1 - tokens, **options))
  assert (easy_N == ~FAR_N).mean() > 0.95


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_a_share_of_the_tokens_is_met(share, balance):
  state = found(share=share, balance=balance)
  tokens_N = POOL.tokens_N[kept(state)]
  wanted = share * POOL.tokens_N.sum()
  assert wanted <= tokens_N.sum() < wanted + POOL.tokens_N.max()
  (row,) = state.history
  assert row == {"tokens": tokens_N.sum(), "clusters": 10}


def test_every_cluster_keeps_its_part():
  """Far documents of the largest cluster alone would fill the budget otherwise."""
  spread_NE = POOL.embedding_NE.copy()
  spread_NE[CLUSTER_N == 0] += np.random.default_rng(1).normal(size=(60, E))
  uneven = POOL._replace(embedding_NE=spread_NE)
  total = POOL.tokens_N.sum()
  for balance in (0.0, 0.9):
    state = found(uneven, share=0.3, balance=balance, within="domains")
    held_K = np.bincount(CLUSTER_N, POOL.tokens_N * kept(state), minlength=3)
    least = balance * 0.3 * total / 3
    # The last document of a part may be cut off by the budget.
    assert (held_K >= min(least, total) - POOL.tokens_N.max()).all()
    if balance == 0:
      assert held_K[1:].min() < 0.2 * 0.3 * total / 3


def test_a_cluster_that_has_less_than_its_part_keeps_all():
  state = found(share=0.6, balance=1.0, within="domains")
  assert kept(state)[CLUSTER_N == 2].all()


def test_more_of_the_tokens_are_the_same_documents_and_others():
  before_N = np.zeros(N, bool)
  for share in (0.1, 0.3, 0.6, 1.0):
    kept_N = kept(found(share=share, balance=0.0))
    assert (kept_N >= before_N).all()
    before_N = kept_N
  assert before_N.all()


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(N)
  moved = measured.shuffled(POOL, order)
  for options in ({"share": 0.3}, {"share": 0.3, "within": "domains"}):
    one, two = found(**options), found(moved, **options)
    np.testing.assert_array_equal(one.log_w_N[order], two.log_w_N)


def test_equal_documents_are_chosen_by_their_ids():
  same = POOL._replace(
    embedding_NE=np.ones((N, E), np.float32), tokens_N=np.full(N, 9)
  )
  kept_N = kept(found(same, share=0.25))
  first = np.argsort(POOL.key_N)[: N // 4]
  np.testing.assert_array_equal(np.flatnonzero(kept_N), np.sort(first))


def test_the_documents_say_how_typical_they_are():
  state = found(share=0.2, within="domains")
  out = int(np.flatnonzero(~kept(state) & (CLUSTER_N == 2))[0])
  assert state.reasons is not None
  told = state.reasons.text(out, {})
  assert told.startswith("cosine 0.9")
  assert told.endswith(" to the center of its cluster of 10 documents")


def test_more_clusters_than_documents_are_refused():
  with pytest.raises(UserError, match=f"Cannot make 1000 clusters of {N}"):
    found(clusters=1000)


@pytest.mark.parametrize(
  "options",
  [
    {"share": 0.0},
    {"share": 1.1},
    {"keep": "random"},
    {"balance": -0.1},
    {"within": "sources"},
    {"clusters": -1},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Known"):
    ssl_prototypes.make(**options)
