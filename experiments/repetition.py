r"""What another look at a document is worth: R*, fitted on our own trainings.

  python -m experiments.repetition --config claims:toy --workdir runs/repetition

Two recipes, natural and a concentrated one, are trained for one number of tokens on
sub-pools of the corpus so small that natural repeats a document `EPOCHS` times. The
concentrated recipe (CRISP with 64 clusters) is the same everywhere: its weights go up to
`MAX_WEIGHT`, and no other cap holds. So at e epochs a document of weight w is looked at
w e times, the heaviest ones once at 1/16 of an epoch and 256 times at 16. Shorter
trainings at 1/16 of an epoch, where no document is seen twice, say what fresh tokens
are worth.

The losses are fitted by those of fewer fresh tokens,

.. math:: L = E + B\, D'^{-\beta}, \qquad D' = \sum_i t_i\, U(n_i), \qquad
          U(n) = \min(n, 1) + R^* (1 - e^{-\max(n - 1, 0) / R^*})

with t the tokens of a document and n the looks at it. Where all have the same n above one
this is eq. 5 of Muennighoff et al. (2305.16264). The tree's steps discount the first look
too, :math:`U(n) = R^* (1 - e^{-n / R^*})`, and R* is fitted for that as well.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate.results import FULL
from cmtree_jax.jobs.command import command
from cmtree_jax.types import UserError
from experiments import claims
from experiments.claims import NATURAL, Results

EPOCHS = (1 / 16, 1 / 4, 1, 4, 16)  # of natural
CONCENTRATED = "crisp_64"
RECIPES = (NATURAL, CONCENTRATED)
MAX_WEIGHT = 16.0  # at 1/16 of an epoch one look
FRESH = (0.2, 0.4, 0.7, FULL)  # shares of the tokens, all fresh
SPLITS = ("validation", "test")

R_STARS = np.geomspace(0.05, 500, 185)  # 5 % apart
BETAS = np.geomspace(0.05, 3, 60)
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
  tables.show_files(list(show(parts, folder)))
  return 0


def _config_at(config: Any, epochs: float) -> Any:
  """The comparison at some epochs; only at the fewest, of several lengths."""
  own = config.copy_and_resolve_references().unlock()
  own.budget.epochs = epochs
  own.budget.max_epochs = MAX_WEIGHT * epochs
  own.budget.min_documents = 1
  own.compare.methods = ()
  own.compare.effective_sample_sizes = ()
  own.compare.final_presets = ()
  own.compare.natural_multiples = ()
  own.compare.noise_repeats = 0
  own.compare.fractions = FRESH if epochs == min(EPOCHS) else (FULL,)
  return own.lock()


class Point(NamedTuple):
  """One final training: how often it saw what, and its losses."""

  epochs: float
  fraction: float
  seed: int
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


def show(parts: Mapping[float, Results], folder: Path) -> Iterator[Path]:
  """Losses, fits and a figure for every set of targets."""
  first = parts[min(EPOCHS)]
  for target in first.targets:
    points = _points(parts, target)
    fits = {
      (split, form): _fits(points, split, worth)
      for split in SPLITS
      for form, worth in WORTH.items()
    }
    yield claims.write_table(
      folder / f"losses.{target}.md",
      f"Losses by epochs of natural, {target}",
      [
        *("recipe", "epochs", "share of the tokens", "most looks"),
        *("fresh / all tokens", *(f"{split} BPB" for split in SPLITS)),
      ],
      _losses(points),
    )
    yield claims.write_table(
      folder / f"fits.{target}.md",
      f"R* with its 95 % interval over seeds (deviation of the fit, BPB), {target}",
      [
        *("split", "what looks are worth", *RECIPES, "one for both"),
        f"{NATURAL} / {CONCENTRATED}",
      ],
      ([split, form, *fit.text()] for (split, form), fit in fits.items()),
    )
    form = next(iter(WORTH))
    yield _draw(
      points, fits["test", form], target, folder / f"repetition.{target}.svg"
    )


def _points(
  parts: Mapping[float, Results], target: str
) -> dict[str, list[Point]]:
  """By recipe, in the order of epochs, shares of the tokens and seeds."""
  from cmtree_jax.jobs import search

  data = parts[min(EPOCHS)].data()
  found: dict[str, list[Point]] = {recipe: [] for recipe in RECIPES}
  for epochs, part in parts.items():
    subpools = search.subpools(data, part.config)
    _require_large(part.config, subpools)
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


def _require_large(config: Any, subpools: Any) -> None:
  """Refuses a corpus that is smaller than the sub-pool of the fewest epochs."""
  pairs = int(subpools.pairs_N.sum())
  if _tokens(config, FULL) > config.budget.epochs * pairs:
    raise UserError(
      f"config.final.steps = {config.final.steps}: {_tokens(config, FULL):,} tokens "
      f"are more than {min(EPOCHS):g} epochs of a corpus of {pairs:,}. Take fewer "
      "steps or a larger corpus, in another --workdir."
    )


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
) -> tuple[np.ndarray, np.ndarray]:
  """What a final training sees: looks, and tokens seen so often."""
  from cmtree_jax.jobs import plan

  fraction, seed = training
  search = plan.of_comparison(part.config).search(recipe, target, seed)
  seen = subpools.of(_tokens(part.config, fraction), "final", seed)
  weight_N = seen.weights(np.exp(part.cells.log_w_N(search)))
  looks_N = np.round(weight_N * seen.epochs, 6)
  looks_G, group_N = np.unique(looks_N, return_inverse=True)
  return looks_G, np.bincount(group_N, np.where(looks_N, subpools.pairs_N, 0))


def beyond_first(n: np.ndarray, r_star: float) -> np.ndarray:
  """Muennighoff's: the first look counts in full."""
  return np.minimum(n, 1) - r_star * np.expm1(-np.maximum(n - 1, 0) / r_star)


def from_first(n: np.ndarray, r_star: float) -> np.ndarray:
  """Of the proximal objective."""
  return -r_star * np.expm1(-n / r_star)


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


def _effective_RP(points: Sequence[Point], worth: Worth) -> np.ndarray:
  """D' of every training under every R*, in units of all tokens."""
  most = max(point.total for point in points)
  return np.array(
    [[effective(one, r, worth) / most for one in points] for r in R_STARS]
  )


class Curve(NamedTuple):
  """Losses by effective tokens, under every R* that was tried."""

  error_R: np.ndarray  # sum of squares at the best exponent
  beta_R: np.ndarray  # that exponent


def curve(effective_RP: np.ndarray, bpb_P: np.ndarray) -> Curve:
  """The best E, B and beta for every R*; B is zero or more."""
  x_RBP = effective_RP[:, None, :] ** -BETAS[:, None]
  x_RBP = x_RBP - x_RBP.mean(axis=-1, keepdims=True)
  y_P = bpb_P - bpb_P.mean()
  xx_RB, xy_RB = (x_RBP**2).sum(axis=-1), np.maximum(x_RBP @ y_P, 0)
  error_RB = y_P @ y_P - np.where(xx_RB > 0, xy_RB**2 / (xx_RB + 1e-30), 0)
  best_R = error_RB.argmin(axis=1)
  return Curve(error_RB[np.arange(len(best_R)), best_R], BETAS[best_R])


class Fit(NamedTuple):
  """R* of the recipes, and of both at once, each with its own curve."""

  best: dict[str, float]  # by recipe, "" for both
  deviation: dict[str, float]  # bits per byte
  resampled: dict[str, np.ndarray]  # R* of resamples of the seeds
  predicted: dict[str, np.ndarray]  # BPB of the points, each recipe by its own
  together: dict[str, np.ndarray]  # by the R* of both

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


def _number(r_star: float) -> str:
  """R*, or the end of what was tried."""
  if r_star <= R_STARS[0]:
    return f"≤{r_star:.2g}"
  return f"≥{r_star:.3g}" if r_star >= R_STARS[-1] else f"{r_star:.2g}"


def _interval(values: np.ndarray) -> str:
  low, high = np.quantile(values, (0.025, 0.975))
  return f"[{low:.2g}, {high:.2g}]"


def _fits(
  points: Mapping[str, Sequence[Point]], split: str, worth: Worth
) -> Fit:
  effective_of = {
    recipe: _effective_RP(some, worth) for recipe, some in points.items()
  }
  bpb_of = {
    recipe: np.array([one.bpb[split] for one in some])
    for recipe, some in points.items()
  }
  seed_of = {
    recipe: np.array([one.seed for one in some])
    for recipe, some in points.items()
  }

  def fitted(chosen: Mapping[str, np.ndarray]) -> dict[str, Curve]:
    """Curves of the points at these places."""
    return {
      recipe: curve(effective_of[recipe][:, at], bpb_of[recipe][at])
      for recipe, at in chosen.items()
    }

  whole = fitted({recipe: np.arange(len(b)) for recipe, b in bpb_of.items()})
  at = _best(whole)
  seeds, rng = np.unique(seed_of[NATURAL]), np.random.default_rng(0)
  drawn = []
  for _ in range(RESAMPLES):  # the same seeds of both recipes: they are paired
    some = rng.choice(seeds, len(seeds))
    drawn.append(
      _best(
        fitted(
          {
            recipe: np.concatenate([np.flatnonzero(s == one) for one in some])
            for recipe, s in seed_of.items()
          }
        )
      )
    )
  return Fit(
    best={name: R_STARS[i] for name, i in at.items()},
    deviation={
      name: _deviation(whole, name, i, bpb_of) for name, i in at.items()
    },
    resampled={name: R_STARS[[one[name] for one in drawn]] for name in at},
    predicted=_predicted(
      whole, effective_of, bpb_of, {name: at[name] for name in whole}
    ),
    together=_predicted(
      whole, effective_of, bpb_of, dict.fromkeys(whole, at[""])
    ),
  )


def _best(curves: Mapping[str, Curve]) -> dict[str, int]:
  """Which R* fits best: each recipe, and all of them."""
  own = {name: int(one.error_R.argmin()) for name, one in curves.items()}
  total_R = sum(one.error_R for one in curves.values())
  return {**own, "": int(np.argmin(total_R))}


def _deviation(curves, name, at, bpb_of) -> float:
  names = [name] if name else list(curves)
  squares = sum(curves[one].error_R[at] for one in names)
  return float(np.sqrt(squares / sum(len(bpb_of[one]) for one in names)))


def _predicted(curves, effective_of, bpb_of, at) -> dict[str, np.ndarray]:
  """Bits per byte of the points on the curves of these R*."""
  found = {}
  for name, one in curves.items():
    x_P = effective_of[name][at[name]] ** -one.beta_R[at[name]]
    slope, offset = np.polyfit(x_P, bpb_of[name], 1)
    found[name] = offset + slope * x_P
  return found


def _losses(points: Mapping[str, Sequence[Point]]) -> Iterator[list[str]]:
  for recipe, some in points.items():
    for epochs, fraction in dict.fromkeys((p.epochs, p.fraction) for p in some):
      seeds = [p for p in some if (p.epochs, p.fraction) == (epochs, fraction)]
      yield [
        *(recipe, f"{epochs:g}", f"{fraction:g}"),
        f"{max(one.looks_G.max() for one in seeds):.3g}",
        f"{np.mean([one.unique / one.total for one in seeds]):.3f}",
        *(
          f"{np.mean([one.bpb[split] for one in seeds]):.3f}"
          for split in SPLITS
        ),
      ]


def _draw(
  points: Mapping[str, Sequence[Point]], fit: Fit, target: str, path: Path
) -> Path:
  """Losses of full trainings by epochs, and what the fits say of them."""
  figure, axes = claims.panels(len(RECIPES), width=3.6, height=3.2, zero=False)
  for ax, recipe in zip(axes, RECIPES, strict=True):
    some = points[recipe]
    full = np.array([one.fraction == FULL for one in some])
    epochs_P = np.array([one.epochs for one in some])[full]
    bpb_P = np.array([one.bpb["test"] for one in some])[full]
    ax.plot(
      epochs_P, bpb_P, "o", color="#767676", markersize=4, label="trainings"
    )
    for values_P, style, label in (
      (fit.predicted[recipe], "-", f"its own R* = {_number(fit.best[recipe])}"),
      (fit.together[recipe], "--", f"one R* = {_number(fit.best[''])}"),
    ):
      mean = [values_P[full][epochs_P == one].mean() for one in EPOCHS]
      color = claims.COLORS[0 if style == "-" else 1]
      ax.plot(EPOCHS, mean, style, color=color, linewidth=1.4, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xticks(EPOCHS, ["1/16", "1/4", "1", "4", "16"])
    ax.minorticks_off()
    ax.set_title(recipe, fontsize=10)
    ax.legend(frameon=False, fontsize=8)
  axes[0].set_ylabel("test bits per byte")
  figure.supxlabel(
    f"epochs of the pool, at equal tokens ({target})", fontsize=10
  )
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
