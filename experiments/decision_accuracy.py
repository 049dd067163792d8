"""Decision accuracy: how often do small trainings rank recipes as large ones do?

  python -m experiments.decision_accuracy --config decision_accuracy:cpu --workdir runs/d

Recipes that no training found (natural, powers of the weights of methods that are free,
and random mixtures) are trained at a small scale, also on shares of its tokens, and at
a large one. All are scored on all targets. A pair of recipes is decided rightly if the
small scale prefers the one that the large scale prefers. Scores are bits per byte of
texts or, where a target has questions, of the answers, and accuracy; the last is also
predicted by the bits of small trainings. Beside them stands what one seed of the large
scale says of the others, which are fewer seeds than small scales are judged by.

References:
  Magnusson et al., `DataDecide <https://arxiv.org/abs/2504.11393>`_, 2025.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import checks
from cmtree_jax.evaluate.decisions import Decisions, decisions
from cmtree_jax.evaluate.results import FULL, MEAN, NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs import cells
from cmtree_jax.jobs.command import command
from cmtree_jax.types import UserError
from experiments import claims
from experiments.claims import Results
from experiments.planted import Bench

SMALL, LARGE = "small", "large"
MIXTURE = "mixture"  # a base: domains that are weighed by chance
_POWER = 3.0  # powers are between a third and three
TEXT, ANSWERS, ACCURACY = "BPB of texts", "BPB of answers", "accuracy"


class Recipe(NamedTuple):
  """How a recipe is made."""

  name: str
  base: str  # what its weights are a power of, or MIXTURE
  target: str  # the set that the base was for
  power: float


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.decision_accuracy",
    "How often do small trainings rank recipes as large ones do?",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Trains all recipes at both scales, each in a folder of its own, then shows."""
  from cmtree_jax.report import tables

  _check(config)
  made = recipes(config)
  parts: dict[str, Results] = {}
  for scale in (SMALL, LARGE):
    status, found = _compared(
      _at_scale(config, scale), workdir / scale, made, overwrite=overwrite
    )
    if status:
      return status
    parts[scale] = found
  files = show(parts[SMALL], parts[LARGE], made, workdir / "decisions")
  tables.show_files(list(files))
  return 0


def _check(config: Any) -> None:
  """Refuses settings of which no pairs of recipes come."""
  from cmtree_jax.proxy.model import PRESETS

  claims.require_block(config, "decision", "decision_accuracy:toy")
  wanted = config.decision
  if not wanted.bases:
    raise UserError(
      "config.decision.bases is empty; name methods that recipes are made from."
    )
  try:
    checks.at_least(3, recipes=wanted.recipes)  # natural, and a pair beside it
    for field in (SMALL, LARGE):
      checks.one_of(field, wanted[field], tuple(PRESETS))
  except ValueError as error:
    raise UserError(f"config.decision: {error}") from error


def recipes(config: Any) -> list[Recipe]:
  """All but natural; each from a seed of its own, so that more leave the others."""
  wanted = config.decision
  bases, sets = (*wanted.bases, MIXTURE), _sets(config)
  made = []
  for number in range(1, wanted.recipes):
    rng = np.random.default_rng([config.seed, number])
    base = bases[number % len(bases)]
    target = sets[-1] if base == MIXTURE else sets[rng.integers(len(sets))]
    power = float(np.exp(rng.uniform(-1, 1) * np.log(_POWER)))
    made.append(Recipe(f"r{number:02d}_{base}", base, target, round(power, 3)))
  return made


def _sets(config: Any) -> list[str]:
  """Every target alone, then all of them; one set where there is one target."""
  targets = tuple(config.compare.targets)
  return list(dict.fromkeys((*targets, "+".join(targets))))


def _at_scale(config: Any, scale: str) -> Any:
  own, wanted = claims.plain(config), config.decision
  if scale == SMALL:
    own.final.preset, own.final.steps = wanted.small, wanted.small_steps
    own.compare.fractions = config.compare.fractions
  else:
    own.final.preset, own.final.steps = wanted.large, wanted.large_steps
  own.compare.noise_repeats = 0
  own.compare.search_seeds = 1
  own.trial.exponents = ()  # recipes keep their concentration
  own.compare.methods = tuple(wanted.bases)
  own.compare.targets = tuple(_sets(config))
  return own.lock()


def _compared(
  config: Any, workdir: Path, made: Sequence[Recipe], *, overwrite: bool
) -> tuple[int, Any]:
  """Searches the bases, plants recipes of their weights, and trains these."""
  status = claims.searched(
    config, workdir, "searched", lambda _: (), overwrite=overwrite
  )
  if status:
    return status, None
  folder = cells.Folder(workdir / "cells")
  bench = Bench(Results(config, workdir / "searched", folder, []))
  for one in made:
    plant(bench, one)
  own = bench.config(())
  with own.unlocked():
    own.compare.targets = own.compare.targets[-1:]
  return claims.compared(own, workdir, "trained", (), overwrite=overwrite)


def plant(bench: Bench, one: Recipe) -> None:
  """Makes a recipe for all targets."""
  base = (
    bench.found.config.decision.bases[0] if one.base == MIXTURE else one.base
  )
  if one.base == MIXTURE:
    p_NL = bench.p_NL(bench.tree(base, one.target, 0))
    rng = np.random.default_rng([bench.found.config.seed, *one.name.encode()])
    weight_N = p_NL @ np.exp(one.power * rng.normal(size=p_NL.shape[1]))
  else:
    weight_N = bench.weight_N(base, one.target, 0) ** one.power
  place = bench.search(base, bench.targets[-1], 0)
  bench.plant(one.name, base, place, weight_N)


# Score -> target, or MEAN -> one of each recipe and seed [R, S], better when lower.
Scores = Mapping[str, Mapping[str, np.ndarray]]


def scores(
  found: Results,
  names: Sequence[str],
  asked: frozenset[str],
  fraction: float = FULL,
) -> Scores:
  """What the trainings of one scale came to, on the test split.

  Args:
    found: the comparison at that scale.
    names: of recipes.
    asked: targets that have questions.
    fraction: share of the tokens.
  """
  table: dict[str, dict[str, np.ndarray]] = {}
  shape = (len(names), found.config.compare.seeds)
  for row in found.rows:
    if row["split"] != "test" or row["fraction"] != fraction:
      continue
    target, at = row["target"], (names.index(row["method"]), row["seed"])
    bits = ANSWERS if target in asked else TEXT
    for score, value in ((bits, row["bpb"]), (ACCURACY, -row["accuracy"])):
      if not np.isnan(value):
        of_target = table.setdefault(score, {})
        of_target.setdefault(target, np.full(shape, np.nan))[at] = value
  for of_target in table.values():
    if len(of_target) > 1:
      of_target[MEAN] = np.mean(list(of_target.values()), axis=0)
  return table


class Row(NamedTuple):
  """How one small score decides."""

  score: str
  target: str
  share: float  # of the small scale's tokens; NaN: one seed of the large scale
  cost: float  # FLOPs of the small training over those of the large one
  found: Decisions


def judged(small: Results, large: Results, names: Sequence[str]) -> list[Row]:
  """Decisions by score, target and share of the small scale's tokens."""
  asked = _asked(large)
  truth = scores(large, names, asked)
  rows = []
  for share in sorted(small.config.compare.fractions):
    guess = scores(small, names, asked, share)
    cost = _flops(small, share) / _flops(large, FULL)
    pairs = [(score, score) for score in truth]
    pairs += [(ANSWERS, ACCURACY)] * (ACCURACY in truth)
    for one, other in pairs:
      name = one if one == other else f"{one} for {other}"
      for target in guess[one].keys() & truth[other].keys():
        found = decisions(guess[one][target].mean(axis=1), truth[other][target])
        rows.append(Row(name, target, share, cost, found))
  if large.config.compare.seeds > 1:
    for score, of_target in truth.items():
      for target, score_RS in of_target.items():
        found = decisions(score_RS[:, 0], score_RS[:, 1:])
        rows.append(Row(score, target, np.nan, 1.0, found))
  targets = list(dict.fromkeys(t for of in truth.values() for t in of))
  return sorted(
    rows, key=lambda row: (row.score, targets.index(row.target), row.cost)
  )


def _asked(found: Results) -> frozenset[str]:
  """Targets that have questions."""
  from cmtree_jax.jobs import plan

  data, places = found.data(), plan.of_comparison(found.config).places
  return frozenset(
    place.name
    for place in places
    if data.targets[place.tested]["test"].questions is not None
  )


def _flops(found: Results, fraction: float) -> float:
  """Of one final training."""
  return next(
    row["final_flops"] for row in found.rows if row["fraction"] == fraction
  )


def show(
  small: Results, large: Results, made: Sequence[Recipe], folder: Path
) -> Iterator[Path]:
  """Tables of recipes and decisions, and a figure."""
  names = [NATURAL, *(one.name for one in made)]
  rows = judged(small, large, names)
  yield _recipes(small, large, made, folder / "recipes.md")
  yield claims.write_table(
    folder / "decisions.md",
    f"Pairs of {len(names)} recipes that a small training ranks as a large one",
    [
      *("score", "target", "share of its tokens", "FLOPs / large"),
      *("all pairs", "beyond noise", "pairs within noise"),
    ],
    map(_text, rows),
  )
  yield _draw(rows, folder / "decisions.svg")


def _text(row: Row) -> list[str]:
  share = "large, another seed" if np.isnan(row.share) else f"{row.share:g}"
  within = row.found.within_noise
  return [
    *(row.score, row.target, share, f"{row.cost:.3g}"),
    *map(_interval, (row.found.all, row.found.beyond)),
    "" if np.isnan(within) else f"{within:.2f}",
  ]


def _interval(one: Interval) -> str:
  if np.isnan(one.mean):
    return ""
  return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _recipes(
  small: Results, large: Results, made: Sequence[Recipe], path: Path
) -> Path:
  """What every recipe is, and its means over targets and seeds."""
  (target,) = large.targets
  rows = []
  for one in (Recipe(NATURAL, "", "", 1.0), *made):
    means = [
      float(np.mean(part.bpb(one.name, target))) for part in (small, large)
    ]
    kept = large.value(one.name, target, "effective_sample_size")
    rows.append(
      [
        *(one.name, one.base, one.target, f"{one.power:g}", f"{kept:.3f}"),
        *(f"{bpb:.3f}" for bpb in means),
      ]
    )
  return claims.write_table(
    path,
    "Recipes, and their mean test bits per byte at both scales",
    ["recipe", "base", "target", "power", "kept share", SMALL, LARGE],
    sorted(rows, key=lambda row: row[-1]),
    printed=False,
  )


def _draw(rows: Sequence[Row], path: Path) -> Path:
  """Decision accuracy by cost; dashed for pairs beyond noise alone."""
  targets = list(dict.fromkeys(row.target for row in rows))
  figure, axes = claims.panels(len(targets), zero=False)
  for ax, target in zip(axes, targets, strict=True):
    _panel(ax, [row for row in rows if row.target == target], rows)
    ax.set_title(target, fontsize=10)
  axes[0].set_ylabel("pairs ranked alike")
  figure.supxlabel(
    "FLOPs of a small training, in % of a large one", fontsize=10
  )
  claims.legend(figure, axes)
  return claims.save(figure, path)


def _panel(ax: Any, own: Sequence[Row], rows: Sequence[Row]) -> None:
  """One target; every panel names all scores, for the first one has the legend."""
  names = dict.fromkeys(row.score for row in rows)
  small = [row for row in own if not np.isnan(row.share)]
  for score, color in zip(names, claims.COLORS, strict=False):
    of_score = [row for row in small if row.score == score]
    points = {row.cost: row.found.all for row in of_score}
    claims.line(ax, points, color=color, label=score)
    if not all(np.isnan(row.found.within_noise) for row in rows):
      points = {row.cost: row.found.beyond for row in of_score}
      label = f"{score}, beyond noise"
      claims.line(ax, points, color=color, linestyle="--", label=label)
    for row in own:
      if row.score == score and np.isnan(row.share):
        level = row.found.all.mean
        ax.axhline(level, color=color, linestyle=":", label="another seed")
  ax.axhline(0.5, color="black", linewidth=0.8, linestyle="--", label="chance")
  costs = sorted({row.cost for row in small})
  ax.set_xscale("log")
  ax.set_xticks(costs, [f"{100 * cost:.2g}" for cost in costs])
  ax.minorticks_off()
  ax.set_ylim(0.3, 1.02)


if __name__ == "__main__":
  sys.exit(main())
