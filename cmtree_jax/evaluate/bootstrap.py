"""Intervals by drawing again what was drawn: questions of a set, or recipes.

D counts resamples and N what is resampled.
"""

from collections.abc import Callable

import numpy as np

from cmtree_jax.evaluate.statistics import Interval

_DRAWS = 2000
_SEED = 0  # equal results have equal intervals


def interval(
  statistic: Callable[[np.ndarray], np.ndarray],
  size: int,
  *,
  confidence: float = 0.95,
) -> Interval:
  """A statistic with its percentile interval under resampling with replacement.

  Args:
    statistic: counts [D, N], how often each is in a resample -> values [D]; NaN where
      a resample has none.
    size: N.
    confidence: the share of resamples inside.
  Returns:
    The interval, the same for the same input; around the statistic of the sample.

  >>> few = np.array([0.0, 1.0, 1.0, 0.0])
  >>> interval(lambda count_DN: count_DN @ few / 4, 4)
  Interval(mean=0.5, low=0.0, high=1.0)
  """
  rng = np.random.default_rng(_SEED)
  count_DN = rng.multinomial(size, np.full(size, 1 / size), _DRAWS)
  with np.errstate(invalid="ignore", divide="ignore"):
    mean = float(statistic(np.ones((1, size)))[0])
    found_D = statistic(count_DN.astype(np.float64))
  found_D = found_D[~np.isnan(found_D)]
  if not len(found_D):
    return Interval(mean, float("nan"), float("nan"))
  tail = (1 - confidence) / 2
  low, high = np.quantile(found_D, (tail, 1 - tail))
  return Interval(mean, float(low), float(high))


def ratio(above_N: np.ndarray, below_N: np.ndarray | None = None) -> Interval:
  """The sum of one over the sum of another, as bits per byte; a mean without it."""
  over_N = np.ones(len(above_N)) if below_N is None else below_N
  return interval(
    lambda count_DN: (count_DN @ above_N) / (count_DN @ over_N), len(above_N)
  )
