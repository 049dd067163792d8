"""How far a fit of runs can be trusted: it is done again on other runs.

R counts runs, D resamples.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

# (mixtures that were run, their losses, mixtures) -> losses that are predicted
Predict = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
# (mixtures that were run, their losses) -> the mixture that is best
Solve = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Error(NamedTuple):
  """How runs are predicted by the others."""

  runs: int  # that were left out, one at a time
  rmse: float  # of the mean over targets, in units of the losses
  # The same, if every run is predicted to be as the mean of the others.
  rmse_of_mean: float
  rank_correlation: (
    float  # Spearman's, of predicted and found; NaN below three runs
  )


def leave_one_out(
  predict: Predict,
  mixture_RK: Float[np.ndarray, "R K"],
  loss_RT: Float[np.ndarray, "R T"],
  *,
  most: int,
) -> Error:
  """Fits all runs but one, predicts that one, and so for every run.

  Args:
    predict: of the fit.
    mixture_RK: the mixtures that were run, at least two.
    loss_RT: their losses.
    most: runs that are left out; of more, some at equal distances.
  """
  import scipy.stats

  runs = len(mixture_RK)
  out = np.unique(np.linspace(0, runs - 1, min(most, runs)).round().astype(int))
  told, means = [], []
  for one in out:
    rest_R = np.arange(runs) != one
    found_1T = predict(mixture_RK[rest_R], loss_RT[rest_R], mixture_RK[[one]])
    told.append(found_1T[0].mean())
    means.append(loss_RT[rest_R].mean())
  found = loss_RT[out].mean(axis=1)

  def rmse(predicted):
    return float(np.sqrt(np.mean((np.array(predicted) - found) ** 2)))

  rank = np.nan
  if len(out) > 2 and np.ptp(told) > 0 and np.ptp(found) > 0:
    rank = float(scipy.stats.spearmanr(told, found).statistic)
  return Error(len(out), rmse(told), rmse(means), rank)


def bootstrap(
  solve: Solve,
  mixture_RK: Float[np.ndarray, "R K"],
  loss_RT: Float[np.ndarray, "R T"],
  *,
  draws: int,
  seed: int,
) -> Float[np.ndarray, "D K"]:
  """The best mixtures of resampled runs, as many as were run, with replacement."""
  rng, runs = np.random.default_rng(seed), len(mixture_RK)
  chosen_DR = rng.integers(runs, size=(draws, runs))
  return np.stack([solve(mixture_RK[one], loss_RT[one]) for one in chosen_DR])
