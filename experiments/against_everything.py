"""Every method of the package side by side, at a quarter and at one epoch.

  python -m experiments.against_everything --config claims:toy --workdir runs/budget

Mixtures, selections of documents, trees and controls, each at the concentration that
trials find best for it, at matched repetition. A budget that the config sets
(--config.budget.epochs=0.25) is the only one. `WORKDIR/epochs_1` holds the cells of
one epoch, which `experiments.budget` and `experiments.likeness` share.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import MEAN, NATURAL
from cmtree_jax.jobs.command import command
from configs import compare
from experiments import claims
from experiments.claims import Results

TREE = "joint_16"
EPOCHS = (1 / 4, 1)
# `joint_16` is the tree, and its start and the classifiers are among what is free.
_NAMED = ("cmtree", "crisp", NATURAL)
ALL = tuple(
  dict.fromkeys(
    [
      TREE,
      *claims.FREE,
      *(name for name in compare.ALL if name not in _NAMED),
    ]
  )
)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.against_everything",
    "Every method side by side, at a quarter and at one epoch.",
    claims.over_budgets("against_everything", ALL, EPOCHS, show),
    arguments,
  )


def show(parts: Mapping[float, Results], folder: Path) -> Iterator[Path]:
  """One table of all methods; for each budget one by target, and the tree's."""
  first = next(iter(parts.values()))
  yield claims.write_table(
    folder / "all.md",
    "Test bits per byte - natural's, mean over sets of targets, by epochs",
    ["method", "weighs", "loop", *(f"{epochs:g}" for epochs in parts)],
    [
      [method, *_nature(method, first), *(f"{x:+.3f}" for x in means)]
      for method, means in _means(parts)
    ],
  )
  for epochs, found in parts.items():
    methods = [method for method, _ in _means({epochs: found})]
    yield claims.write_table(
      folder / f"targets.epochs_{epochs:g}.md",
      f"Test bits per byte (- natural's; kept share), {epochs:g} epochs",
      ["method", *found.targets, "search / final FLOPs"],
      [_line(NATURAL, found), *(_line(method, found) for method in methods)],
    )
    yield claims.write_table(
      folder / f"tree.epochs_{epochs:g}.md",
      f"The tree on every target, test bits per byte, {epochs:g} epochs",
      [
        *("target", "BPB", "- natural"),
        *(f"- {other}" for other in found.trained(claims.FREE)),
        *("best other", "- best other", "verdict"),
      ],
      _of_tree(found),
    )


def _means(
  parts: Mapping[float, Results],
) -> list[tuple[str, list[float]]]:
  """Methods with their means over sets of targets, by budget; the best first."""
  first = next(iter(parts.values()))
  found = [
    (
      method,
      [
        sum(one.difference(method, NATURAL, t).mean for t in one.targets)
        / len(one.targets)
        for one in parts.values()
      ],
    )
    for method in first.trained(first.config.compare.methods)
    if method != NATURAL
  ]
  return sorted(found, key=lambda item: sum(item[1]))


def _nature(name: str, found: Results) -> tuple[str, str]:
  """What a method has weights for, and its loop."""
  from cmtree_jax.jobs import plan

  method = plan.method_of(name, found.config)
  return method.weighs, method.loop


def _line(method: str, found: Results) -> list[str]:
  """A method on every set of targets."""
  line = [method]
  for target in found.targets:
    bpb = found.bpb(method, target)
    cell = f"{sum(bpb) / len(bpb):.3f}"
    if method != NATURAL:
      difference = claims.signed(found.difference(method, NATURAL, target))
      kept = found.value(method, target, "effective_sample_size")
      cell += f" ({difference}; {kept:.2f})"
    line.append(cell)
  shares = [
    found.value(method, target, "search_flops")
    / found.value(method, target, "final_flops")
    for target in found.targets
  ]
  return [*line, f"{sum(shares) / len(shares):.2f}"]


def _of_tree(found: Results) -> Iterator[list[str]]:
  """One row per set of targets."""
  from cmtree_jax.evaluate.results import standings

  free = found.trained(claims.FREE)
  for one in standings(found.rows, seeds=found.config.compare.seeds):
    if one.method != TREE or one.target not in (one.target_set, MEAN):
      continue  # a union of targets shows only its mean
    target = one.target_set
    to_best = found.difference(TREE, one.best_other, target)
    yield [
      target,
      f"{one.bpb:.3f}",
      claims.signed(found.difference(TREE, NATURAL, target)),
      *(claims.signed(found.difference(TREE, other, target)) for other in free),
      one.best_other,
      claims.signed(to_best),
      statistics.verdict(to_best, one.noise_floor),
    ]


if __name__ == "__main__":
  sys.exit(main())
