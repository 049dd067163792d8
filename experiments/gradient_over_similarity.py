"""What the gradient adds to similarity: from the start, round by round.

  python -m experiments.gradient_over_similarity --config claims:toy --workdir runs/claims

The start is the density ratio of target and corpus, fitted by the tree. Each round of
values should gain on it, and values shuffled among documents must not. Hypergradients of
several costs, and unrolls of several lengths, show what matters in the direction.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import Results

ROUNDS = range(4)
START, TREE = "rounds_0", "joint_16"
ESTIMATORS = {
  "difference (exact direction)": TREE,
  "exact": "unrolled",
  "first order": "first_order",
  "one step": "one_step",
}
UNROLLS = {
  "unroll of 1": "window_1",
  "unroll of 4": "window_4",
  "unroll of 16": TREE,
  "unroll of 64": "window_64",
  "unroll of 128, of new proxies": "whole",
}
SHUFFLED, NO_NOISE = "shuffled", "no_noise"
KMEANS = {"start: k-means": "kmeans_0", "k-means, then values": "kmeans"}
FLAT = "crisp_256"  # similarity on the finest partition


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.gradient_over_similarity",
    "What each round of values adds to a start by similarity.",
    claims.job("gradient_over_similarity", _methods(), show),
    arguments,
  )


def _methods():
  names = [f"rounds_{n}" for n in ROUNDS]
  names += [*ESTIMATORS.values(), *UNROLLS.values(), SHUFFLED, NO_NOISE, FLAT]
  names += KMEANS.values()
  return list(dict.fromkeys(names))


def show(found: Results) -> Iterator[Path]:
  """The figure of the rounds, all differences to the start, and the limits."""
  rounds = _rounds(found)
  figure, axes = claims.panels(len(found.targets))
  for ax, target in zip(axes, found.targets, strict=True):
    points = {
      float(n): found.difference(name, START, target)
      for n, name in rounds.items()
    }
    claims.line(ax, points, color=claims.COLORS[0], label="tree")
    if found.trained([SHUFFLED]):
      last = {max(points): found.difference(SHUFFLED, START, target)}
      claims.line(
        ax, last, color=claims.COLORS[1], marker="s", label="values shuffled"
      )
    if found.trained([FLAT]):
      flat = found.difference(FLAT, START, target).mean
      ax.axhline(
        flat, color="#767676", linestyle="--", label="CRISP, 256 clusters"
      )
    ax.set_title(target, fontsize=10)
    ax.set_xticks(list(rounds))
  axes[0].set_ylabel("test BPB - the start's")
  figure.supxlabel(
    "rounds of values (0: the start by the density ratio)", fontsize=10
  )
  claims.legend(figure, axes)
  yield claims.save(figure, found.folder / "rounds.svg")
  named = {
    **{f"after round {n}": name for n, name in rounds.items() if n},
    "values shuffled": SHUFFLED,
    "without Gumbel noise": NO_NOISE,
    **ESTIMATORS,
    **UNROLLS,
    **KMEANS,
    "CRISP, 256 clusters": FLAT,
  }
  yield claims.write_table(
    found.folder / "gradient.md",
    "Test bits per byte - those of the start",
    ["search", *found.targets],
    (
      [
        label,
        *(
          claims.signed(found.difference(name, START, target))
          for target in found.targets
        ),
      ]
      for label, name in named.items()
      if found.trained([name])
    ),
  )
  yield claims.write_table(
    found.folder / "limits.md",
    "What became of the gain of a search, bits per byte (lower is better)",
    [
      *("target", "search", "predicted", "on held-out values"),
      *("measured by lookahead", "final, validation", "final, test"),
    ],
    (
      _limits(found, label, name, target)
      for target in found.targets
      for name, label in {
        **{name: label for label, name in UNROLLS.items()},
        **{name: f"rounds: {n}" for n, name in rounds.items() if n},
      }.items()
      if found.trained([name])
    ),
  )


def _rounds(found: Results) -> dict[int, str]:
  """Number of rounds -> the search that has so many."""
  names = {n: f"rounds_{n}" for n in ROUNDS}
  names[found.config["values"].rounds] = TREE
  return {n: name for n, name in names.items() if found.trained([name])}


def _limits(found: Results, label: str, name: str, target: str) -> list[str]:
  """From the values' promise to the final model: each step loses something else.

  Of the steps that were kept, values held out by proxy show what the noise of the
  signal takes, the lookahead what a whole cooldown on the new weights gives, and
  validation and test what is left on other texts after a training from the start.
  """
  history = found.found(name, target).history
  promised = [
    f"{-sum(row[field] * row['kept'] for row in history):+.3f}"
    for field in ("predicted_gain", "heldout_gain", "gain")
  ]
  final = [
    claims.signed(found.difference(name, START, target, split))
    for split in ("validation", "test")
  ]
  return [target, label, *promised, *final]


if __name__ == "__main__":
  sys.exit(main())
