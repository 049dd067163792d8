"""Facility location: plain greedy, planted topics, budgets, clusters, reasons."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import facility_location
from cmtree_jax.methods.base import Documents
from cmtree_jax.types import UserError
from tests.methods import measured, world

# Topics of falling size, the last of a single document; the first has many copies.
SIZES, E = (40, 20, 10, 5, 2, 1), 16
N = sum(SIZES)
TOPIC_N = np.repeat(np.arange(len(SIZES)), SIZES)


def pool() -> Documents:
  rng = np.random.default_rng(0)
  embedding_NE = 3 * np.eye(len(SIZES), E)[TOPIC_N]
  embedding_NE += 0.3 * rng.normal(size=(N, E))
  embedding_NE[20:40] = embedding_NE[19]
  return Documents(
    rng.integers(2**63, size=N, dtype=np.uint64),
    np.full(N, 10),
    embedding_NE.astype(np.float32),
    TOPIC_N,
  )


POOL = pool()
UNIT_NE = POOL.embedding_NE / np.linalg.norm(
  POOL.embedding_NE, axis=1, keepdims=True
)


def found(documents=POOL, *, max_weight=100.0, seed=0, **options):
  known = world.facts(max_weight)._replace(
    pool=documents, train=(), validation=()
  )
  method = facility_location.make(**options)
  return method.init(jax.random.key(seed), known)


def kept(state) -> np.ndarray:
  return np.flatnonzero(state.log_w_N > -1)


def covered(rows) -> float:
  """The mean cosine of all documents with the nearest of some."""
  return float(np.maximum(UNIT_NE @ UNIT_NE[rows].T, 0).max(axis=1).mean())


def test_every_topic_is_represented_and_no_copy_is():
  rows = kept(found(share=len(SIZES) / N))
  assert sorted(TOPIC_N[rows]) == list(range(len(SIZES)))
  more = kept(found(share=0.3))
  assert np.isin(more, range(19, 40)).sum() <= 1
  # The largest topic has a fifth of what half of the pool would give it blindly.
  assert np.bincount(TOPIC_N[more])[1:4].min() >= 2


def test_the_plain_greedy_algorithm_chooses_the_same():
  rows = kept(found(share=10 / N))
  expected, cover_N = [], np.zeros(N)
  similarity_NN = UNIT_NE @ UNIT_NE.T
  for _ in range(10):
    gain_N = np.maximum(similarity_NN - cover_N[:, None], 0).sum(axis=0)
    expected.append(int(np.lexsort((POOL.key_N, -gain_N.round(4)))[0]))
    cover_N = np.maximum(cover_N, similarity_NN[:, expected[-1]])
  assert rows.tolist() == sorted(expected)


def test_nothing_chosen_blindly_represents_the_pool_as_well():
  state = found(share=10 / N)
  best = covered(kept(state))
  assert state.history[0]["represented"] == pytest.approx(best, abs=1e-5)
  rng = np.random.default_rng(0)
  blind = [covered(rng.choice(N, 10, replace=False)) for _ in range(200)]
  assert best > max(blind)


@pytest.mark.parametrize("clusters", [0, 1, 5])
@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_a_share_of_the_tokens_is_met(share, clusters):
  tokens_N = np.random.default_rng(1).integers(20, 90, N)
  uneven = POOL._replace(tokens_N=tokens_N)
  rows = kept(found(uneven, share=share, clusters=clusters))
  wanted = share * tokens_N.sum()
  assert wanted <= tokens_N[rows].sum() < wanted + tokens_N.max()


def test_more_of_the_tokens_are_the_same_documents_and_others():
  before = set()
  for share in (0.05, 0.2, 0.4, 1.0):
    rows = set(kept(found(share=share)).tolist())
    assert rows >= before
    before = rows
  assert len(before) == N


def test_clusters_represent_themselves():
  state = found(share=0.2, clusters=4)
  assert state.history[0]["clusters"] == 4
  rows = kept(state)
  assert covered(rows) > 0.9 * covered(kept(found(share=0.2)))
  # By as large a share of each, within half a document.
  clusters = facility_location._by_key(
    POOL, 4, facility_location.clustered.seed_of(jax.random.key(0))
  )
  for group in clusters:
    assert abs(np.isin(group, rows).sum() - 0.2 * len(group)) <= 1


def test_a_place_is_the_share_up_to_the_middle_of_a_document():
  groups = [np.arange(60), np.arange(60, N)]
  place_N = facility_location.represent(POOL, groups, share=0.1).place_N
  for rows, chosen in zip(groups, (6, 2), strict=True):
    middle = (np.arange(chosen) + 0.5) / len(rows)
    np.testing.assert_allclose(np.sort(place_N[rows])[:chosen], middle)
    assert (np.sort(place_N[rows])[chosen:] == 2).all()


def test_a_cap_that_wants_more_gets_the_next_that_are_chosen():
  state = found(share=0.05, max_weight=4.0)
  np.testing.assert_array_equal(kept(state), kept(found(share=0.25)))
  assert np.exp(state.log_w_N).max() <= 4 * (1 + 1e-5)


def test_a_document_says_which_one_stands_for_it():
  state = found(share=0.1)
  rows = kept(state)
  assert state.reasons is not None
  for copy in range(21, 40):
    if copy in rows:
      continue
    (other,) = state.reasons.others(np.array([copy])).tolist()
    assert other == rows[(UNIT_NE[rows] @ UNIT_NE[copy]).argmax()]
    told = state.reasons.text(copy, {other: "doc-x"})
    assert told.endswith("to doc-x, which stands for it")


@pytest.mark.parametrize("clusters", [1, 5])
def test_the_order_of_documents_changes_nothing(clusters):
  order = np.random.default_rng(1).permutation(N)
  one = found(share=0.3, clusters=clusters)
  two = found(measured.shuffled(POOL, order), share=0.3, clusters=clusters)
  np.testing.assert_array_equal(one.log_w_N[order], two.log_w_N)


def test_of_equal_documents_one_stands_for_all_and_ids_choose_the_rest():
  same = POOL._replace(embedding_NE=np.ones((N, E), np.float32))
  first = np.argsort(POOL.key_N)
  assert kept(found(same, share=1 / N)).tolist() == [first[0]]
  rows = kept(found(same, share=10 / N))
  np.testing.assert_array_equal(rows, np.sort(first[:10]))


def test_more_clusters_than_documents_are_refused():
  with pytest.raises(UserError, match=f"Cannot make 1000 clusters of {N}"):
    found(clusters=1000)


@pytest.mark.parametrize(
  "options", [{"share": 0.0}, {"share": 1.1}, {"clusters": -1}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    facility_location.make(**options)


@pytest.mark.parametrize("seed", range(6))
def test_all_documents_can_be_chosen(seed):
  """Their tokens' shares may add up to a little more than one."""
  tokens_N = np.random.default_rng(seed).integers(1, 10**6, N)
  for options in ({"share": 1.0}, {"max_weight": 1.0}):
    state = found(POOL._replace(tokens_N=tokens_N), **options)
    np.testing.assert_allclose(np.exp(state.log_w_N), 1, rtol=1e-5)
