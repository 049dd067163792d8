"""The order of recipes by budget: trainings of a quarter, one and four epochs.

  python -m experiments.budget --config claims:toy --workdir runs/budget

Every method searches, is tried and is trained for each budget anew, at matched
repetition and at its own best concentration. `WORKDIR/epochs_4` holds the cells of four
epochs; other experiments share them with --config.budget.epochs=4 and
--config.budget.max_epochs=8 in that workdir.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import NATURAL, Results

EPOCHS = (1 / 4, 1, 4)
METHODS = ("joint_16", "frozen_16", *claims.FREE)


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.budget",
    "The order of methods at a quarter, one and four epochs.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Compares at each budget, then shows all of them side by side."""
  from cmtree_jax.report import tables

  status, parts = claims.at_epochs(
    config, workdir, "budget", METHODS, EPOCHS, overwrite=overwrite
  )
  if not status:
    tables.show_files(list(show(parts, workdir / "budget")))
  return status


def show(parts: Mapping[float, Results], folder: Path) -> Iterator[Path]:
  """A table for every set of targets, and one figure."""
  first = next(iter(parts.values()))
  methods = first.trained(first.config.compare.methods)
  for target in first.targets:
    yield claims.write_table(
      folder / f"epochs.{target}.md",
      f"Test bits per byte (- natural's; kept share) by epochs, {target}",
      ["recipe", *(f"{epochs:g}" for epochs in parts)],
      [
        [method, *(_cell(found, method, target) for found in parts.values())]
        for method in [NATURAL, *methods]
      ],
    )
  yield _draw(parts, methods, folder / "epochs.svg")


def _cell(found: Results, method: str, target: str) -> str:
  bpb = found.bpb(method, target)
  mean = f"{sum(bpb) / len(bpb):.3f}"
  if method == NATURAL:
    return mean
  difference = claims.signed(found.difference(method, NATURAL, target))
  kept = found.value(method, target, "effective_sample_size")
  return f"{mean} ({difference}; {kept:.2f})"


def _draw(
  parts: Mapping[float, Results], methods: Sequence[str], path: Path
) -> Path:
  targets = next(iter(parts.values())).targets
  figure, axes = claims.panels(len(targets))
  for ax, target in zip(axes, targets, strict=True):
    for number, method in enumerate(methods):
      points = {
        epochs * 1.04 ** (number - len(methods) / 2): found.difference(
          method, NATURAL, target
        )
        for epochs, found in parts.items()
      }
      claims.line(
        ax,
        points,
        color=claims.COLORS[number % len(claims.COLORS)],
        marker="os^vD"[number % 5],
        label=method,
      )
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(parts), [f"{epochs:g}" for epochs in parts])
    ax.minorticks_off()
    ax.set_title(target, fontsize=10)
  axes[0].set_ylabel("test BPB - natural's")
  figure.supxlabel(
    "epochs of the corpus (95 % intervals over searches)", fontsize=10
  )
  claims.legend(figure, axes)
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
