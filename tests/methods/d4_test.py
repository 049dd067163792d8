"""D4: the two steps against the reference, budgets, what is planted."""

import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import d4, semdedup, ssl_prototypes
from cmtree_jax.methods.base import Documents
from cmtree_jax.selection import neighbors
from cmtree_jax.selection.kmeans import Clusters
from cmtree_jax.types import UserError
from tests.methods import measured, world
from tests.methods.semdedup_test import EXACT, POOL, TWIN_OF, N

CASES = pathlib.Path(__file__).parent / "cases"


def found(documents=POOL, *, max_weight=100.0, **options):
  known = world.facts(max_weight)._replace(
    pool=documents, train=(), validation=()
  )
  return d4.make(**options).init(jax.random.key(0), known)


def kept(state) -> np.ndarray:
  return state.log_w_N > -1


def deduplicated(share) -> np.ndarray:
  """What the first step alone keeps."""
  known = world.facts(100.0)._replace(pool=POOL)
  return kept(semdedup.make(share=share).init(jax.random.key(0), known))


def test_both_steps_choose_as_the_reference_does():
  """SemDeDup at 0.1, then prototypes of given centers: by hand from the papers."""
  case = np.load(CASES / "derived_ssl_prototypes_d4.npz")
  size = len(case["embeddings"])
  documents = Documents(
    np.arange(size, dtype=np.uint64), np.full(size, 9), case["embeddings"]
  )
  left = case["d4_after_semdedup_eps0_1"]
  seen = []

  def cluster(embedding_NE, key_N):
    seen.append(key_N)
    name = "ssl_centroids" if len(key_N) == size else "d4_centroids"
    rows_NE = embedding_NE[np.arange(len(key_N))]
    near = neighbors.nearest(rows_NE, case[name])
    return Clusters(case[name], near.index_N, near.cosine_N)

  score_N, _ = d4.scores(documents, cluster, dedup_share=len(left) / size)
  np.testing.assert_array_equal(seen[1], left)
  np.testing.assert_allclose(score_N[left], case["d4_dist"], atol=1e-6)
  order_N = np.lexsort((documents.key_N, -score_N))
  np.testing.assert_array_equal(np.sort(order_N[: len(left)]), left)
  count = int(case["d4_proto_fraction"] * len(left))
  np.testing.assert_array_equal(order_N[:count], case["d4_selected"])


@pytest.mark.parametrize("share", [0.1, 0.4, 0.7])
def test_a_share_of_the_tokens_is_met(share):
  tokens_N = POOL.tokens_N[kept(found(share=share))]
  wanted = share * POOL.tokens_N.sum()
  assert wanted <= tokens_N.sum() < wanted + POOL.tokens_N.max()


def test_of_two_that_say_the_same_one_stays_at_most():
  kept_N = kept(found(share=0.7, dedup_share=0.85))
  for twin, first in TWIN_OF.items():
    assert not (kept_N[twin] and kept_N[first])


def test_all_that_the_first_step_leaves_is_semdedup():
  kept_N = kept(found(share=0.75, dedup_share=0.75))
  np.testing.assert_array_equal(kept_N, deduplicated(0.75))


def test_without_a_first_step_it_is_prototypes():
  kept_N = kept(found(share=0.4, dedup_share=1.0))
  second = ssl_prototypes.make(share=0.4, balance=0.0)
  known = world.facts(100.0)._replace(pool=POOL)
  np.testing.assert_array_equal(
    kept_N, kept(second.init(jax.random.key(0), known))
  )


def test_a_document_says_which_step_left_it_out():
  state = found(share=0.3, dedup_share=0.85)
  assert state.reasons is not None
  told = [
    state.reasons.text(i, dict.fromkeys(range(N), "doc-x"))
    for i in np.flatnonzero(~kept(state)).tolist()
  ]
  assert {
    text.partition(" to ")[2].partition(",")[0].partition(" of its")[0]
    for text in told
  } == {"doc-x", "the center"}
  twins = [
    next(i for i in (twin, TWIN_OF[twin]) if not kept(state)[i])
    for twin in EXACT
  ]
  both = [state.reasons.text(i, dict.fromkeys(range(N), "x")) for i in twins]
  assert any(text.startswith("cosine 1.000 to x") for text in both)


def test_where_more_has_to_be_kept_duplicates_come_last():
  """A cap that asks for nine tenths of the pool, where three quarters are left."""
  state = found(share=0.25, max_weight=1 / 0.9)
  w_N = np.exp(state.log_w_N)
  np.testing.assert_array_equal(kept(state), deduplicated(0.9))
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  assert q_N @ w_N == pytest.approx(1.0, rel=1e-5)


def test_the_order_of_documents_changes_nothing():
  order = np.random.default_rng(1).permutation(N)
  moved = measured.shuffled(POOL, order)
  np.testing.assert_array_equal(found().log_w_N[order], found(moved).log_w_N)


def test_equal_documents_keep_their_share():
  same = POOL._replace(
    embedding_NE=np.ones((N, 3), np.float32), tokens_N=np.full(N, 9)
  )
  assert kept(found(same)).sum() == N / 4


def test_more_clusters_than_are_left_are_refused():
  with pytest.raises(UserError, match="80 clusters of 4.* option clusters to"):
    found(clusters=80, dedup_share=0.5)


@pytest.mark.parametrize(
  ("options", "told"),
  [
    ({"share": 0.0}, "above 0"),
    ({"share": 1.5}, "from 0 to 1"),
    ({"clusters": -1}, "at least 0"),
    ({"share": 0.8}, "cannot be kept of the dedup_share"),
  ],
)
def test_options_out_of_range_are_refused(options, told):
  with pytest.raises(ValueError, match=told):
    d4.make(**options)
