"""Which views levels see: shares by hand, and what mixing them is charged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import views
from cmtree_jax.tree.mixture import Sample

BLOCKS = (("one", 0, 2), ("two", 2, 5))
MASKS = views.masks(BLOCKS, 5)


def with_angles(theta, *angles):
  return tuple(
    level._replace(angle_PE=jnp.asarray(angle_PE, jnp.float32))
    for level, angle_PE in zip(theta, angles, strict=True)
  )


def split(root, below):
  """Angles that give the first view these shares, if all features vary alike."""
  return [
    np.diag([share, 0, 1 - share, 0, 0])[[0, 2]] ** 0.5
    for share in (root, below)
  ]


def shares(theta, variance_E=(1, 1, 1, 1, 1)):
  return views.level_shares(
    theta, jnp.diag(jnp.array(variance_E, float)), MASKS
  )


def test_masks_are_those_of_the_blocks():
  assert {name: mask.tolist() for name, mask in MASKS.items()} == {
    "one": [1, 1, 0, 0, 0],
    "two": [0, 0, 1, 1, 1],
  }
  assert views.masks([("all", 0, 5)], 5) == {}


def test_the_covariance_is_that_about_the_mean():
  rng = np.random.default_rng(0)
  x_NE, mass_N = rng.normal(3.0, 1.0, (50, 5)), rng.uniform(size=50)
  found = views.scatter(Sample(x_NE, jnp.asarray(mass_N)))
  np.testing.assert_allclose(
    found, np.cov(x_NE.T, aweights=mass_N, ddof=0), atol=1e-5
  )


def test_a_share_is_that_of_the_variance_that_is_projected(random_tree):
  theta = random_tree(0)
  x_NE = np.random.default_rng(1).normal(size=(400, 5)) * [1, 5, 2, 0, 3]
  sample = Sample(jnp.asarray(x_NE), jnp.full(400, 1 / 400))
  found = views.level_shares(theta, views.scatter(sample), MASKS)
  for depth, level in enumerate(theta):
    spread = [
      np.var(x_NE[:, start:stop] @ level.angle_PE[:, start:stop].T, axis=0)
      for _, start, stop in BLOCKS
    ]
    spread = np.sum(spread, axis=1)
    for name, share in zip(MASKS, spread / spread.sum(), strict=True):
      np.testing.assert_allclose(found[name][depth], share, rtol=1e-4)


def test_the_scale_of_an_angle_and_what_never_varies_say_nothing(random_tree):
  theta = with_angles(random_tree(0), *split(0.3, 0.8))
  plain = shares(theta)
  np.testing.assert_allclose(plain["one"], [0.3, 0.8], rtol=1e-5)
  larger = with_angles(theta, *(9 * level.angle_PE for level in theta))
  np.testing.assert_allclose(shares(larger)["one"], plain["one"], rtol=1e-5)
  constant = np.array(theta[0].angle_PE)
  constant[:, 4] = 100.0
  flat = shares(
    with_angles(theta, constant, theta[1].angle_PE), (1, 1, 1, 1, 0)
  )
  np.testing.assert_allclose(flat["one"], plain["one"], rtol=1e-5)


@pytest.mark.parametrize(
  ("root", "below", "expected"),
  [
    (1.0, 0.0, 0.0),
    (0.5, 0.5, 1.0),
    (1.0, 0.5, 0.5),
    (0.2, 1.0, (0.2**0.5 + 0.8**0.5 - 1) / (2**0.5 - 1) / 2),
  ],
)
def test_mixing_is_none_for_one_view_each_and_one_for_equal_shares(
  random_tree, root, below, expected
):
  theta = with_angles(random_tree(0), *split(root, below))
  found = views.mixing(shares(theta))
  np.testing.assert_allclose(found, expected, atol=0.05)


def test_mixing_pushes_out_the_view_that_a_level_sees_less_of(random_tree):
  theta = with_angles(random_tree(0), *split(0.2, 0.9))
  for _ in range(200):
    slope = jax.grad(lambda theta: views.mixing(shares(theta)))(theta)
    theta = jax.tree.map(lambda x, d: x - 0.1 * d, theta, slope)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(theta))
  root, below = shares(theta)["one"]
  assert root < 0.01 and below > 0.99


def test_levels_are_named_from_one(random_tree):
  found = views.by_level(shares(with_angles(random_tree(0), *split(0.3, 0.8))))
  assert {name: round(float(share), 2) for name, share in found.items()} == {
    "level_1.one": 0.3,
    "level_1.two": 0.7,
    "level_2.one": 0.8,
    "level_2.two": 0.2,
  }
