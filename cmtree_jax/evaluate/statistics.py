"""Statistics of comparisons: how sure is a difference, and at what budget is it even?

Two recipes are compared seed by seed: runs that share a seed share the initial
parameters and the draws, so most of the noise cancels in the difference. S counts
seeds here, and bits per byte are better when lower.

Losses fall about linearly in the logarithm of the tokens between budgets that are a
factor of two apart, so a curve over F budgets is joined by straight lines in it.
Nothing is extrapolated.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Values = Sequence[float] | np.ndarray

# Budgets that agree to this share are the same: they come from sums of floats.
_SAME = 1e-9


class Interval(NamedTuple):
  """A mean with its confidence interval; without one, both ends are NaN."""

  mean: float
  low: float
  high: float


class Reach(NamedTuple):
  """The budget at which a curve reaches a goal."""

  budget: float  # NaN: never on this curve
  at_most: bool  # the smallest budget of the curve is already enough


def paired_difference(
  a_S: Values,
  b_S: Values,
  *,
  confidence: float = 0.95,
  search_S: Sequence[int] | None = None,
) -> Interval:
  r"""The mean of a - b over seeds, with Student's t interval.

  .. math:: \bar d \pm t_{(1+c)/2,\,S-1} \, s_d / \sqrt{S}, \quad d_s = a_s - b_s

  Args:
    a_S: one value per seed.
    b_S: of the same seeds, in the same order.
    confidence: c, the share of such intervals that hold the true difference.
    search_S: the search that each stands on. What the trainings of one search
      share does not average away with more of them, so where there are several
      searches each counts as one value. None: every seed is a value.
  Returns:
    The interval; its ends are NaN for a single seed, which says nothing about
    noise.

  >>> interval = paired_difference([1.0, 1.2, 1.1], [1.1, 1.2, 1.3])
  >>> [round(value, 4) for value in interval]
  [-0.1, -0.3484, 0.1484]
  """
  a_S, b_S = np.asarray(a_S, np.float64), np.asarray(b_S, np.float64)
  if a_S.shape != b_S.shape or a_S.ndim != 1 or not a_S.size:
    raise ValueError(
      "A paired comparison needs two equally long lists of values, one per"
      f" seed, got shapes {a_S.shape} and {b_S.shape}."
    )
  difference_S = a_S - b_S
  if search_S is not None and len(set(search_S)) > 1:
    _, group_S = np.unique(search_S, return_inverse=True)
    difference_S = np.bincount(group_S, difference_S) / np.bincount(group_S)
  mean = float(difference_S.mean())
  count = len(difference_S)
  spread = _t_times_deviation(difference_S, confidence) / math.sqrt(count)
  return Interval(mean, mean - spread, mean + spread)


def noise_floor(
  repeats_R: Values, *, seeds: int, confidence: float = 0.95
) -> float:
  r"""The difference that two means of `seeds` runs show by chance alone.

  .. math:: t_{(1+c)/2,\,R-1} \, s_R \sqrt{2 / S}

  Half the width of the interval of a difference of two independent means, from
  the spread of runs of one recipe. Pairing cancels part of this noise; a
  difference below the floor may still be one of the seeds, not of the recipes.

  Args:
    repeats_R: R runs of one recipe that differ in the seed alone.
    seeds: S, runs in each of the two means.
    confidence: c, the share of chance differences below the floor.
  Returns:
    The floor; NaN for a single run, which says nothing about noise.

  >>> noise_floor([1.0, 1.2, 1.1], seeds=3)
  0.3513
  """
  repeats_R = np.asarray(repeats_R, np.float64)
  return _t_times_deviation(repeats_R, confidence) * math.sqrt(2 / seeds)


def standard_error(bpb_CS: np.ndarray) -> float:
  r"""Of the paired difference of any two of C candidates over S shared seeds.

  .. math:: \hat\sigma \sqrt{2 / S}, \quad \hat\sigma^2 = \frac{
            \sum_{c,s} (x_{cs} - \bar x_c - \bar x_s + \bar x)^2}{(C-1)(S-1)}

  What a seed does to all candidates alike drops out. The residual variance is half
  the variance of a paired difference, averaged over all pairs of candidates, so it
  is known from few seeds if candidates are many (a randomized block design: Fisher
  1935). Two candidates give the error of `paired_difference`.

  Returns:
    The error; NaN for one candidate or one seed.

  >>> round(standard_error(np.array([[1.0, 1.2, 1.1], [1.1, 1.2, 1.3]])), 4)
  0.0577
  """
  candidates, seeds = bpb_CS.shape
  freedom = (candidates - 1) * (seeds - 1)
  if not freedom:
    return math.nan
  residual_CS = (
    bpb_CS
    - bpb_CS.mean(axis=1, keepdims=True)
    - bpb_CS.mean(axis=0, keepdims=True)
    + bpb_CS.mean()
  )
  variance = float((residual_CS**2).sum()) / freedom
  return math.sqrt(2 * variance / seeds)


def pooled_floor(bpb_CS: np.ndarray, *, confidence: float = 0.95) -> float:
  r"""The difference that two of C candidates show by chance alone, S seeds each.

  .. math:: t_{(1+c)/2,\,(C-1)(S-1)} \, \hat\sigma \sqrt{2 / S}

  with the error of `standard_error`.

  Args:
    bpb_CS: candidates that were trained with the same seeds.
    confidence: c, the share of chance differences below the floor.
  Returns:
    The floor; NaN for one candidate or one seed.
  """
  error = standard_error(bpb_CS)
  if math.isnan(error):
    return error
  from scipy import stats

  freedom = (bpb_CS.shape[0] - 1) * (bpb_CS.shape[1] - 1)
  return float(stats.t.ppf((1 + confidence) / 2, freedom)) * error


def verdict(difference: Interval, floor: float) -> str:
  """What a difference in bits per byte shows: a word for tables.

  Better or worse only if the interval excludes zero and the mean is beyond the
  noise floor.

  >>> verdict(Interval(-0.03, -0.04, -0.02), 0.01)
  'better'
  """
  if math.isnan(difference.low) or math.isnan(floor):
    return "one seed"
  if difference.high < 0 and difference.mean < -floor:
    return "better"
  if difference.low > 0 and difference.mean > floor:
    return "worse"
  return "no difference"


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


def _t_times_deviation(values_S: np.ndarray, confidence: float) -> float:
  if len(values_S) < 2:
    return math.nan
  from scipy import stats

  quantile = stats.t.ppf((1 + confidence) / 2, len(values_S) - 1)
  return float(quantile * values_S.std(ddof=1))


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
