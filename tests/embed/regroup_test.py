"""Ward's merging against scipy and by hand; planted groups of blobs."""

import numpy as np
import pytest
import scipy.cluster.hierarchy
import sklearn.metrics

from cmtree_jax.embed import kmeans, regroup
from cmtree_jax.types import UserError

SIZES = (30, 10, 50, 20, 40, 15)  # documents of six blobs in three groups
GROUP = np.array([0, 0, 1, 1, 2, 2])


@pytest.fixture(scope="module")
def blobs():
  """Pairs of blobs around three directions: near in a pair, far from others."""
  rng = np.random.default_rng(0)
  blob_N = np.repeat(np.arange(6), SIZES)
  center_KE = np.eye(3, 8)[GROUP]
  center_KE[np.arange(6), 3 + GROUP] = np.tile([0.4, -0.4], 3)
  noise_NE = rng.normal(0, 0.02, (len(blob_N), 8))
  return (center_KE[blob_N] + noise_NE).astype(np.float32), blob_N


def agree(one_N, two_N):
  return sklearn.metrics.adjusted_rand_score(one_N, two_N) == 1


def test_fine_clusters_of_a_group_are_merged(blobs):
  embedding_NE, blob_N = blobs
  found = regroup.fit(embedding_NE, num_fine=6, num_groups=3, seed=0)
  group_N = regroup.assign(embedding_NE, found)
  assert agree(group_N, GROUP[blob_N])
  assert found.group_F.dtype == np.int32
  # Heaviest first: groups hold 70, 55 and 40 documents.
  np.testing.assert_array_equal(np.bincount(group_N), [70, 55, 40])


def test_a_group_need_not_be_convex(blobs):
  # Each document goes to the group of its nearest fine center, which need not be
  # the group of the nearest mean.
  del blobs
  center_FE = np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
  found = regroup.Regrouped(center_FE, np.array([0, 1, 0], np.int32))
  rows = np.array([[-2.0, 0.1], [0.1, 3.0], [0.5, 0.1]])
  np.testing.assert_array_equal(regroup.assign(rows, found), [0, 1, 0])


def test_equal_masses_give_scipys_linkage():
  rng = np.random.default_rng(1)
  center_FE = rng.normal(size=(40, 5))
  linkage = scipy.cluster.hierarchy.linkage(center_FE, method="ward")
  for num_groups in (1, 2, 7, 25, 40):
    expected_F = scipy.cluster.hierarchy.cut_tree(linkage, num_groups)[:, 0]
    found_F = regroup.merge(center_FE, num_groups=num_groups)
    assert agree(found_F, expected_F)
    assert set(found_F) == set(range(num_groups))


def test_groups_are_numbered_by_mass():
  center_FE = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.1]])
  mass_F = np.array([5.0, 3.0, 3.0])
  group_F = regroup.merge(center_FE, mass_F, num_groups=2)
  np.testing.assert_array_equal(group_F, [1, 0, 0])


def test_two_centers_are_as_far_as_their_masses_say():
  # d^2 = 2 m m' / (m + m') |c - c'|^2: 6 of the first two, x^2 of the last two.
  mass_F = np.array([3.0, 1.0, 1.0])
  for x, expected_F in (
    (np.sqrt(6) - 1e-6, [0, 1, 1]),
    (np.sqrt(6) + 1e-6, [0, 0, 1]),
  ):
    center_FE = np.array([[0.0], [2.0], [2 + x]])
    group_F = regroup.merge(center_FE, mass_F, num_groups=2)
    np.testing.assert_array_equal(group_F, expected_F)


def test_mass_counts_as_repetition():
  # Copies merge first, at no distance; then the rest follows as with masses.
  rng = np.random.default_rng(2)
  center_FE = rng.normal(size=(30, 3))
  mass_F = rng.integers(1, 9, 30)
  copy_F = np.repeat(np.arange(30), mass_F)
  linkage = scipy.cluster.hierarchy.linkage(center_FE[copy_F], method="ward")
  differs = 0
  for num_groups in (2, 5, 11, 20):
    expected_C = scipy.cluster.hierarchy.cut_tree(linkage, num_groups)[:, 0]
    found_F = regroup.merge(
      center_FE, mass_F.astype(float), num_groups=num_groups
    )
    assert agree(found_F[copy_F], expected_C)
    equal_F = regroup.merge(center_FE, num_groups=num_groups)
    differs += not agree(found_F, equal_F)
  assert differs  # else the masses would not have mattered


def test_more_groups_than_clusters_are_refused(blobs):
  with pytest.raises(UserError, match="1 to 6"):
    regroup.fit(blobs[0], num_fine=6, num_groups=7, seed=0)


def test_the_silhouette_finds_the_number_of_blobs(blobs):
  embedding_NE, _ = blobs
  # Blobs of a pair are near, but far from each other for their own size.
  assert regroup.choose_num_clusters(embedding_NE, (2, 4, 6, 9), seed=0) == 6
  assert regroup.choose_num_clusters(embedding_NE, (2, 3), seed=0) == 3
  few = regroup.choose_num_clusters(
    embedding_NE, (2, 3, 6, 20), seed=0, sample=60
  )
  assert few == 6


def test_the_silhouette_is_that_of_cosines(blobs):
  # Lengths do not matter: the scores of long and short rows are equal.
  embedding_NE, _ = blobs
  length_N = np.random.default_rng(1).uniform(0.1, 9, (len(embedding_NE), 1))
  long_NE = (embedding_NE * length_N).astype(np.float32)
  assert regroup.choose_num_clusters(long_NE, (2, 4, 6, 9), seed=0) == 6


def test_documents_without_mass_do_not_vote(blobs):
  embedding_NE, blob_N = blobs
  mass_N = np.where(blob_N < 4, 1.0, 0.0)  # two groups, four blobs
  assert (
    regroup.choose_num_clusters(
      embedding_NE, (2, 4, 6), seed=0, mass_N=mass_N, sample=80
    )
    == 4
  )


def test_one_cluster_has_no_silhouette(blobs):
  with pytest.raises(UserError, match="above 1"):
    regroup.choose_num_clusters(blobs[0], (1, 2), seed=0)
  # More clusters than sampled documents: not defined, so not chosen.
  assert regroup.choose_num_clusters(blobs[0], (30, 2), seed=0, sample=8) == 2


def test_fine_centers_are_those_of_k_means(blobs):
  embedding_NE, _ = blobs
  fine = kmeans.fit(embedding_NE, num_clusters=9, seed=3)
  found = regroup.fit(embedding_NE, num_fine=9, num_groups=4, seed=3)
  np.testing.assert_array_equal(found.center_FE, fine.center_LE)
