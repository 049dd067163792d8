"""Whether a target is in a pool: divergence, neighbors, and what chance would do."""

import numpy as np
import pytest

from cmtree_jax.evaluate import presence


def placed(domain_M, domains):
  return np.eye(domains)[domain_M] * 100.0


def features(rng, center_E, size):
  return center_E + 0.1 * rng.normal(size=(size, len(center_E)))


def test_a_target_that_is_a_sample_of_the_pool_differs_by_chance_alone():
  rng = np.random.default_rng(0)
  pool_K = np.array([0.4, 0.3, 0.2, 0.1])
  found = []
  for _ in range(200):
    target_MK = placed(rng.choice(4, 50, p=pool_K), 4)
    target_ME = rng.normal(size=(50, 3))
    found.append(
      presence.of(target_MK, pool_K, target_ME, rng.normal(size=(9, 3)))
    )
  assert found[0].kl_of_chance == pytest.approx(3 / 100)
  mean = np.mean([one.kl for one in found])
  assert mean == pytest.approx(found[0].kl_of_chance, rel=0.2)


def test_divergence_is_that_of_the_domains():
  domain_M = np.repeat([0, 1], [3000, 1000])
  pool_K, pool_NE = np.array([0.1, 0.9]), np.ones((4000, 2))
  found = presence.of(placed(domain_M, 2), pool_K, np.ones((4000, 2)), pool_NE)
  expected = 0.75 * np.log(7.5) + 0.25 * np.log(0.25 / 0.9)
  assert found.kl == pytest.approx(expected, rel=2e-3)  # smoothed
  assert found.share == 1  # nine tenths of the target are in both


def test_what_the_pool_lacks_is_far_from_it_and_what_it_has_is_near():
  rng = np.random.default_rng(0)
  axes = np.eye(8)
  pool_NE = features(rng, axes[0], 300)
  pool_K = np.array([0.999, 0.001, 0.0])
  there = presence.of(
    placed(np.zeros(40, int), 3), pool_K, features(rng, axes[0], 40), pool_NE
  )
  absent = presence.of(
    placed(np.ones(40, int), 3), pool_K, features(rng, axes[1], 40), pool_NE
  )
  assert there.kl < 0.1 < 3 < absent.kl
  assert there.share == pytest.approx(0.999)
  assert absent.share == pytest.approx(0.001)
  assert there.nearest > 0.9 > 0.5 > absent.nearest
  # Three hundred documents have a nearer one than thirty-nine texts.
  assert there.nearer > 0.7
  assert absent.nearer == 0
  assert there.texts == absent.texts == 40
