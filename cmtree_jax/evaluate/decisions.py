"""Decision accuracy: how often do small trainings rank recipes as large ones do?

R counts recipes, S the seeds of each; all scores are better when lower.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.evaluate import bootstrap, statistics
from cmtree_jax.evaluate.statistics import Interval


class Decisions(NamedTuple):
  """Shares of pairs of recipes that are ranked alike, with intervals over recipes."""

  all: Interval
  beyond: (
    Interval  # of pairs that differ beyond the noise of the large trainings
  )
  within_noise: (
    float  # the share of the others; NaN: one seed tells of no noise
  )


def decisions(small_R: np.ndarray, large_RS: np.ndarray) -> Decisions:
  r"""Decisions of small trainings, judged by large ones.

  .. math:: \frac{1}{|P|} \sum_{(i, j) \in P}
            \mathbb{1}[\mathrm{sign}(a_i - a_j) = \mathrm{sign}(b_i - b_j)]

  over pairs P, with the scores a of small trainings and b of large ones. A tie on
  either side counts a half, as a coin would. The noise of the large trainings is
  `statistics.pooled_floor`. Intervals resample recipes, not pairs: those of one recipe
  stand and fall together.

  Args:
    small_R: one score of each recipe.
    large_RS: of the same recipes; their means over seeds are ranked.
  References:
    Magnusson et al., `DataDecide <https://arxiv.org/abs/2504.11393>`_, 2025.
  """
  large_R = large_RS.mean(axis=1)
  small_RR, large_RR = (x[:, None] - x for x in (small_R, large_R))
  alike_RR = (1 + np.sign(small_RR) * np.sign(large_RR)) / 2
  pairs_RR = 1.0 - np.eye(len(small_R))
  floor = statistics.pooled_floor(large_RS)
  beyond_RR = (np.abs(large_RR) > floor) * pairs_RR
  known = not np.isnan(floor)
  return Decisions(
    _share(alike_RR, pairs_RR),
    _share(alike_RR, beyond_RR),
    float(1 - beyond_RR.sum() / pairs_RR.sum()) if known else float("nan"),
  )


def _share(alike_RR: np.ndarray, pairs_RR: np.ndarray) -> Interval:
  """Of these pairs; without any, NaN."""

  def statistic(count_DR):
    won_D, all_D = (
      np.einsum("dr,dr->d", count_DR @ of_RR, count_DR)
      for of_RR in (alike_RR * pairs_RR, pairs_RR)
    )
    return won_D / all_D

  return bootstrap.interval(statistic, len(pairs_RR))
