"""What a comparison comes to: the standings of its tables, and comparison.json.

Everything follows from the rows of results.parquet, one per final training and
scored split of a target; see `standings`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.proxy.ledger import Cost

NATURAL = "natural"  # the method that all are compared with
MEAN = "mean"  # stands for a target in the rows of the mean over several
FULL = 1.0  # the share of the token budget at which methods are compared

Row = Mapping[str, Any]
_Curve = dict[float, dict[int, Row]]  # fraction -> seed -> row


class Standing(NamedTuple):
  """One method on one target of a set; losses are bits per byte."""

  target_set: str
  target: str  # or "mean" over a set of several
  method: str
  seeds: int
  tokens: int  # of one final training
  bpb: float  # mean over seeds, of the test split
  validation_bpb: float
  accuracy: float  # mean over seeds, of the test split; NaN: no choices
  to_natural: Interval  # paired by seed; less is better
  verdict: str  # of that difference, see `statistics.verdict`
  best_other: (
    str  # the other method that is best on the validation split; or ""
  )
  to_best: Interval  # paired difference to it, on the test split
  best_verdict: str
  noise_floor: float  # of a difference, from repeats of natural; NaN: one run
  effective_sample_size: float
  search_tokens: float  # of one search, mean over searches
  search_flops: float
  search_share: float  # of the FLOPs of one final training
  reach: (
    statistics.Reach
  )  # share of natural's tokens that reaches its final loss
  at_equal_flops: (
    Interval | None
  )  # to natural trained on for the search's FLOPs


def standings(rows: Iterable[Row], *, seeds: int) -> list[Standing]:
  """All methods on all targets, the best of a target first.

  The best other method is chosen on the validation split, so that the test split
  does not choose what it judges.

  Args:
    rows: as in results.parquet. Fractions other than one are trainings on a part
      or a multiple of the token budget.
    seeds: seeds below this number are compared; those of natural beyond it are
      repeats that only measure the noise.
  """
  rows = list(rows)
  curves: dict[tuple[str, str], dict[str, dict[str, _Curve]]] = {}
  for row in [*rows, *_means(rows)]:
    place = curves.setdefault((row["target_set"], row["target"]), {})
    curve = place.setdefault(row["split"], {}).setdefault(row["method"], {})
    curve.setdefault(row["fraction"], {})[row["seed"]] = row
  sets = list(dict.fromkeys(row["target_set"] for row in rows))
  order = sorted(  # by set, its mean first
    curves, key=lambda place: (sets.index(place[0]), place[1] != MEAN)
  )
  return [one for place in order for one in _of_target(curves[place], seeds)]


def compare(
  bpb: np.ndarray,
  *,
  recipes: Sequence[str],
  targets: Sequence[str],
  effective_sample_size: Sequence[float],
  search: Sequence[Cost],
  final: Cost,
) -> list[dict[str, Any]]:
  """Rows for comparison.json, every number of a recipe beside the natural one's.

  Args:
    bpb: bits per byte [recipes, seeds, targets]; runs of one seed are paired.
    recipes: names; "natural" is among them.
    targets: names; with several of them a row for their mean is added.
    effective_sample_size: of each recipe's weights.
    search: what each recipe cost before its final training.
    final: what one final training cost.
  """
  natural = recipes.index("natural")
  names = list(targets)
  if len(names) > 1:
    names.append(MEAN)
    bpb = np.concatenate([bpb, bpb.mean(axis=2, keepdims=True)], axis=2)
  rows = []
  for r, recipe in enumerate(recipes):
    for t, target in enumerate(names):
      bpb_S = bpb[r, :, t]
      interval = statistics.paired_difference(bpb_S, bpb[natural, :, t])
      rows.append(
        {
          "recipe": recipe,
          "target": target,
          "bpb": bpb_S.tolist(),
          "bpb_mean": float(bpb_S.mean()),
          "difference_to_natural": interval.mean,
          "ci_low": _number(interval.low),
          "ci_high": _number(interval.high),
          "effective_sample_size": effective_sample_size[r],
          "train_tokens": int(final.tokens),
          "search_tokens": int(search[r].tokens),
          "search_flops_share": search[r].flops / final.flops,
        }
      )
  return rows


def _means(rows: Sequence[Row]) -> list[Row]:
  """Rows of the mean over the targets of every set that has several."""
  same = ("method", "target_set", "split", "seed", "fraction")
  groups: dict[tuple[Any, ...], list[Row]] = {}
  for row in rows:
    groups.setdefault(tuple(row[name] for name in same), []).append(row)
  return [
    {
      **group[0],
      "target": MEAN,
      **{
        name: float(np.mean([row[name] for row in group]))
        for name in ("bpb", "accuracy")
      },
    }
    for group in groups.values()
    if len(group) > 1
  ]


def _of_target(
  curves: dict[str, dict[str, _Curve]], seeds: int
) -> list[Standing]:
  """The standings of one target, from its curves by split and method."""
  test, validation = curves["test"], curves["validation"]
  repeats = [row["bpb"] for row in test[NATURAL][FULL].values()]
  floor = statistics.noise_floor(repeats, seeds=seeds)
  score = {
    method: float(np.mean(_bpb(curve, FULL, seeds)))
    for method, curve in validation.items()
  }
  found = []
  for method in test:
    others = [(score[other], other) for other in test if other != method]
    best = min(others)[1] if others else ""
    one = _standing(method, best, test, floor=floor, seeds=seeds)
    found.append(one._replace(validation_bpb=score[method]))
  return sorted(found, key=lambda one: (one.bpb, one.method))


def _standing(
  method: str,
  best: str,
  test: dict[str, _Curve],
  *,
  floor: float,
  seeds: int,
) -> Standing:
  curve, natural = test[method], test[NATURAL]
  bpb_S = _bpb(curve, FULL, seeds)
  rows = [curve[FULL][seed] for seed in range(seeds)]
  to_natural = statistics.paired_difference(bpb_S, _bpb(natural, FULL, seeds))
  to_best = statistics.paired_difference(
    bpb_S, _bpb(test[best or method], FULL, seeds)
  )

  def mean(name):
    return float(np.mean([row[name] for row in rows]))

  return Standing(
    target_set=rows[0]["target_set"],
    target=rows[0]["target"],
    method=method,
    seeds=seeds,
    tokens=rows[0]["tokens"],
    bpb=float(np.mean(bpb_S)),
    validation_bpb=math.nan,  # filled in by the caller
    accuracy=mean("accuracy"),
    to_natural=to_natural,
    verdict="" if method == NATURAL else statistics.verdict(to_natural, floor),
    best_other=best,
    to_best=to_best,
    best_verdict=statistics.verdict(to_best, floor) if best else "",
    noise_floor=floor,
    effective_sample_size=mean("effective_sample_size"),
    search_tokens=mean("search_tokens"),
    search_flops=mean("search_flops"),
    search_share=mean("search_flops") / mean("final_flops"),
    reach=_reach(curve, natural, seeds),
    at_equal_flops=_at_equal_flops(rows, natural),
  )


def _reach(curve: _Curve, natural: _Curve, seeds: int) -> statistics.Reach:
  """On mean curves: the loss of one seed is too noisy to be reached."""
  fractions = sorted(curve)
  goal = float(np.mean(_bpb(natural, FULL, seeds)))
  bpb_F = [float(np.mean(_bpb(curve, f, seeds))) for f in fractions]
  return statistics.reach(goal, fractions, bpb_F)


def _at_equal_flops(rows: Sequence[Row], natural: _Curve) -> Interval | None:
  """None where natural was not trained for as many FLOPs."""
  other_S = []
  for row in rows:
    same_seed = [runs[row["seed"]] for runs in _with(natural, row["seed"])]
    other_S.append(
      statistics.at_budget(
        row["final_flops"] + row["search_flops"],
        [one["final_flops"] for one in same_seed],
        [one["bpb"] for one in same_seed],
      )
    )
  if any(math.isnan(other) for other in other_S):
    return None
  return statistics.paired_difference([row["bpb"] for row in rows], other_S)


def _with(curve: _Curve, seed: int) -> list[dict[int, Row]]:
  return [runs for runs in curve.values() if seed in runs]


def _bpb(curve: _Curve, fraction: float, seeds: int) -> list[float]:
  return [curve[fraction][seed]["bpb"] for seed in range(seeds)]


def _number(x: float) -> float | None:
  """JSON has no NaN: one seed has no interval."""
  return None if np.isnan(x) else float(x)
