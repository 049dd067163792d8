r"""What another look at a document is worth: R*, fitted on our own trainings.

  python -m experiments.repetition --config claims:toy --workdir runs/repetition

Two recipes, natural and a concentrated one, are trained for one number of tokens on
sub-pools of the corpus so small that natural repeats a document `EPOCHS` times. The
concentrated recipe (CRISP with 64 clusters) is the same everywhere: its weights go up to
`MAX_WEIGHT`, and no other cap holds. So at e epochs a document of weight w is looked at
w e times, the heaviest ones once at 1/16 of an epoch and 256 times at 16. Shorter
trainings at 1/16 of an epoch, where no document is seen twice, say what fresh tokens
are worth.

A training is worth the fresh tokens that give the same loss, by straight lines in the
logarithm of the tokens between those shorter trainings. R* is the one that says best how
many they are,

.. math:: D' = \sum_i t_i\, U(n_i), \qquad
          U(n) = \min(n, 1) + R^* (1 - e^{-\max(n - 1, 0) / R^*})

with t the tokens of a document and n the looks at it. Where all have the same n above one
this is eq. 5 of Muennighoff et al. (2305.16264); their power law of D' does not fit
trainings that are as short as these. The tree's steps discount the first look too,
:math:`U(n) = R^* (1 - e^{-n / R^*})`, and R* is fitted for that too, in units of U(1).
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import FULL
from cmtree_jax.jobs.command import command
from cmtree_jax.types import UserError
from experiments import claims
from experiments.claims import NATURAL, Results

EPOCHS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 16)  # of natural
CONCENTRATED = "crisp_64"
RECIPES = (NATURAL, CONCENTRATED)
MAX_WEIGHT = 16.0  # at 1/16 of an epoch one look
FRESH = (0.2, 0.4, 0.7, FULL)  # shares of the tokens, all fresh
SPLITS = ("validation", "test")
# Trainings that are fitted, by the most looks at a document: those that the default
# cap allows, and all.
LIMITS = {"up to 4 looks": 4.0, "all": np.inf}

R_STARS = np.geomspace(0.05, 500, 185)  # 5 % apart
RESAMPLES = 400


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.repetition",
    "What repeated documents are worth, under natural and a concentrated recipe.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Trains at all epochs, each in a folder of its own, then fits and shows."""
  from cmtree_jax.report import tables

  folder = workdir / "repetition"
  data = _large_enough(config, folder)
  parts: dict[float, Results] = {}
  for epochs in EPOCHS:
    status, parts[epochs] = claims.compared(
      _config_at(config, epochs),
      folder / f"epochs_{epochs:g}",
      "comparison",
      [CONCENTRATED],
      overwrite=overwrite,
    )
    if status:
      return status
  tables.show_files(list(show(parts, data, folder)))
  return 0


def _large_enough(config: Any, folder: Path) -> Any:
  """The corpus, unless it is smaller than the sub-pool of the fewest epochs."""
  least = _config_at(config, min(EPOCHS))
  data = claims.prepared(least, folder)
  pairs = int(data.pool.tokens.pairs_N.sum())
  tokens = _tokens(least, FULL)
  if tokens > min(EPOCHS) * pairs:
    raise UserError(
      f"config.final.steps = {config.final.steps}: {tokens:,} tokens are more "
      f"than {min(EPOCHS):g} epochs of a corpus of {pairs:,}. Take fewer steps "
      "or a larger corpus, in another --workdir."
    )
  return data


def _config_at(config: Any, epochs: float) -> Any:
  """The comparison at some epochs; only at the fewest, of several lengths."""
  own = claims.plain(config)
  own.budget.epochs = epochs
  own.budget.max_epochs = MAX_WEIGHT * epochs
  own.budget.min_documents = 1
  own.trial.exponents = ()  # the recipe keeps its concentration
  own.compare.methods = ()
  own.compare.noise_repeats = 0
  if epochs == min(EPOCHS):
    own.compare.fractions = FRESH
  return own.lock()


class Point(NamedTuple):
  """One final training: how often it saw what, and its losses."""

  epochs: float
  fraction: float
  seed: int
  most: (
    float  # looks at the heaviest documents of the recipe, in the whole corpus
  )
  looks_G: np.ndarray  # at the documents of a group, all alike
  tokens_G: np.ndarray  # of the groups
  bpb: dict[str, float]  # by split

  @property
  def total(self) -> float:
    """Tokens that it trained on."""
    return float(self.looks_G @ self.tokens_G)

  @property
  def unique(self) -> float:
    """Tokens among them that were new to it."""
    return float(np.minimum(self.looks_G, 1) @ self.tokens_G)


def show(
  parts: Mapping[float, Results], data: Any, folder: Path
) -> Iterator[Path]:
  """Losses, fits and a figure for every set of targets."""
  first = parts[min(EPOCHS)]
  for target in first.targets:
    points = _points(parts, data, target)
    yield claims.write_table(
      folder / f"losses.{target}.md",
      f"Losses by epochs of natural, {target}",
      [
        *("recipe", "epochs", "share of the tokens", "most looks"),
        *("fresh / all tokens", *(f"{split} BPB" for split in SPLITS)),
        "share of fresh tokens with that test BPB",
      ],
      _losses(points),
    )
    fits = {
      (split, limit, form): _fits(points, split, most, worth)
      for split in SPLITS
      for limit, most in LIMITS.items()
      for form, worth in WORTH.items()
    }
    yield claims.write_table(
      folder / f"fits.{target}.md",
      f"R* with its 95 % interval over seeds (deviation of the fit, BPB), {target}",
      [
        *(
          "split",
          "trainings",
          "what looks are worth",
          *RECIPES,
          "one for both",
        ),
        f"{NATURAL} / {CONCENTRATED}",
      ],
      ([*key, *fit.text()] for key, fit in fits.items()),
    )
    shown = {limit: fits["test", limit, next(iter(WORTH))] for limit in LIMITS}
    yield _draw(points, shown, target, folder / f"repetition.{target}.svg")


def _points(
  parts: Mapping[float, Results], data: Any, target: str
) -> dict[str, list[Point]]:
  """By recipe, in the order of epochs, shares of the tokens and seeds."""
  from cmtree_jax.jobs import search

  found: dict[str, list[Point]] = {recipe: [] for recipe in RECIPES}
  for epochs, part in parts.items():
    subpools = search.subpools(data, part.config)
    for recipe in RECIPES:
      for fraction in part.config.compare.fractions:
        bpb = {
          split: part.bpb(recipe, target, split, fraction=fraction)
          for split in SPLITS
        }
        found[recipe] += [
          Point(
            epochs,
            fraction,
            seed,
            *_looks(part, recipe, target, subpools, (fraction, seed)),
            {split: bpb[split][seed] for split in SPLITS},
          )
          for seed in range(part.config.compare.seeds)
        ]
  return found


def _tokens(config: Any, fraction: float) -> int:
  from cmtree_jax.jobs import final

  batch = config.batch
  return final.steps_of(config, fraction) * batch.rows * batch.row_tokens


def _looks(
  part: Results,
  recipe: str,
  target: str,
  subpools: Any,
  training: tuple[float, int],
) -> tuple[float, np.ndarray, np.ndarray]:
  """What a final training sees: most looks, looks by group, tokens of the groups."""
  from cmtree_jax.jobs import plan

  fraction, seed = training
  search = plan.of_comparison(part.config).search(recipe, target, seed)
  seen = subpools.of(_tokens(part.config, fraction), "final", seed)
  w_N = np.exp(part.cells.log_w_N(search).astype(np.float64))
  looks_N = np.round(seen.weights(w_N) * seen.epochs, 6)
  looks_G, group_N = np.unique(looks_N, return_inverse=True)
  tokens_G = np.bincount(group_N, np.where(looks_N, subpools.pairs_N, 0))
  most = float(w_N.max() * part.config.budget.epochs)
  return most, looks_G, tokens_G


def beyond_first(n: np.ndarray, r_star: float) -> np.ndarray:
  """Muennighoff's: the first look counts in full."""
  return np.minimum(n, 1) - r_star * np.expm1(-np.maximum(n - 1, 0) / r_star)


def from_first(n: np.ndarray, r_star: float) -> np.ndarray:
  """Of the proximal objective, in units of the first look."""
  return np.expm1(-n / r_star) / np.expm1(-1 / r_star)


Worth = Callable[[np.ndarray, float], np.ndarray]
WORTH: dict[str, Worth] = {
  "eq. 5": beyond_first,
  "the objective's": from_first,
}


def effective(point: Point, r_star: float, worth: Worth) -> float:
  """D': the fresh tokens that its tokens are worth.

  A document is drawn floor(n) or ceil(n) times, so between whole looks the worth is
  the straight line.
  """
  whole_G = np.floor(point.looks_G)
  low_G, high_G = worth(whole_G, r_star), worth(whole_G + 1, r_star)
  share_G = point.looks_G - whole_G
  return float(point.tokens_G @ (low_G + share_G * (high_G - low_G)))


class Sample(NamedTuple):
  """The trainings of one recipe, as they are fitted."""

  predicted_RP: np.ndarray  # bits per byte under every R*
  bpb_P: np.ndarray
  seed_P: np.ndarray

  @classmethod
  def of(cls, points: Sequence[Point], split: str, worth: Worth) -> "Sample":
    """Of points, by the losses of a split; fresh trainings of a seed are its curve."""
    fresh: dict[int, dict[float, float]] = {}
    for one in points:
      if one.epochs == min(EPOCHS):
        tokens = effective(one, R_STARS[-1], worth)
        fresh.setdefault(one.seed, {})[tokens] = one.bpb[split]
    return cls(
      np.stack(
        [
          _on_curve(
            [effective(one, r, worth) for r in R_STARS], fresh[one.seed]
          )
          for one in points
        ],
        axis=1,
      ),
      np.array([one.bpb[split] for one in points]),
      np.array([one.seed for one in points]),
    )

  def at(self, places: np.ndarray) -> "Sample":
    """Some of the trainings."""
    return Sample(
      self.predicted_RP[:, places], self.bpb_P[places], self.seed_P[places]
    )

  def resampled(self, seeds: np.ndarray) -> "Sample":
    """The trainings of these seeds, as often as they are named."""
    places = [np.flatnonzero(self.seed_P == seed) for seed in seeds]
    return self.at(np.concatenate(places))

  def errors(self) -> np.ndarray:
    """The sum of squares under every R*."""
    return ((self.predicted_RP - self.bpb_P) ** 2).sum(axis=1)


def _on_curve(
  tokens: Sequence[float], bpb_of: Mapping[float, float]
) -> np.ndarray:
  """Losses of so many fresh tokens; the first line goes on below the fewest."""
  x, y = np.log(sorted(bpb_of)), np.array([bpb_of[n] for n in sorted(bpb_of)])
  at = np.log(tokens)
  below = y[0] + (at - x[0]) * (y[1] - y[0]) / (x[1] - x[0])
  return np.where(at < x[0], below, np.interp(at, x, y))


class Fit(NamedTuple):
  """R* of the recipes, and under "" that of both, each on its own curve."""

  best: dict[str, float]
  deviation: dict[str, float]  # bits per byte
  resampled: dict[str, np.ndarray]  # R* of resamples of the seeds
  predicted: dict[str, np.ndarray]  # BPB of all points, by the recipes' own R*

  def text(self) -> list[str]:
    """Cells of a table."""
    own = [
      f"{_number(self.best[name])} {_interval(self.resampled[name])} "
      f"({self.deviation[name]:.4f})"
      for name in (*RECIPES, "")
    ]
    first, second = RECIPES
    ratio = self.resampled[first] / self.resampled[second]
    mean = self.best[first] / self.best[second]
    return [*own, f"{mean:.2g} {_interval(ratio)}"]


def _number(r_star: float, *, equals: str = "") -> str:
  """R*, or the end of what was tried."""
  at_end = {R_STARS[0]: "≤", R_STARS[-1]: "≥"}.get(r_star, equals)
  return f"{at_end}{r_star:.3g}"


def _interval(values: np.ndarray) -> str:
  low, high = np.quantile(values, (0.025, 0.975))
  return f"[{low:.3g}, {high:.3g}]"


def _fits(
  points: Mapping[str, Sequence[Point]], split: str, most: float, worth: Worth
) -> Fit:
  """R* of trainings that repeat, with at most so many looks."""
  whole = {
    recipe: Sample.of(some, split, worth) for recipe, some in points.items()
  }
  chosen = {
    recipe: whole[recipe].at(np.flatnonzero([1 < p.most <= most for p in some]))
    for recipe, some in points.items()
  }
  best, deviation = _best(chosen)
  rng = np.random.default_rng(0)
  seeds = np.unique(whole[NATURAL].seed_P)
  drawn = [
    _best({r: one.resampled(some) for r, one in chosen.items()})[0]
    for some in rng.choice(seeds, (RESAMPLES, len(seeds)))
  ]  # the same seeds of both recipes: they are paired
  return Fit(
    {name: R_STARS[at] for name, at in best.items()},
    deviation,
    {name: R_STARS[[one[name] for one in drawn]] for name in best},
    {r: one.predicted_RP[best[r]] for r, one in whole.items()},
  )


def _best(
  samples: Mapping[str, Sample],
) -> tuple[dict[str, int], dict[str, float]]:
  """Of each recipe, and under "" of all at once: place of R*, deviation."""
  errors = {recipe: sample.errors() for recipe, sample in samples.items()}
  errors[""] = np.sum([*errors.values()], axis=0)
  count = {recipe: len(sample.bpb_P) for recipe, sample in samples.items()}
  count[""] = sum(count.values())
  best = {name: int(error_R.argmin()) for name, error_R in errors.items()}
  deviation = {
    name: float(np.sqrt(error_R[best[name]] / max(1, count[name])))
    for name, error_R in errors.items()
  }
  return best, deviation


def _losses(points: Mapping[str, Sequence[Point]]) -> Iterator[list[str]]:
  """One row for trainings that differ in the seed alone."""
  for recipe, some in points.items():
    groups: dict[tuple[float, float], list[Point]] = {}
    for point in some:
      groups.setdefault((point.epochs, point.fraction), []).append(point)
    mean = {
      key: {s: float(np.mean([p.bpb[s] for p in group])) for s in SPLITS}
      for key, group in groups.items()
    }
    fresh = {
      fraction: mean[epochs, fraction]["test"]
      for epochs, fraction in groups
      if epochs == min(EPOCHS)
    }
    for (epochs, fraction), group in groups.items():
      bpb = mean[epochs, fraction]
      yield [
        *(recipe, f"{epochs:g}", f"{fraction:g}"),
        f"{max(one.looks_G.max() for one in group):.3g}",
        f"{np.mean([one.unique / one.total for one in group]):.3f}",
        *(f"{bpb[split]:.3f}" for split in SPLITS),
        _share(bpb["test"], fresh),
      ]


def _share(bpb: float, fresh: Mapping[float, float]) -> str:
  """Of the tokens: so many fresh ones give this loss."""
  found = statistics.reach(bpb, list(fresh), list(fresh.values()))
  if np.isnan(found.budget):
    return f">{max(fresh):g}"
  return f"{'<' * found.at_most}{found.budget:.2f}"


def _draw(
  points: Mapping[str, Sequence[Point]],
  fits: Mapping[str, Fit],
  target: str,
  path: Path,
) -> Path:
  """Losses of full trainings by epochs, and what the fits say of them."""
  figure, axes = claims.panels(len(RECIPES), width=3.6, height=3.2, zero=False)
  for ax, recipe in zip(axes, RECIPES, strict=True):
    full = [place for place, p in enumerate(points[recipe]) if p.fraction == 1]
    epochs_P = np.array([points[recipe][place].epochs for place in full])
    bpb_P = np.array([points[recipe][place].bpb["test"] for place in full])
    ax.plot(
      epochs_P, bpb_P, "o", color="#767676", markersize=4, label="trainings"
    )
    for (limit, fit), color in zip(fits.items(), claims.COLORS, strict=False):
      predicted_P = fit.predicted[recipe][full]
      mean = [predicted_P[epochs_P == one].mean() for one in EPOCHS]
      label = f"R* {_number(fit.best[recipe], equals='= ')}, {limit}"
      ax.plot(EPOCHS, mean, color=color, linewidth=1.4, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xticks(EPOCHS, [str(Fraction(one)) for one in EPOCHS])
    ax.minorticks_off()
    ax.set_title(recipe, fontsize=10)
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel("test bits per byte")
  figure.supxlabel(
    f"epochs of natural, at equal tokens ({target})", fontsize=10
  )
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
