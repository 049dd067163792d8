"""Quality at other budgets than the one that was trained for, read off a curve.

Losses fall about linearly in the logarithm of the tokens between budgets that are a
factor of two apart, so curves are joined by straight lines in it. Nothing is
extrapolated. F counts the budgets of a curve.
"""

import math
from typing import NamedTuple

import numpy as np

from cmtree_jax.evaluate.comparison import Values

# Budgets that agree to this share are the same: they come from sums of floats.
_SAME = 1e-9


class Reach(NamedTuple):
  """The budget at which a curve reaches a goal."""

  budget: float  # NaN: never on this curve
  at_most: bool  # the smallest budget of the curve is already enough


def reach(goal: float, budget_F: Values, bpb_F: Values) -> Reach:
  """The least budget that brings the bits per byte down to the goal.

  Args:
    goal: bits per byte.
    budget_F: tokens or FLOPs of trainings that are equal otherwise.
    bpb_F: what they reached.

  >>> reach(1.5, [100, 400], [2.0, 1.0])
  Reach(budget=200.0, at_most=False)
  """
  budget_F, bpb_F = _curve(budget_F, bpb_F)
  if bpb_F[0] <= goal:
    return Reach(float(budget_F[0]), True)
  below = np.flatnonzero(bpb_F <= goal)
  if not len(below):
    return Reach(math.nan, False)
  end = int(below[0])
  pair = slice(end - 1, end + 1)
  log_budget = np.interp(goal, bpb_F[pair][::-1], np.log(budget_F[pair])[::-1])
  return Reach(float(np.exp(log_budget)), False)


def at_budget(budget: float, budget_F: Values, bpb_F: Values) -> float:
  """Bits per byte of a curve at a budget; NaN outside of what was trained.

  >>> at_budget(200, [100, 400], [2.0, 1.0])
  1.5
  >>> at_budget(800, [100, 400], [2.0, 1.0])
  nan
  """
  budget_F, bpb_F = _curve(budget_F, bpb_F)
  low, high = budget_F[0] * (1 - _SAME), budget_F[-1] * (1 + _SAME)
  if not low <= budget <= high:
    return math.nan
  return float(np.interp(math.log(budget), np.log(budget_F), bpb_F))


def _curve(budget_F, bpb_F):
  budget_F = np.asarray(budget_F, np.float64)
  bpb_F = np.asarray(bpb_F, np.float64)
  if budget_F.shape != bpb_F.shape or budget_F.ndim != 1 or not budget_F.size:
    raise ValueError(
      "A curve needs as many budgets as values, got shapes "
      f"{budget_F.shape} and {bpb_F.shape}."
    )
  order = np.argsort(budget_F)
  return budget_F[order], bpb_F[order]
