"""Budgets read off curves: power laws, ends, and what was not measured."""

import math

import numpy as np
import pytest

from cmtree_jax.evaluate import budgets

TOKENS = [100, 200, 400, 800]
BPB = [2.0, 1.7, 1.5, 1.45]  # straight lines in log tokens between them


def test_the_two_readings_of_a_curve_are_inverse():
  for goal in (1.9, 1.7, 1.6, 1.46):
    budget, at_most = budgets.reach(goal, TOKENS, BPB)
    assert not at_most
    assert budgets.at_budget(budget, TOKENS, BPB) == pytest.approx(goal)


def test_halfway_in_the_logarithm_is_the_geometric_mean():
  assert budgets.at_budget(math.sqrt(100 * 200), TOKENS, BPB) == pytest.approx(
    1.85
  )
  assert budgets.reach(1.6, TOKENS, BPB).budget == pytest.approx(
    math.sqrt(200 * 400)
  )


def test_a_loss_linear_in_log_tokens_is_read_exactly():
  tokens_F = np.array([50.0, 100.0, 300.0])
  bpb_F = 3 - 0.2 * np.log(tokens_F)
  goal = 3 - 0.2 * math.log(222)
  assert budgets.reach(goal, tokens_F, bpb_F).budget == pytest.approx(222)
  assert budgets.at_budget(222, tokens_F, bpb_F) == pytest.approx(goal)


def test_nothing_is_extrapolated():
  assert math.isnan(budgets.reach(1.4, TOKENS, BPB).budget)
  assert budgets.reach(2.5, TOKENS, BPB) == (100, True)
  assert budgets.reach(2.0, TOKENS, BPB) == (100, True)
  assert math.isnan(budgets.at_budget(99, TOKENS, BPB))
  assert math.isnan(budgets.at_budget(801, TOKENS, BPB))
  # The ends themselves are measured, also where a sum of floats missed them.
  assert budgets.at_budget(100 * (1 - 1e-12), TOKENS, BPB) == 2.0
  assert budgets.at_budget(800 * (1 + 1e-12), TOKENS, BPB) == 1.45


def test_the_first_crossing_counts_on_a_curve_that_turns():
  found = budgets.reach(1.5, [1, 2, 4, 8], [2.0, 1.5, 1.8, 1.2])
  assert found == pytest.approx((2.0, False))


def test_the_order_of_the_points_does_not_matter():
  backwards = TOKENS[::-1], BPB[::-1]
  assert budgets.reach(1.6, *backwards) == budgets.reach(1.6, TOKENS, BPB)
  assert budgets.at_budget(300, *backwards) == budgets.at_budget(
    300, TOKENS, BPB
  )


@pytest.mark.parametrize(("tokens", "bpb"), [([], []), ([1, 2], [1])])
def test_what_is_no_curve_is_told(tokens, bpb):
  with pytest.raises(ValueError, match="as many budgets"):
    budgets.reach(1.0, tokens, bpb)
