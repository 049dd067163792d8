"""AutoScale: the power law of one domain's amount, and the best allocation."""

from typing import NamedTuple

import numpy as np


class PowerOfAmount(NamedTuple):
  """y_k(x) = (x + a_k)^(-b_k) + c_k; x is relative to a uniform run."""

  a_K: np.ndarray
  b_K: np.ndarray
  c_K: np.ndarray


def fit_exactly(x_3: np.ndarray, y_K3: np.ndarray) -> PowerOfAmount:
  """The law through three points of each domain.

  For each b the difference of the outer two points fixes a, and the middle point
  decides b. Of the two b that pass, the larger one counts, as in the published
  fits. Three points, three numbers: nothing is left for an error.

  Args:
    x_3: amounts, increasing.
    y_K3: losses, falling and convex.
  References:
    AutoScale, `2407.20177 <https://arxiv.org/abs/2407.20177>`_, and the authors'
    DDO notebook.
  """

  def offset(b, fall):
    """a where y falls by `fall` from the first to the last point."""

    def surplus(log_gap):
      a = np.exp(log_gap) - x_3[0]
      return (x_3[0] + a) ** -b - (x_3[2] + a) ** -b - fall

    return np.exp(_root(surplus, -20, 10)) - x_3[0]

  def one(y_3):
    fall = y_3[0] - y_3[2]

    def surplus(b):
      a = offset(b, fall)
      return (x_3[0] + a) ** -b - (x_3[1] + a) ** -b - (y_3[0] - y_3[1])

    # The surplus is negative between the two b.
    b = _root(surplus, 0.4, 20)
    a = offset(b, fall)
    return a, b, y_3[1] - (x_3[1] + a) ** -b

  return PowerOfAmount(*np.array([one(y_3) for y_3 in y_K3]).T)


def allocate(
  law: PowerOfAmount, *, total: float, least: float = 0.2
) -> np.ndarray:
  """The amounts with the least sum of losses, none under `least`.

  All amounts above it have the same slope, found by bisection. The authors follow
  the projected gradient for 10,000 steps, and pin what falls to `least`.

  References:
    AutoScale, `2407.20177 <https://arxiv.org/abs/2407.20177>`_, eq. of DDO.
  """

  def amounts(log_slope):
    root_K = (law.b_K / np.exp(log_slope)) ** (1 / (law.b_K + 1))
    return np.maximum(root_K - law.a_K, least)

  log_slope = _root(lambda s: amounts(s).sum() - total, -50, 50)
  return amounts(log_slope)


def next_scale(smaller_K: np.ndarray, larger_K: np.ndarray) -> np.ndarray:
  """The best amounts at the next scale: each domain's grow geometrically.

  References:
    AutoScale, `2407.20177 <https://arxiv.org/abs/2407.20177>`_, theorem 1.
  """
  return larger_K**2 / smaller_K


def _root(function, low, high) -> float:
  from scipy import optimize

  return optimize.root_scalar(function, bracket=(low, high), xtol=1e-14).root
