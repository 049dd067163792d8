"""Clusters on the sphere: recovery, the objective, order, empty ones, errors."""

import pathlib

import numpy as np
import pytest

from cmtree_jax.selection import kmeans, neighbors
from cmtree_jax.types import UserError

CASES = pathlib.Path(__file__).parents[1] / "methods" / "cases"
SIZES = (10, 70, 40, 20)  # documents around each of four directions
N, E = sum(SIZES), 6
BLOB_N = np.repeat(np.arange(4), SIZES)
KEY_N = np.random.default_rng(9).integers(2**63, size=N, dtype=np.uint64)


@pytest.fixture(scope="module")
def blobs():
  noise_NE = np.random.default_rng(0).normal(0, 0.05, (N, E))
  return (np.eye(4, E)[BLOB_N] + noise_NE).astype(np.float32)


def cluster(embedding_NE, key_N=KEY_N, num_clusters=4, seed=0):
  return kmeans.cluster(
    embedding_NE, key_N, num_clusters=num_clusters, seed=seed
  )


def test_separate_blobs_are_found_from_a_start_in_each(blobs):
  unit_NE = neighbors.unit(blobs)
  center_LE = kmeans.fit(unit_NE, unit_NE[[0, 10, 80, 120]])
  found = neighbors.nearest(blobs, center_LE)
  np.testing.assert_array_equal(found.index_N, BLOB_N)
  expected = kmeans.given(blobs, BLOB_N)
  np.testing.assert_allclose(center_LE, expected.center_LE, atol=1e-6)
  np.testing.assert_allclose(found.cosine_N, expected.cosine_N, atol=1e-6)


def test_a_round_moves_centers_to_the_mean_direction():
  """By hand: what is nearer to the first axis, and the rest."""
  rows = neighbors.unit(np.array([[9, 1], [9, 3], [2, 9], [0, 9]]))
  center_LE = kmeans.fit(rows, np.eye(2, dtype=np.float32))
  for center_E, part in zip(center_LE, (rows[:2], rows[2:]), strict=True):
    mean_E = part.mean(axis=0)
    np.testing.assert_allclose(
      center_E, mean_E / np.linalg.norm(mean_E), rtol=1e-6
    )


def test_as_good_as_faiss():
  """The mean cosine against that of its spherical k-means, on given documents."""
  case = np.load(CASES / "semdedup_io.npz")
  embedding_NE = case["embeddings"]
  key_N = KEY_N[: len(embedding_NE)]
  best = max(
    cluster(embedding_NE, key_N, seed=seed).cosine_N.mean() for seed in range(3)
  )
  assert best > case["dist_to_cent"].mean() - 1e-3


def test_neither_order_nor_length_of_documents_matters(blobs):
  one = cluster(blobs)
  order = np.random.default_rng(1).permutation(N)
  length_N1 = np.random.default_rng(2).uniform(0.1, 9, (N, 1))
  two = cluster((blobs * length_N1)[order], KEY_N[order])
  np.testing.assert_allclose(one.center_LE, two.center_LE, atol=1e-5)
  np.testing.assert_array_equal(one.of_N[order], two.of_N)
  other = cluster(blobs, seed=1)
  assert not np.array_equal(one.of_N, other.of_N)


def test_blocks_and_a_sample_change_little(blobs, monkeypatch):
  whole = cluster(blobs)
  monkeypatch.setattr(kmeans, "_BLOCK", 16)
  np.testing.assert_array_equal(cluster(blobs).of_N, whole.of_N)
  given = kmeans.given(blobs, BLOB_N)
  np.testing.assert_array_equal(given.of_N, BLOB_N)
  monkeypatch.setattr(kmeans, "PER_CLUSTER", 20)
  assert cluster(blobs).cosine_N.mean() > whole.cosine_N.mean() - 0.05


def test_an_empty_cluster_takes_a_document_that_is_far_from_its_own(blobs):
  """A start that all documents are far from is not left alone."""
  near_NE = blobs + 0.2  # all cosines are above that of padding, zero
  unit_NE = neighbors.unit(near_NE)
  start_LE = np.vstack([unit_NE[[10, 80, 120]], -np.ones((1, E)) / E**0.5])
  center_LE = kmeans.fit(unit_NE, start_LE.astype(np.float32))
  found = neighbors.nearest(near_NE, center_LE)
  np.testing.assert_array_equal(np.bincount(found.index_N), [70, 40, 20, 10])


@pytest.mark.parametrize("seed", range(4))
def test_equal_documents_are_one_cluster(seed):
  """And equally far from its center to the last bit, whatever they are."""
  same_NE = np.tile(np.random.default_rng(seed).normal(size=13), (N, 1))
  for found in (cluster(same_NE), kmeans.given(same_NE, np.zeros(N, int))):
    assert found.size_L.tolist() == [N]
    assert (found.cosine_N == 1).all()


def test_parts_without_documents_are_left_out(blobs):
  found = kmeans.given(blobs, 3 * BLOB_N)
  np.testing.assert_array_equal(found.of_N, BLOB_N)
  assert found.size_L.tolist() == list(SIZES)


def test_as_many_clusters_as_documents(blobs):
  found = cluster(blobs, num_clusters=N)
  np.testing.assert_array_equal(found.size_L, np.ones(N))
  np.testing.assert_allclose(found.cosine_N, 1, atol=1e-6)


def test_by_default_the_square_root_of_the_documents(blobs):
  assert len(cluster(blobs, num_clusters=0).center_LE) == 12


@pytest.mark.parametrize("num_clusters", [-1, N + 1])
def test_more_clusters_than_documents_are_refused(blobs, num_clusters):
  wanted = (
    f"{num_clusters} clusters of {N} documents; lower .* clusters to {N} or"
  )
  with pytest.raises(UserError, match=wanted):
    cluster(blobs, num_clusters=num_clusters)
