"""Clusters on the sphere: recovery, order, ties and masses."""

import warnings

import numpy as np
import pytest

from cmtree_jax.embed import kmeans
from cmtree_jax.types import UserError

SIZES = (10, 70, 40, 20)  # documents around each of four directions


@pytest.fixture(scope="module")
def blobs():
  rng = np.random.default_rng(0)
  blob_N = np.repeat(np.arange(4), SIZES)
  noise_NE = rng.normal(0, 0.05, (len(blob_N), 6))
  return (np.eye(4, 6)[blob_N] + noise_NE).astype(np.float32), blob_N


def test_separate_blobs_are_found_heaviest_first(blobs):
  embedding_NE, blob_N = blobs
  found = kmeans.fit(embedding_NE, num_clusters=4, seed=0)
  cluster_N = kmeans.assign(embedding_NE, found.center_LE)
  rank = np.array([3, 0, 1, 2])  # of the blobs by size
  np.testing.assert_array_equal(cluster_N, rank[blob_N])
  np.testing.assert_allclose(found.mass_L, np.array([70, 40, 20, 10]) / 140)


def test_centers_have_unit_length_and_the_mean_direction(blobs):
  embedding_NE, blob_N = blobs
  found = kmeans.fit(embedding_NE, num_clusters=4, seed=0)
  rows_NE = embedding_NE / np.linalg.norm(embedding_NE, axis=1, keepdims=True)
  mean_E = rows_NE[blob_N == 1].mean(0)
  mean_E /= np.linalg.norm(mean_E)
  np.testing.assert_allclose(found.center_LE[0], mean_E, atol=1e-5)
  assert found.center_LE.dtype == np.float32
  np.testing.assert_allclose(
    np.linalg.norm(found.center_LE, axis=1), 1, atol=1e-6
  )


def test_length_of_rows_does_not_matter(blobs):
  embedding_NE, _ = blobs
  length_N = np.random.default_rng(1).uniform(0.1, 9, (len(embedding_NE), 1))
  long_NE = (embedding_NE * length_N).astype(np.float32)
  one = kmeans.fit(embedding_NE, num_clusters=4, seed=0)
  two = kmeans.fit(long_NE, num_clusters=4, seed=0)
  np.testing.assert_allclose(one.center_LE, two.center_LE, atol=1e-5)
  np.testing.assert_array_equal(
    kmeans.assign(embedding_NE, one.center_LE),
    kmeans.assign(long_NE, one.center_LE),
  )


def test_mass_counts_as_repetition(blobs):
  embedding_NE, blob_N = blobs
  mass_N = np.array([9.0, 1, 1, 1])[
    blob_N
  ]  # the first blob is now the heaviest
  weighed = kmeans.fit(embedding_NE, num_clusters=4, seed=0, mass_N=mass_N)
  repeated = kmeans.fit(
    np.repeat(embedding_NE, mass_N.astype(int), axis=0), num_clusters=4, seed=0
  )
  np.testing.assert_allclose(weighed.center_LE, repeated.center_LE, atol=1e-5)
  np.testing.assert_allclose(weighed.mass_L, np.array([90, 70, 40, 20]) / 220)
  assert weighed.center_LE[0].argmax() == 0


def test_a_center_is_a_mean_weighted_by_mass():
  rows = np.eye(2, dtype=np.float32)
  found = kmeans.fit(rows, num_clusters=1, seed=0, mass_N=np.array([3.0, 4.0]))
  np.testing.assert_allclose(found.center_LE, [[0.6, 0.8]], rtol=1e-6)


def test_equal_seeds_give_equal_centers(blobs):
  one, two, other = (
    kmeans.fit(blobs[0], num_clusters=9, seed=seed) for seed in (3, 3, 4)
  )
  np.testing.assert_array_equal(one.center_LE, two.center_LE)
  assert not np.array_equal(one.center_LE, other.center_LE)
  assert (np.diff(one.mass_L) <= 0).all()


def test_of_equal_centers_the_first_is_taken(monkeypatch):
  rng = np.random.default_rng(0)
  center_LE = np.repeat(rng.normal(size=(5, 33)), 3, axis=0).astype(np.float32)
  center_LE /= np.linalg.norm(center_LE, axis=1, keepdims=True)
  embedding_NE = rng.normal(size=(101, 33)).astype(np.float32)
  whole_N = kmeans.assign(embedding_NE, center_LE)
  assert set(whole_N.tolist()) <= {0, 3, 6, 9, 12}
  best_N = (embedding_NE @ center_LE[::3].T).argmax(1)
  np.testing.assert_array_equal(whole_N, 3 * best_N)
  monkeypatch.setattr(kmeans, "_CHUNK", 10)
  np.testing.assert_array_equal(kmeans.assign(embedding_NE, center_LE), whole_N)


def test_a_row_between_two_centers_goes_to_the_first():
  center_LE = np.eye(3, dtype=np.float32)
  rows = np.array([[0, 1, 1], [1, 0, 1], [0, 0, 0]], np.float32)
  np.testing.assert_array_equal(kmeans.assign(rows, center_LE), [1, 0, 0])


@pytest.mark.parametrize("num_clusters", [0, 141])
def test_more_clusters_than_documents_are_refused(blobs, num_clusters):
  with pytest.raises(UserError, match="1 to 140"):
    kmeans.fit(blobs[0], num_clusters=num_clusters, seed=0)


def test_equal_rows_are_clustered_without_a_warning():
  rows = np.repeat(np.eye(3, 2, dtype=np.float32)[:2], 5, axis=0)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = kmeans.fit(rows, num_clusters=4, seed=0)
  of_N = kmeans.assign(rows, found.center_LE)
  assert len(set(of_N[:5])) == len(set(of_N[5:])) == 1 and of_N[0] != of_N[5]


def test_offsets_are_added_to_products_of_directions():
  center_LE = np.array([[3.0, 0.0], [0.0, 1.0]])
  row_NE = np.array([[1.0, 1.0], [0.1, 0.1], [0.0, 9.0]])
  offset_L = np.array([0.0, 1.6])
  # 3 / sqrt(2) = 2.12 against 0.71 + 1.6, whatever the length.
  found = kmeans.assign(row_NE, center_LE, offset_L)
  assert found.tolist() == [1, 1, 1]
  assert kmeans.assign(row_NE, center_LE).tolist() == [0, 0, 1]
