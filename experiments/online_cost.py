"""What an event of an online run costs, by model size and length of its window.

  python -m experiments.online_cost --config online --workdir runs/online_cost

One event measures values through the last K steps of a stretch and moves the tree. It is
told in ordinary training steps, by the FLOPs of its models and by the wall time of all
that it does, and as a share of the run at several cadences. Every cell is one run of five
stretches of 128 steps, in a process of its own; the corpus is prepared first. A cell that
was measured is not measured again in the same workdir.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax.jobs.command import command
from experiments import claims

PRESETS = ("0.1m", "0.3m", "1.6m", "4m")
UNROLLS = (4, 8, 16)  # K
STRETCHES = (64, 128, 256)  # training steps from one event to the next
# Of a run. A training step is slower right after an event, so that events closer to
# each other would seem cheaper.
_STRETCH, _EVENTS = 128, 4


class Took(NamedTuple):
  """What one event took, in ordinary training steps of its model."""

  parameters: int
  flops: float  # of the models' passes
  time: float  # of everything
  peak_bytes: int  # of the process


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.online_cost",
    "What an event of an online run costs, by size and window.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Measures what is not measured yet, and writes the table."""
  from cmtree_jax.data import store
  from cmtree_jax.jobs import build
  from cmtree_jax.jobs import job as jobs
  from cmtree_jax.report import tables
  from cmtree_jax.types import UserError

  if build.make_method(config.method, config).loop != "values":
    raise UserError(
      f"config.method = {config.method!r} measures no values in a training; take "
      "one that does, such as cmtree or tilts."
    )
  workdir.mkdir(parents=True, exist_ok=True)
  with claims.opened(config, workdir) as job:
    jobs.prepared(job)
  spawn = multiprocessing.get_context("spawn")
  took = {}
  for preset in PRESETS:
    for unroll in UNROLLS:
      file = workdir / f"{preset}.{unroll}.json"
      if overwrite or not file.exists():
        # Of its own, or a run would find the memory and the programs of another.
        with ProcessPoolExecutor(1, spawn) as process:
          found = process.submit(measure, preset, unroll, config).result()
        store.write_atomically(file, store.to_json(found._asdict()))
      took[preset, unroll] = Took(**json.loads(file.read_text()))
  tables.show_files([show(took, workdir)])
  return 0


def measure(preset: str, unroll: int, config: Any) -> Took:
  """One short run of the config's method."""
  from cmtree_jax.jobs import cells, online, search, workdir
  from cmtree_jax.jobs import job as jobs

  own = config.copy_and_resolve_references().unlock()
  own.final.preset = preset
  own.final.steps = _STRETCH * (_EVENTS + 1)
  own.final.steps_per_call = unroll
  own.online.update(
    dict(on=True, unroll=unroll, every=_STRETCH // unroll, saves=0)
  )
  with (
    tempfile.TemporaryDirectory() as folder,
    claims.opened(own.lock(), Path(folder)) as job,
  ):
    data = jobs.prepared(job)
    parts = search.partitions([own.method], job, data)
    cell = cells.Search(own.method, "all", 0)
    task = online.Task(cell, job, data, parts)
    (found,) = online.run([task], cells.Folder(job.workdir))
  steps_of_events = own.final.steps / _EVENTS
  return Took(
    parameters=found.size.num_parameters,
    flops=found.flops_share * steps_of_events,
    time=found.trained.time_overhead * _STRETCH,
    peak_bytes=workdir.peak_rss_bytes(),
  )


def show(took: dict[tuple[str, int], Took], workdir: Path) -> Path:
  """One row for each size and window."""
  return claims.write_table(
    workdir / "cost.md",
    "An event in training steps, and its share of a run: FLOPs, time",
    [
      *("parameters", "K", "FLOPs", "time"),
      *(f"every {stretch} steps" for stretch in STRETCHES),
      "peak MiB",
    ],
    [
      [
        f"{one.parameters:,}",
        f"{unroll}",
        f"{one.flops:.1f}",
        f"{one.time:.1f}",
        *(
          f"{one.flops / stretch:.1%}, {one.time / stretch:.1%}"
          for stretch in STRETCHES
        ),
        f"{one.peak_bytes / 2**20:,.0f}",
      ]
      for (_, unroll), one in took.items()
    ],
  )


if __name__ == "__main__":
  sys.exit(main())
