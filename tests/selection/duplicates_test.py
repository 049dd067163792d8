"""Likeness to earlier documents: the authors' code, brute force, chains, blocks."""

import json
import pathlib

import numpy as np
import pytest

from cmtree_jax.selection import duplicates, neighbors
from cmtree_jax.selection.kmeans import Clusters

CASES = pathlib.Path(__file__).parents[1] / "methods" / "cases"
CASE = np.load(CASES / "semdedup_io.npz")
EXPECTED = json.loads((CASES / "semdedup_keep.json").read_text())
EMBEDDING_NE = CASE["embeddings"]
N = len(EMBEDDING_NE)
# The authors keep cosines by that name.
CLUSTERS = Clusters(
  CASE["centroids"], CASE["nearest_cent"], CASE["dist_to_cent"]
)
KEY_N = np.arange(
  N, dtype=np.uint64
)  # equal ones: the authors keep their order


def groups(keep="hard", seed=0):
  return duplicates.in_order(CLUSTERS, KEY_N, keep=keep, seed=seed)


@pytest.fixture(params=[1024, 8])
def blocks(request, monkeypatch):
  monkeypatch.setattr(duplicates, "_BLOCK", request.param)


def test_documents_are_ordered_as_in_the_authors_code():
  order = EXPECTED["order_within_cluster_hard"]
  assert [rows.tolist() for rows in groups()] == order
  assert [rows.tolist() for rows in groups("easy")] == [
    rows[::-1] for rows in order
  ]


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("name", EXPECTED["kept_indices"])
def test_the_authors_code_keeps_the_same_documents(name):
  """facebookresearch/SemDeDup at 6b41945, from its clusters and cosines."""
  keep, epsilon = name.split("|")
  likeness_N = duplicates.likeness(EMBEDDING_NE, groups(keep)).cosine_N
  kept = np.flatnonzero(likeness_N <= 1 - float(epsilon))
  assert kept.tolist() == EXPECTED["kept_indices"][name]


@pytest.mark.usefixtures("blocks")
def test_likeness_is_the_greatest_cosine_with_an_earlier_one():
  unit_NE = neighbors.unit(EMBEDDING_NE)
  found = duplicates.likeness(3 * EMBEDDING_NE, groups("random", seed=4))
  for rows in groups("random", seed=4):
    cosine_BB = np.tril(unit_NE[rows] @ unit_NE[rows].T, -1)
    expected = np.maximum(cosine_BB.max(axis=1), 0)
    np.testing.assert_allclose(found.cosine_N[rows], expected, atol=1e-6)
    other_B = np.where(expected > 0, rows[cosine_BB.argmax(axis=1)], -1)
    np.testing.assert_array_equal(found.other_N[rows], other_B)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("epsilon", [0.02, 0.1, 0.4])
def test_no_two_that_stay_are_alike_and_none_leaves_without_a_reason(epsilon):
  unit_NE = neighbors.unit(EMBEDDING_NE)
  kept_N = duplicates.kept(EMBEDDING_NE, groups(), epsilon=epsilon)
  for rows in groups():
    near_BB = np.tril(unit_NE[rows] @ unit_NE[rows].T > 1 - epsilon, -1)
    has_earlier_B = (near_BB & kept_N[rows]).any(axis=1)
    np.testing.assert_array_equal(kept_N[rows], ~has_earlier_B)
  likeness_N = duplicates.likeness(EMBEDDING_NE, groups()).cosine_N
  assert (kept_N >= (likeness_N <= 1 - epsilon)).all()


@pytest.mark.usefixtures("blocks")
def test_of_a_chain_one_or_every_other_stays():
  angle_N = np.arange(21) * 0.1
  chain_NE = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
  rows = [np.arange(21)]
  epsilon = 1 - np.cos(0.15)  # neighbors are alike, those after them are not
  likeness_N = duplicates.likeness(chain_NE, rows).cosine_N
  assert (likeness_N <= 1 - epsilon).tolist() == [True] + [False] * 20
  kept_N = duplicates.kept(chain_NE, rows, epsilon=epsilon)
  assert kept_N.tolist() == [True, False] * 10 + [True]


@pytest.mark.usefixtures("blocks")
def test_of_equal_documents_one_stays():
  same_NE = np.tile(np.random.default_rng(1).normal(size=13), (40, 1))
  rows = [np.random.default_rng(0).permutation(40)]
  found = duplicates.likeness(same_NE, rows)
  first = rows[0][0]
  assert (np.delete(found.cosine_N, first) == 1).all()
  assert found.cosine_N[first] == 0 and found.other_N[first] == -1
  assert (np.delete(found.other_N, first) >= 0).all()
  kept_N = duplicates.kept(same_NE, rows, epsilon=0.01)
  assert np.flatnonzero(kept_N).tolist() == [first]


@pytest.mark.parametrize("cosine", [0.9899997, 0.9900003, 0.9900013])
def test_both_ways_agree_at_the_edge(cosine):
  pair_NE = np.array([[1, 0], [cosine, np.sqrt(1 - cosine**2)]], np.float32)
  rows, epsilon = [np.arange(2)], 0.01
  found = duplicates.likeness(pair_NE, rows).cosine_N
  np.testing.assert_array_equal(
    duplicates.kept(pair_NE, rows, epsilon=epsilon), found <= 1 - epsilon
  )


def test_equal_documents_are_in_the_order_of_their_ids():
  clusters = Clusters(np.ones((1, 2)), np.zeros(6, int), np.full(6, 0.5))
  key_N = np.array([5, 3, 9, 0, 1, 7], np.uint64)
  for keep, order in (("hard", 1), ("easy", -1)):
    (rows,) = duplicates.in_order(clusters, key_N, keep=keep, seed=0)
    assert rows.tolist() == [3, 4, 1, 0, 5, 2][::order]


def test_a_random_order_depends_on_ids_and_seed_alone():
  one, two, other = (groups("random", seed)[0] for seed in (1, 1, 2))
  np.testing.assert_array_equal(one, two)
  assert sorted(one) == sorted(other) and one.tolist() != other.tolist()
