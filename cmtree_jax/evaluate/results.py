"""What a comparison comes to: the standings of its tables, and comparison.json.

Everything follows from the rows of results.parquet, one per final training and
scored split of a target; see `standings`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data.plan import MEAN
from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.statistics import Interval

NATURAL = "natural"  # the method that all are compared with
FULL = 1.0  # the share of the token budget at which methods are compared

Row = Mapping[str, Any]
_Curve = dict[float, dict[int, Row]]  # fraction -> seed -> row


class Standing(NamedTuple):
  """One method on one target of a set; losses are bits per byte."""

  target_set: str
  target: str  # or "mean" over a set of several
  method: str
  seeds: int
  searches: int  # that the seeds stand on
  tokens: int  # of one final training
  bpb: float  # mean over seeds, of the test split
  validation_bpb: float  # NaN: the target has test texts alone
  accuracy: float  # mean over seeds, of the test split; NaN: no choices
  to_natural: Interval  # paired by seed; below zero is better
  verdict: str  # of that difference, see `statistics.verdict`
  best_other: str  # the best other method on the validation split; or ""
  to_best: Interval  # paired difference to it, on the test split
  best_verdict: str
  noise_floor: float  # of a difference, from repeats of natural; NaN: one run
  effective_sample_size: float
  kept_share: float  # that trials chose; 0: the recipe's own
  search_tokens: float  # of one search, mean over searches
  search_flops: float
  trial_flops: float  # of the trials that chose
  search_share: float  # of both, in the FLOPs of one final training
  num_budgets: int  # that natural was trained for: one makes no curve
  # The share of natural's tokens that reaches its final loss.
  reach: statistics.Reach
  # To natural trained on for the FLOPs of search and trials.
  at_equal_flops: Interval | None


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


def comparison(rows: Iterable[Row]) -> list[dict[str, Any]]:
  """The rows of comparison.json: every number of a recipe beside natural's.

  Args:
    rows: as in results.parquet, of one set of targets; of several targets a row
      for their mean is added. Full trainings count, on the test split.
  """
  rows = list(rows)
  seeds: dict[str, dict[str, list[Row]]] = {}  # method -> target -> by seed
  for row in [*rows, *_means(rows)]:
    if row["split"] == "test" and row["fraction"] == FULL:
      of_method = seeds.setdefault(row["method"], {})
      of_method.setdefault(row["target"], []).append(row)
  return [
    _beside(found, seeds[NATURAL][target])
    for of_method in seeds.values()
    for target, found in of_method.items()
  ]


def _beside(rows: Sequence[Row], natural: Sequence[Row]) -> dict[str, Any]:
  """One recipe on one target; what all seeds share is the first one's."""
  one, bpb_S = rows[0], [row["bpb"] for row in rows]
  interval = statistics.paired_difference(
    bpb_S, [row["bpb"] for row in natural]
  )
  return {
    "recipe": one["method"],
    "target": one["target"],
    "bpb": bpb_S,
    "bpb_mean": float(np.mean(bpb_S)),
    "difference_to_natural": interval.mean,
    "ci_low": _number(interval.low),
    "ci_high": _number(interval.high),
    "effective_sample_size": one["effective_sample_size"],
    "train_tokens": int(one["tokens"]),
    "kept_share": one["kept_share"],
    "search_tokens": int(one["search_tokens"]),
    "trial_tokens": int(one["trial_tokens"]),
    "search_flops_share": _before(one) / one["final_flops"],
  }


def _before(row: Row) -> float:
  """FLOPs before the final training, of search and trials."""
  return row["search_flops"] + row["trial_flops"]


def _number(x: float) -> float | None:
  """JSON has no NaN: one seed has no interval."""
  return None if math.isnan(x) else x


def _means(rows: Sequence[Row]) -> list[Row]:
  """Rows of the mean over the targets of every set that has several.

  A target that has test texts alone is in the mean of the test split only.
  """
  targets: dict[str, set[str]] = {}
  for row in rows:
    targets.setdefault(row["target_set"], set()).add(row["target"])
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
    if len(targets[group[0]["target_set"]]) > 1
  ]


def _of_target(
  curves: dict[str, dict[str, _Curve]], seeds: int
) -> list[Standing]:
  """The standings of one target, from its curves by split and method."""
  test = curves["test"]
  validation = curves.get("validation", {})  # none: nothing chooses the best
  repeats = [row["bpb"] for row in test[NATURAL][FULL].values()]
  floor = statistics.noise_floor(repeats, seeds=seeds)
  score = {
    method: float(np.mean(_bpb(curve, FULL, seeds)))
    for method, curve in validation.items()
  }
  found = []
  for method in test:
    others = [(score[other], other) for other in score if other != method]
    best = min(others)[1] if others else ""
    one = _standing(method, best, test, floor=floor, seeds=seeds)
    found.append(one._replace(validation_bpb=score.get(method, math.nan)))
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
  search_S = [row["search_seed"] for row in rows]
  to_natural, to_best = (
    statistics.paired_difference(
      bpb_S, _bpb(other, FULL, seeds), search_S=search_S
    )
    for other in (natural, test[best or method])
  )

  def mean(name):
    return float(np.mean([row[name] for row in rows]))

  return Standing(
    target_set=rows[0]["target_set"],
    target=rows[0]["target"],
    method=method,
    seeds=seeds,
    searches=len({row["search_seed"] for row in rows}),
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
    kept_share=mean("kept_share"),
    search_tokens=mean("search_tokens"),
    search_flops=mean("search_flops"),
    trial_flops=mean("trial_flops"),
    search_share=float(np.mean([_before(row) for row in rows]))
    / mean("final_flops"),
    num_budgets=len(natural),
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
        row["final_flops"] + _before(row),
        [one["final_flops"] for one in same_seed],
        [one["bpb"] for one in same_seed],
      )
    )
  if any(math.isnan(other) for other in other_S):
    return None
  return statistics.paired_difference(
    [row["bpb"] for row in rows],
    other_S,
    search_S=[row["search_seed"] for row in rows],
  )


def _with(curve: _Curve, seed: int) -> list[dict[int, Row]]:
  return [runs for runs in curve.values() if seed in runs]


def _bpb(curve: _Curve, fraction: float, seeds: int) -> list[float]:
  return [curve[fraction][seed]["bpb"] for seed in range(seeds)]
