"""What a search may cost: quality against its FLOPs, and where its time goes.

  python -m experiments.search_cost --config claims:toy --workdir runs/claims

Compares searches that cost about 1, 3, 10 and 30 % of the FLOPs of the largest model's
final training with the usual search and with similarity, and times one search stage by
stage.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.jobs.command import command
from configs.claims import BUDGETS
from experiments import claims
from experiments.claims import NATURAL, Results

SEARCHES = tuple(f"budget_{n}" for n in range(1, len(BUDGETS) + 1))
TREE = "joint_16"
START = ("rounds_0", "crisp_256")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""

  return command(
    "experiments.search_cost",
    "Quality against the FLOPs of the search, and where its time goes.",
    claims.job("search_cost", [*SEARCHES, TREE, *START], show, sizes=True),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """Quality by cost as a table and a figure; the times of one search."""
  searches = found.trained([*SEARCHES, TREE])
  yield claims.write_table(
    found.folder / "cost.md",
    "Test bits per byte - natural's (search FLOPs / final FLOPs)",
    ["search", *found.targets],
    (
      [s, *(_cell(found, s, t) for t in found.targets)]
      for s in searches + found.trained(START)
    ),
  )
  yield _draw(found, searches, found.folder / "cost.svg")
  yield _profile(found)


def _share(found, search, target):
  flops = found.value(search, target, "search_flops")
  return flops / found.value(search, target, "final_flops")


def _cell(found, search, target):
  difference = claims.signed(found.difference(search, NATURAL, target))
  return f"{difference} ({_share(found, search, target):.1%})"


def _draw(found: Results, searches: Sequence[str], path: Path) -> Path:
  figure, axes = claims.panels(len(found.targets))
  for ax, target in zip(axes, found.targets, strict=True):
    points = {
      _share(found, name, target): found.difference(name, NATURAL, target)
      for name in searches
    }
    claims.line(
      ax,
      dict(sorted(points.items())),
      color=claims.COLORS[0],
      label="tree",
    )
    for name, style in zip(found.trained(START), ("--", ":"), strict=False):
      mean = found.difference(name, NATURAL, target).mean
      label = {"rounds_0": "its start", "crisp_256": "CRISP, 256 clusters"}[
        name
      ]
      ax.axhline(mean, color="#767676", linestyle=style, label=label)
    ax.set_xscale("log")
    ticks = [t for t in _TICKS if min(points) / 2 < t < 2 * max(points)]
    ax.set_xticks(ticks, [f"{100 * t:g} %" for t in ticks])
    ax.minorticks_off()
    ax.set_title(target, fontsize=10)
  axes[0].set_ylabel("test BPB - natural's")
  figure.supxlabel("FLOPs of the search / of the final training", fontsize=10)
  claims.legend(figure, axes)
  return claims.save(figure, path)


_TICKS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


def _profile(found: Results) -> Path:
  """Writes the seconds of every stage of one search, compilation not counted."""
  import tempfile

  from cmtree_jax.jobs import search as searches
  from cmtree_jax.jobs import variants
  from cmtree_jax.jobs.job import Job
  from cmtree_jax.loops.checkpoint import StopFlag

  class Clock:
    """Takes the place of the progress bar: a report ends a stage."""

    def __init__(self):
      self.last, self.seconds = time.monotonic(), {}

    def say(self, line: str) -> None:
      """Takes a line that nobody reads here."""

    def advance(self, work: float, text: str) -> None:
      """Books the time since the last report."""
      stage = text.partition(": ")[2] or text
      stage = stage.partition(":")[0]  # what follows differs by round
      now = time.monotonic()
      self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self.last
      self.last = now

  config = variants.config_of(TREE, found.config)
  data = found.data()
  target = found.targets[0].split("+")[0].split(">")[0]
  data = data._replace(targets={target: data.targets[target]})
  for _ in range(2):  # the first compiles
    with tempfile.TemporaryDirectory() as folder:
      clock: Any = Clock()
      job = Job(config, Path(folder), clock, StopFlag())
      searches.weigh(
        "cmtree",
        job,
        data,
        searches.partitions(["cmtree"], job, data),
        seed=config.seed,
        stage="search",
      )
  total = sum(clock.seconds.values())
  return claims.write_table(
    found.folder / "profile.md",
    "Where the time of one search goes",
    ["stage", "seconds", "share"],
    (
      [stage, f"{seconds:.2f}", f"{seconds / total:.0%}"]
      for stage, seconds in sorted(
        clock.seconds.items(), key=lambda item: -item[1]
      )
    ),
  )


if __name__ == "__main__":
  sys.exit(main())
