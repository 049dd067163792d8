"""Which methods are alike: rank correlations of the weights that they give documents.

  python -m experiments.likeness --config claims:toy --workdir runs/budget/epochs_1

Searches what is not searched yet in WORKDIR/cells, and trains nothing else. Documents
count alike, and so do sets of targets. A method that weighs domains or leaves has many
ties; they get their mean rank. On the diagonal stands a method's first search against
its second: what no other method can reach.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.against_everything import ALL

_PAIRS = 20  # that are listed
_TOLD = 0.3  # rho whose number stands in the figure
_EQUAL = 1e-5  # difference of log-weights that is rounding


class Likeness(NamedTuple):
  """Rank correlations of M methods, like ones beside each other."""

  methods: tuple[str, ...]
  rho_MM: (
    np.ndarray
  )  # mean over sets of targets; NaN on the diagonal: one search


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.likeness",
    "Rank correlations of the weights of all methods.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Searches, then draws."""
  own = claims.plain(config)
  own.compare.methods = tuple(own.compare.methods) or ALL
  folder = workdir / "likeness"
  return claims.searched(
    own.lock(),
    workdir,
    folder.name,
    lambda comparison: show(likeness(_weights(comparison)), folder),
    overwrite=overwrite,
  )


# Method -> set of targets -> log-weights [N] of each search.
Weights = Mapping[str, Mapping[str, Sequence[np.ndarray]]]


def _weights(comparison: Any) -> Weights:
  """Of all searches of a comparison."""
  plan, folder = comparison.plan, comparison.folder
  searches = range(plan.search_seeds)
  return {
    method: {
      target: [
        folder.log_w_N(plan.search(method, target, seed)) for seed in searches
      ]
      for target in plan.target_sets
    }
    for method in plan.methods
  }


def likeness(weights: Weights) -> Likeness:
  """Correlations and an order of the methods; without those of equal weights."""
  methods = [
    name
    for name, of in weights.items()
    if all(np.ptp(one[0]) > _EQUAL for one in of.values())
  ]
  targets = list(next(iter(weights.values())))
  rho_MM = np.zeros((len(methods), len(methods)))
  for target in targets:
    first = [_ranks(weights[name][target][0]) for name in methods]
    rho_MM += np.array([[a @ b for b in first] for a in first]) / len(targets)
  again = [_again(weights[name]) for name in methods]
  order = _order(rho_MM)
  np.fill_diagonal(rho_MM, again)
  return Likeness(
    tuple(methods[i] for i in order), rho_MM[np.ix_(order, order)]
  )


def _ranks(log_w_N: np.ndarray) -> np.ndarray:
  """Ranks of mean zero and length one: their products are Spearman's rho."""
  from scipy.stats import rankdata

  rank_N = rankdata(log_w_N)
  rank_N -= rank_N.mean()
  return rank_N / np.linalg.norm(rank_N)


def _again(of_method: Mapping[str, Sequence[np.ndarray]]) -> float:
  """The first search against the second, mean over sets of targets."""
  pairs = [one[:2] for one in of_method.values()]
  if min(map(len, pairs)) < 2:
    return np.nan
  return float(np.mean([_ranks(a) @ _ranks(b) for a, b in pairs]))


def _order(rho_MM: np.ndarray) -> np.ndarray:
  """The leaves of a tree of average linkage, like ones beside each other."""
  from scipy.cluster import hierarchy
  from scipy.spatial.distance import squareform

  if len(rho_MM) < 3:
    return np.arange(len(rho_MM))
  distance_MM = np.clip(1 - rho_MM, 0, 2)
  np.fill_diagonal(distance_MM, 0)
  distance = squareform(distance_MM, checks=False)
  return hierarchy.leaves_list(
    hierarchy.linkage(distance, "average", optimal_ordering=True)
  )


def show(found: Likeness, folder: Path) -> Iterator[Path]:
  """The matrix, the pairs that are most alike, and a heat map."""
  methods, rho_MM = found
  yield claims.write_table(
    folder / "likeness.md",
    "Spearman's rho of the weights of documents",
    ["method", *methods],
    (
      [name, *(_cell(rho) for rho in rho_M)]
      for name, rho_M in zip(methods, rho_MM, strict=True)
    ),
    printed=False,
  )
  one, other = np.triu_indices(len(methods), 1)
  best = np.argsort(-rho_MM[one, other], kind="stable")[:_PAIRS]
  yield claims.write_table(
    folder / "pairs.md",
    "The methods that are most alike",
    ["method", "other", "rho", "the method again", "the other again"],
    (
      [
        *(methods[i], methods[j], _cell(rho_MM[i, j])),
        *(_cell(rho_MM[i, i]), _cell(rho_MM[j, j])),
      ]
      for i, j in zip(one[best], other[best], strict=True)
    ),
  )
  yield _draw(found, folder / "likeness.svg")


def _cell(rho: float) -> str:
  return "" if np.isnan(rho) else f"{rho:+.2f}"


def _draw(found: Likeness, path: Path) -> Path:
  from matplotlib.figure import Figure

  methods, rho_MM = found
  size = 0.27 * len(methods)
  # "compressed", as the axes are square: else names at the edge may be cut.
  figure = Figure((size + 3.2, size + 1.8), layout="compressed")
  ax = figure.subplots()
  image = ax.imshow(rho_MM, cmap="RdBu_r", vmin=-1, vmax=1)
  ax.set_xticks(range(len(methods)), methods, rotation=90, fontsize=8)
  ax.set_yticks(range(len(methods)), methods, fontsize=8)
  ax.tick_params(length=0)
  for (i, j), rho in np.ndenumerate(rho_MM):
    if abs(rho) >= _TOLD:
      color = "white" if abs(rho) > 0.6 else "black"
      text = f"{rho:.1f}".replace("0.", ".")
      ax.text(j, i, text, ha="center", va="center", fontsize=6, color=color)
  ax.spines[:].set_visible(False)
  bar = figure.colorbar(image, shrink=0.5)
  bar.set_label("Spearman's rho; diagonal: search against search", fontsize=8)
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
