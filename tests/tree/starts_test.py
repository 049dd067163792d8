"""The start of a tree: known blobs, CRISP by hand, determinism."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.embed import kmeans
from cmtree_jax.tree import mixture, model, penalties, starts
from cmtree_jax.tree.mixture import Sample

SIZES = (20, 30, 10, 40)
TARGET_SIZES = (6, 0, 2, 2)
ANGLE = functools.partial(starts.principal_angle, angle_dim=3)


def cluster(points, mass_N, count):
  fitted = kmeans.fit(points, num_clusters=count, seed=0, mass_N=mass_N)
  return fitted.center_LE


def blobs(sizes, seed):
  """Documents around four directions: two far apart, each in two halves."""
  center = np.zeros((4, 6))
  center[:2, 0], center[2:, 1] = 1.0, 1.0
  center[[0, 2], 2], center[[1, 3], 2] = 0.5, -0.5
  blob_N = np.repeat(np.arange(4), sizes)
  noise = np.random.default_rng(seed).normal(0, 0.02, (len(blob_N), 6))
  return (center[blob_N] + noise).astype(np.float32), blob_N


def start(features, mass_N, *, oblivious=False, kappa=200.0, branching=(2, 2)):
  return starts.grow(
    Sample(features, mass_N),
    starts.Form(branching, oblivious),
    kappa=kappa,
    angle=ANGLE,
    cluster=cluster,
  )


@pytest.fixture(scope="module")
def corpus():
  features, blob_N = blobs(SIZES, 0)
  mass_N = np.random.default_rng(1).uniform(0.5, 1.5, len(blob_N))
  return features, mass_N / mass_N.sum(), blob_N


@pytest.fixture(scope="module")
def target():
  features, blob_N = blobs(TARGET_SIZES, 2)
  return features, np.full(len(blob_N), 0.1), blob_N


def test_every_leaf_is_one_blob(corpus):
  features, mass_N, blob_N = corpus
  leaf_N = np.argmax(model.log_p_leaf(start(features, mass_N), features), 1)
  pairs = set(zip(leaf_N.tolist(), blob_N.tolist(), strict=True))
  assert len(pairs) == 4 == len({leaf for leaf, _ in pairs})
  # The first cut is the one between the two far pairs.
  assert {b // 2 for leaf, b in pairs if leaf < 2} in ({0}, {1})


def test_deeper_nodes_get_the_documents_that_reach_them(corpus):
  features, mass_N, _ = corpus
  reached = []

  def record(points, point_mass_N, count):
    reached.append(point_mass_N.sum())
    return cluster(points, point_mass_N, count)

  starts.grow(
    Sample(features, mass_N),
    starts.Form((2, 2, 2)),
    kappa=200.0,
    angle=ANGLE,
    cluster=record,
  )
  leaf_N = np.argmax(model.log_p_leaf(start(features, mass_N), features), 1)
  expected = np.bincount(leaf_N, mass_N)
  np.testing.assert_allclose(reached[-4:], expected, rtol=1e-6)
  assert np.ptp(np.sort(expected)[1:3]) > 0.01  # their order shows


def test_angles_are_orthonormal_and_start_with_the_widest_direction(corpus):
  features, mass_N, _ = corpus
  root, below = start(features, mass_N)
  for level in (root, below):
    np.testing.assert_allclose(
      level.angle_PE @ level.angle_PE.T, np.eye(3), atol=1e-5
    )
  # Within the root's children only the third coordinate varies.
  np.testing.assert_allclose(np.abs(below.angle_PE[0, 2]), 1.0, atol=1e-2)
  assert penalties.angle_overlap((root, below)) < 1
  np.testing.assert_allclose(np.exp(root.log_kappa), 200.0, rtol=1e-5)


@pytest.mark.parametrize("oblivious", [False, True])
def test_shapes_and_zero_tilt(corpus, oblivious):
  features, mass_N, _ = corpus
  root, below = start(features, mass_N, oblivious=oblivious, branching=(2, 3))
  assert root.prototype_MCP.shape == (1, 2, 3)
  assert below.prototype_MCP.shape == (1 if oblivious else 2, 3, 3)
  assert root.tilt_MC.shape == (1, 2)
  assert below.tilt_MC.shape == (2, 3)
  assert not np.any(root.tilt_MC) and not np.any(below.tilt_MC)


def test_starts_are_equal_bit_by_bit(corpus):
  features, mass_N, _ = corpus
  for one, two in zip(
    start(features, mass_N), start(features, mass_N), strict=True
  ):
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_on_hard_leaves_the_weights_are_ratios_of_counts(corpus, target):
  features, mass_N, blob_N = corpus
  # With so sharp a cut each document is in one leaf, to 1e-6.
  theta = starts.with_similarity_tilts(
    start(features, mass_N, kappa=1e4),
    Sample(features, mass_N),
    Sample(*target[:2]),
    smoothing=0.01,
  )
  log_p_NL = model.log_p_leaf(theta, features)
  log_w_L = mixture.weigh(
    mixture.leaf_tilt(theta), log_p_NL, mass_N, max_weight=1e9
  )
  w_N = np.exp(mixture.document_log_w(log_p_NL, log_w_L))
  share_K = np.bincount(blob_N, mass_N)
  ratio_K = 0.99 * np.array(TARGET_SIZES) / 10 / share_K + 0.01
  np.testing.assert_allclose(w_N, ratio_K[blob_N], rtol=1e-4)


@pytest.mark.parametrize("max_weight", [1.2, 1e9])
def test_on_soft_leaves_the_weights_are_crisp(corpus, target, max_weight):
  features, mass_N, _ = corpus
  theta = starts.with_similarity_tilts(
    start(features, mass_N, kappa=4.0, branching=(2, 3)),
    Sample(features, mass_N),
    Sample(*target[:2]),
  )
  p_NL = np.exp(model.log_p_leaf(theta, features), dtype=np.float64)
  p_target_NL = np.exp(model.log_p_leaf(theta, target[0]), dtype=np.float64)
  q_L, r_L = mass_N @ p_NL, target[1] @ p_target_NL
  ratio_L = 0.999 * r_L / q_L + 0.001
  np.testing.assert_allclose(
    np.exp(mixture.leaf_tilt(theta)), ratio_L, rtol=1e-5
  )
  log_w_L = mixture.leaf_log_w(
    mixture.leaf_tilt(theta), jnp.log(q_L), max_weight=max_weight
  )
  # With the cap, what the top leaves lose is shared by the others.
  for _ in range(6):
    free_L = ratio_L < max_weight
    left = 1 - max_weight * q_L[~free_L].sum()
    ratio_L = np.where(
      free_L, ratio_L * left / (q_L * ratio_L)[free_L].sum(), max_weight
    )
  np.testing.assert_allclose(np.exp(log_w_L), ratio_L, rtol=1e-5)


def test_the_target_alone_changes_tilts_alone(corpus, target):
  features, mass_N, _ = corpus
  before = start(features, mass_N)
  after = starts.with_similarity_tilts(
    before, Sample(features, mass_N), Sample(*target[:2])
  )
  for one, two in zip(before, after, strict=True):
    np.testing.assert_array_equal(one.angle_PE, two.angle_PE)
    np.testing.assert_array_equal(one.prototype_MCP, two.prototype_MCP)
    assert np.abs(two.tilt_MC).max() > 0.01


def test_an_oblivious_level_cuts_what_those_above_left():
  # Two independent signs; the first spreads documents more than the second.
  rng = np.random.default_rng(0)
  sign_N2 = rng.choice([-1.0, 1.0], (400, 2))
  features = np.concatenate([sign_N2 * [3, 2], np.ones((400, 1))], axis=1)
  features += 0.01 * rng.normal(size=features.shape)
  theta = starts.grow(
    Sample(features, np.full(400, 1 / 400)),
    starts.Form((2, 2), oblivious=True),
    kappa=200.0,
    angle=functools.partial(starts.principal_angle, angle_dim=1),
    cluster=lambda points, mass, count: np.array([[-1.0], [1.0]]),
  )
  log_p_NL = model.log_p_leaf(theta, jnp.asarray(features, jnp.float32))
  leaf_N = np.argmax(np.asarray(log_p_NL), axis=1)
  for sign in range(2):
    cut_N = (leaf_N // 2, leaf_N % 2)[sign]
    assert len(set(zip(cut_N, sign_N2[:, sign], strict=True))) == 2


def test_the_weights_of_several_targets_are_the_mean_of_those_of_each(corpus):
  features, mass_N, blob_N = corpus
  theta = start(features, mass_N, kappa=1e4)
  sample = Sample(features, mass_N)
  targets = [Sample(features[blob_N == k], mass_N[blob_N == k]) for k in (0, 3)]
  each = [starts.with_similarity_tilts(theta, sample, one) for one in targets]
  together = mixture.stacked(each)
  log_p_NL = model.log_p_leaf(theta, features)

  def weights(theta, limit):
    tilt_L = mixture.leaf_tilt(theta)
    log_w_L = mixture.weigh(tilt_L, log_p_NL, mass_N, max_weight=limit)
    return np.exp(mixture.document_log_w(log_p_NL, log_w_L))

  limit = 2.0  # reached by both
  found_N = weights(starts.merged(together, sample, max_weight=limit), 1e9)
  expected_N = np.mean([weights(one, limit) for one in each], axis=0)
  np.testing.assert_allclose(found_N, expected_N, rtol=1e-4)
  np.testing.assert_allclose(mass_N @ found_N, 1.0, rtol=1e-5)


def test_a_cut_too_sharp_for_float32_is_refused():
  with pytest.raises(ValueError, match="kappa = 1e\\+30 must be at most 10000"):
    starts.Start(kappa=1e30)
