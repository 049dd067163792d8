r"""The guard's verdict: which recipe is handed over, from short trainings on validation.

All that is judged was trained with the same seeds and scored on the same texts. One
noise floor holds for all differences of two means (`statistics.pooled_floor`); of the
worst target it is that target's own.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import NATURAL


class Row(NamedTuple):
  """One candidate beside natural; differences below zero are better."""

  name: str
  bpb: float  # weighted mean over targets, mean over seeds
  difference: float  # of that mean to natural
  worst_target: str
  worst_difference: float
  differences: dict[str, float]  # by target


class Verdict(NamedTuple):
  """What is handed over, and why."""

  winner: str
  why: str  # one sentence
  noise_floor: float  # of a difference of two means
  rows: dict[str, Row]  # the best first


def table(
  bpb: Mapping[str, np.ndarray], targets: tuple[str, ...], weight_T: np.ndarray
) -> dict[str, Row]:
  """What everything that was tried is worth beside natural, the best first.

  Args:
    bpb: name -> bits per byte [seeds, targets]; natural among them.
    targets: their names.
    weight_T: what each counts for in the mean; sums to one.
  """
  natural_T = bpb[NATURAL].mean(axis=0)
  rows = {}
  for name, bpb_ST in bpb.items():
    mean_T = bpb_ST.mean(axis=0)
    difference_T = mean_T - natural_T
    worst = int(np.argmax(difference_T))
    rows[name] = Row(
      name=name,
      bpb=float(mean_T @ weight_T),
      difference=float(difference_T @ weight_T),
      worst_target=targets[worst],
      worst_difference=float(difference_T[worst]),
      differences=dict(zip(targets, difference_T.tolist(), strict=True)),
    )
  return dict(sorted(rows.items(), key=lambda item: item[1].bpb))


def judge(
  bpb: Mapping[str, np.ndarray],
  targets: tuple[str, ...],
  weight_T: np.ndarray,
  *,
  method: str,
  rivals: tuple[str, ...],
) -> Verdict:
  """Hands over the method if it earns it, else the best free rival, else natural.

  The method must be better than natural beyond the noise floor in the mean over
  targets, and against the best free rival worse beyond it neither in the mean nor in
  the target on which it does worst beside natural. A rival must be better than
  natural beyond the floor. So natural wins ties, and the method those with rivals.

  Args:
    bpb: name -> bits per byte [seeds, targets] of all that was tried; more of them
      make the noise floor surer.
    targets: their names.
    weight_T: what each counts for in the mean; sums to one.
    method: the one that was asked for.
    rivals: what costs nothing, natural not among them.
  """
  rows = table(bpb, targets, weight_T)
  stacked_CST = np.stack(list(bpb.values()))
  floor = statistics.pooled_floor(stacked_CST @ weight_T)
  floor_of = {
    target: statistics.pooled_floor(stacked_CST[..., number])
    for number, target in enumerate(targets)
  }
  own = rows[method]
  free = [rows[name] for name in rows if name in rivals]  # the best first
  rival = free[0] if free else None
  why = _fault(own, rival, floor, floor_of)
  if not why:
    than = _beside(own, rival) if rival else ""
    return Verdict(
      method,
      f"{method} is better than natural by {-own.difference:.4f} bits per byte, "
      f"beyond the noise floor of {floor:.4f}{than}.",
      floor,
      rows,
    )
  if rival and -rival.difference > floor:
    return Verdict(
      rival.name,
      f"{why}; {rival.name}, the best free rival, is better than natural by "
      f"{-rival.difference:.4f}.",
      floor,
      rows,
    )
  also = f"; {rival.name}, the best free rival, neither" if rival else ""
  return Verdict(NATURAL, f"{why}{also}.", floor, rows)


def _beside(own: Row, rival: Row) -> str:
  """How a method that is handed over stands beside the best free rival."""
  if own.bpb <= rival.bpb:
    return f" and not worse than {rival.name}"
  return f", and worse than {rival.name} by {own.bpb - rival.bpb:.4f}, within that floor"


def _fault(
  own: Row, rival: Row | None, floor: float, floor_of: Mapping[str, float]
) -> str:
  """Why a method is not handed over; "" if it is."""
  noise = f"beyond the noise floor of {floor:.4f} bits per byte"
  if math.isnan(floor) or not -own.difference > floor:
    return f"{own.name} is not better than natural {noise}"
  if rival is None:
    return ""
  if own.bpb - rival.bpb > floor:
    return (
      f"{own.name} is worse than {rival.name} by {own.bpb - rival.bpb:.4f}, "
      f"{noise}"
    )
  target, worse = (
    own.worst_target,
    own.worst_difference - rival.worst_difference,
  )
  if worse > floor_of[target]:
    return (
      f"{own.name} does worst on {target}, {own.worst_difference:+.4f} to "
      f"natural, and {rival.name} nowhere worse than "
      f"{rival.worst_difference:+.4f}: beyond that target's noise floor of "
      f"{floor_of[target]:.4f}"
    )
  return ""
