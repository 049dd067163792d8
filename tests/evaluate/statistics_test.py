"""Intervals against scipy, tables of t and simulated coverage; budgets off curves."""

import math

import numpy as np
import pytest
import scipy.stats

from cmtree_jax.evaluate import statistics

A = [1.31, 1.28, 1.35, 1.30, 1.27]
B = [1.33, 1.29, 1.36, 1.33, 1.30]
TOKENS = [100, 200, 400, 800]
BPB = [2.0, 1.7, 1.5, 1.45]  # straight lines in log tokens between them


def test_the_interval_is_scipys():
  test = scipy.stats.ttest_rel(A, B)
  for confidence in (0.8, 0.95):
    interval = statistics.paired_difference(A, B, confidence=confidence)
    low, high = test.confidence_interval(confidence)
    np.testing.assert_allclose(interval, (-0.02, low, high), rtol=1e-12)


def test_two_seeds_use_the_tabulated_quantile():
  interval = statistics.paired_difference([1.0, 3.0], [0.0, 0.0])
  # t(.975, 1) = 12.706, the deviation is sqrt 2, divided by sqrt 2.
  np.testing.assert_allclose(interval, (2, 2 - 12.706, 2 + 12.706), rtol=1e-4)


def test_what_seeds_share_cancels():
  shared = np.array([0.0, 5.0, -3.0, 1.0, 2.0])
  alone = statistics.paired_difference(A, B)
  with_shared = statistics.paired_difference(A + shared, B + shared)
  np.testing.assert_allclose(with_shared, alone, atol=1e-12)


def test_exchanging_the_two_mirrors_the_interval():
  forth = statistics.paired_difference(A, B)
  back = statistics.paired_difference(B, A)
  assert back == (-forth.mean, -forth.high, -forth.low)


def test_intervals_hold_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(0)
  held = 0
  for difference_S in rng.normal(0.3, 1.0, (1000, 4)):
    interval = statistics.paired_difference(
      difference_S, np.zeros(4), confidence=0.9
    )
    held += interval.low <= 0.3 <= interval.high
  assert abs(held / 1000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 1000)


def test_one_seed_has_a_mean_and_no_interval():
  interval = statistics.paired_difference([1.5], [1.25])
  assert interval.mean == 0.25
  assert math.isnan(interval.low)
  assert math.isnan(interval.high)


@pytest.mark.parametrize(("a", "b"), [([1, 2], [1]), ([], []), ([[1]], [[2]])])
def test_what_cannot_be_paired_is_told(a, b):
  with pytest.raises(ValueError, match="equally long"):
    statistics.paired_difference(np.array(a), np.array(b))


def test_chance_differences_stay_below_the_noise_floor_as_often_as_it_says():
  rng = np.random.default_rng(0)
  below = 0
  for _ in range(2000):
    floor = statistics.noise_floor(
      rng.normal(1.0, 0.3, 4), seeds=3, confidence=0.9
    )
    a_S, b_S = rng.normal(1.0, 0.3, (2, 3))
    below += abs(a_S.mean() - b_S.mean()) < floor
  assert abs(below / 2000 - 0.9) < 4 * math.sqrt(0.9 * 0.1 / 2000)


def test_the_noise_floor_by_hand():
  # t(.975, 2) = 4.3027, the deviation is 0.1, two means of two runs.
  floor = statistics.noise_floor([1.0, 1.2, 1.1], seeds=2)
  assert floor == pytest.approx(0.43027, rel=1e-4)
  assert math.isnan(statistics.noise_floor([1.0], seeds=2))


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
  assert statistics.verdict(statistics.Interval(*interval), floor) == word


def test_the_two_readings_of_a_curve_are_inverse():
  for goal in (1.9, 1.7, 1.6, 1.46):
    budget, at_most = statistics.reach(goal, TOKENS, BPB)
    assert not at_most
    assert statistics.at_budget(budget, TOKENS, BPB) == pytest.approx(goal)


def test_halfway_in_the_logarithm_is_the_geometric_mean():
  assert statistics.at_budget(
    math.sqrt(100 * 200), TOKENS, BPB
  ) == pytest.approx(1.85)
  assert statistics.reach(1.6, TOKENS, BPB).budget == pytest.approx(
    math.sqrt(200 * 400)
  )


def test_a_loss_linear_in_log_tokens_is_read_exactly():
  tokens_F = np.array([50.0, 100.0, 300.0])
  bpb_F = 3 - 0.2 * np.log(tokens_F)
  goal = 3 - 0.2 * math.log(222)
  assert statistics.reach(goal, tokens_F, bpb_F).budget == pytest.approx(222)
  assert statistics.at_budget(222, tokens_F, bpb_F) == pytest.approx(goal)


def test_nothing_is_extrapolated():
  assert math.isnan(statistics.reach(1.4, TOKENS, BPB).budget)
  assert statistics.reach(2.5, TOKENS, BPB) == (100, True)
  assert statistics.reach(2.0, TOKENS, BPB) == (100, True)
  assert math.isnan(statistics.at_budget(99, TOKENS, BPB))
  assert math.isnan(statistics.at_budget(801, TOKENS, BPB))
  # The ends themselves are measured, also where a sum of floats missed them.
  assert statistics.at_budget(100 * (1 - 1e-12), TOKENS, BPB) == 2.0
  assert statistics.at_budget(800 * (1 + 1e-12), TOKENS, BPB) == 1.45


def test_the_first_crossing_counts_on_a_curve_that_turns():
  found = statistics.reach(1.5, [1, 2, 4, 8], [2.0, 1.5, 1.8, 1.2])
  assert found == pytest.approx((2.0, False))


def test_the_order_of_the_points_does_not_matter():
  backwards = TOKENS[::-1], BPB[::-1]
  assert statistics.reach(1.6, *backwards) == statistics.reach(1.6, TOKENS, BPB)
  assert statistics.at_budget(300, *backwards) == statistics.at_budget(
    300, TOKENS, BPB
  )


@pytest.mark.parametrize(("tokens", "bpb"), [([], []), ([1, 2], [1])])
def test_what_is_no_curve_is_told(tokens, bpb):
  with pytest.raises(ValueError, match="as many budgets"):
    statistics.reach(1.0, tokens, bpb)
