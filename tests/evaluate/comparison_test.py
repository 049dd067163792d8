"""Intervals against scipy, tables of Student's t, and simulated coverage."""

import math

import numpy as np
import pytest
import scipy.stats

from cmtree_jax.evaluate import comparison

A = [1.31, 1.28, 1.35, 1.30, 1.27]
B = [1.33, 1.29, 1.36, 1.33, 1.30]


def test_the_interval_is_scipys():
  test = scipy.stats.ttest_rel(A, B)
  for confidence in (0.8, 0.95):
    interval = comparison.paired_difference(A, B, confidence=confidence)
    low, high = test.confidence_interval(confidence)
    np.testing.assert_allclose(interval, (-0.02, low, high), rtol=1e-12)


def test_two_seeds_use_the_tabulated_quantile():
  interval = comparison.paired_difference([1.0, 3.0], [0.0, 0.0])
  # t(.975, 1) = 12.706, the deviation is sqrt 2, divided by sqrt 2.
  np.testing.assert_allclose(interval, (2, 2 - 12.706, 2 + 12.706), rtol=1e-4)


def test_what_seeds_share_cancels():
  shared = np.array([0.0, 5.0, -3.0, 1.0, 2.0])
  alone = comparison.paired_difference(A, B)
  with_shared = comparison.paired_difference(A + shared, B + shared)
  np.testing.assert_allclose(with_shared, alone, atol=1e-12)


def test_exchanging_the_two_mirrors_the_interval():
  forth = comparison.paired_difference(A, B)
  back = comparison.paired_difference(B, A)
  assert back == (-forth.mean, -forth.high, -forth.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  held = 0
  for difference_S in rng.normal(0.3, 1.0, (1000, 4)):
    interval = comparison.paired_difference(
      difference_S, np.zeros(4), confidence=0.9
    )
    held += interval.low <= 0.3 <= interval.high
  assert abs(held / 1000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 1000)


def test_one_seed_has_a_mean_and_no_interval():
  interval = comparison.paired_difference([1.5], [1.25])
  assert interval.mean == 0.25
  assert math.isnan(interval.low)
  assert math.isnan(interval.high)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([], []), ([[1]], [[2]])])
def test_what_cannot_be_paired_is_told(a, b):
  with pytest.raises(ValueError, match="equally long"):
    comparison.paired_difference(np.array(a), np.array(b))


def test_chance_differences_stay_below_the_noise_floor_as_often_as_it_says():
  rng = np.random.default_rng(0)
  below = 0
  for _ in range(2000):
    floor = comparison.noise_floor(
      rng.normal(1.0, 0.3, 4), seeds=3, confidence=0.9
    )
    a_S, b_S = rng.normal(1.0, 0.3, (2, 3))
    below += abs(a_S.mean() - b_S.mean()) < floor
  assert abs(below / 2000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 2000)


def test_the_noise_floor_by_hand():
  # t(.975, 2) = 4.3027, the deviation is 0.1, two means of two runs.
  floor = comparison.noise_floor([1.0, 1.2, 1.1], seeds=2)
  assert floor == pytest.approx(0.43027, rel=1e-4)
  assert math.isnan(comparison.noise_floor([1.0], seeds=2))


@pytest.mark.parametrize(
  ("interval", "floor", "word"),
  [
    ((-0.03, -0.04, -0.02), 0.01, "better"),
    ((-0.03, -0.04, -0.02), 0.05, "no difference"),
    ((-0.03, -0.07, 0.01), 0.01, "no difference"),
    ((0.03, 0.02, 0.04), 0.01, "worse"),
    ((0.03, 0.02, 0.04), 0.05, "no difference"),
    ((0.03, -0.01, 0.07), 0.01, "no difference"),
    ((0.03, math.nan, math.nan), 0.01, "one seed"),
    ((0.03, 0.02, 0.04), math.nan, "one seed"),
  ],
)
def test_a_verdict_needs_interval_and_floor(interval, floor, word):
  assert comparison.verdict(comparison.Interval(*interval), floor) == word
