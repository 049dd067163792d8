"""What each target's loss counts for in a search: alike, as given, or by need."""

import math
from collections.abc import Sequence

import numpy as np

from cmtree_jax.types import UserError

EQUAL, ROBUST = "equal", "dro"

# Of the multiplicative update: a target whose loss has fallen by one per cent less
# than the mean counts for a tenth more.
RATE = 10.0


def check(text: str) -> None:
  """Raises ValueError for weights that are none of the three kinds."""
  if text not in (EQUAL, ROBUST):
    _given(text)


def first(text: str, names: Sequence[str]) -> np.ndarray:
  """Weights [T] of targets before the first round; they sum to one.

  Raises:
    UserError: a target has no weight among those given, or none is above zero.
  """
  if text in (EQUAL, ROBUST):
    return np.full(len(names), 1 / len(names))
  given = _given(text)
  for name in names:
    if name not in given:
      raise UserError(
        f"config.values.target_weights = {text!r} has no weight for {name!r}; "
        f"wanted one for each of {', '.join(names)}."
      )
  weight_T = np.array([given[name] for name in names])
  if not weight_T.sum() > 0:
    raise UserError(
      f"config.values.target_weights = {text!r} gives no weight above 0 to any of "
      f"{', '.join(names)}."
    )
  return weight_T / weight_T.sum()


def robust(
  weight_T: np.ndarray, loss_T: np.ndarray, first_loss_T: np.ndarray
) -> np.ndarray:
  r"""Weights of group DRO after a round: more for the targets that fall behind.

  .. math:: z_t \propto z_t \exp\left(\eta\, \ell_t / \ell_t^{(1)}\right)

  with the loss of a target against that in the first round, under the start, so
  that targets of a high level do not count for more than others.

  Args:
    weight_T: before.
    loss_T: of the targets now.
    first_loss_T: of the targets in the first round.
  References:
    Fan et al., `GRAPE <https://arxiv.org/abs/2505.20380>`_, 2025, for rates of
    improvement; Sagawa et al., `Group DRO <https://arxiv.org/abs/1911.08731>`_,
    2019, Algorithm 1.
  """
  ratio_T = loss_T / first_loss_T
  grown_T = weight_T * np.exp(RATE * (ratio_T - ratio_T.mean()))
  return grown_T / grown_T.sum()


def _given(text: str) -> dict[str, float]:
  """Out of "news=2,code=1"."""
  found = {}
  for part in text.split(","):
    name, equals, number = (x.strip() for x in part.rpartition("="))
    try:
      weight = float(number)
    except ValueError:
      weight = math.nan
    if not equals or not name or not 0 <= weight < math.inf:
      raise ValueError(
        f'target_weights = {text!r} must be "{EQUAL}", "{ROBUST}", or weights of '
        f'zero or more as "news=2,code=1".'
      )
    if name in found:
      raise ValueError(
        f"target_weights = {text!r} names {name!r} twice; give it one weight."
      )
    found[name] = weight
  return found
