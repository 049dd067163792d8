"""What choosing documents costs: tokens, FLOPs, time and memory of every such method.

  python -m experiments.selection_cost --config quickstart --workdir runs/cost
  python -m experiments.selection_cost --config bench:FOLDER --workdir runs/cost_bench

Every method that weighs documents searches twice with its small options, in a process
of its own, on a corpus that is prepared already. The first search compiles, and makes
what the method reads of documents (counts of words, texts); the second finds that done.
A method that was measured is not measured again in the same workdir.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax.jobs.command import command
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import LOOPS
from cmtree_jax.types import UserError
from experiments import claims

TABLE = "cost.md"


class Took(NamedTuple):
  """What one method took; zeros and a reason where it could not search."""

  documents: int = 0
  corpus_tokens: int = 0
  tokens: float = 0  # that models read in the search
  flops: float = 0
  seconds: float = 0  # of the first search
  cpu_seconds: float = 0  # of all its threads and workers
  again: float = 0  # of the second
  peak_bytes: int = 0  # of the process, in the first search
  more_bytes: int = 0  # than before it
  refused: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.selection_cost",
    "What choosing documents costs, method by method.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Measures what is not measured yet, and writes the table."""
  from cmtree_jax.data import store

  workdir.mkdir(parents=True, exist_ok=True)
  spawn = multiprocessing.get_context("spawn")
  took = {}
  for name in _methods():
    file = workdir / f"{name}.json"
    if overwrite or not file.exists():
      # Of its own, or a method would find the memory and the programs of another.
      with ProcessPoolExecutor(1, spawn) as process:
        found = process.submit(measure, name, config).result()
      store.write_atomically(file, store.to_json(found._asdict()))
    took[name] = Took(**json.loads(file.read_text()))
  show(took, workdir)
  return 0


def _methods() -> list[str]:
  """The cheap ones first."""
  made = {name: module.make() for name, module in METHODS.items()}
  loops = list(LOOPS)
  chosen = [name for name, one in made.items() if one.weighs == "documents"]
  return sorted(chosen, key=lambda name: loops.index(made[name].loop))


def measure(name: str, config: Any) -> Took:
  """Two searches of a method on the corpus of a config."""
  from cmtree_jax.jobs import job as jobs
  from configs import method

  own = config.copy_and_resolve_references().unlock()
  method.make_small(own)
  own.method, own.baselines = name, ()
  with (
    tempfile.TemporaryDirectory() as folder,
    claims.opened(own.lock(), Path(folder)) as job,
  ):
    data = jobs.prepared(job)
    facts = len(data.pool), int(data.pool.tokens.pairs_N.sum())
    with own.unlocked():
      own.cache_dir = folder  # what is made of documents is made anew
    before = _from_here()
    try:
      cost, seconds, cpu = _search(name, job, data, "first")
      peak = _peak()
      _, again, _ = _search(name, job, data, "second")
    except (UserError, ValueError) as error:
      return Took(*facts, refused=str(error))
  return Took(*facts, *cost, seconds, cpu, again, peak, peak - before)


def _search(name: str, job: Any, data: Any, stage: str):
  """(cost, seconds, seconds of all processors) of one search."""
  from cmtree_jax.jobs import search

  begin, busy = time.monotonic(), _busy()
  found = search.weigh(
    name,
    job,
    data,
    search.partitions([name], job, data),
    seed=job.config.seed,
    stage=stage,
  )
  took = time.monotonic() - begin, _busy() - busy
  return found.cost, *(round(one, 2) for one in took)


def _busy() -> float:
  """Seconds of this process's threads and of the workers that have ended."""
  used = os.times()
  return sum((used.user, used.system, used.children_user, used.children_system))


def _from_here() -> int:
  """Begins to measure the peak of memory; returns the bytes held now.

  Linux forgets earlier peaks when it is asked to; elsewhere they count.
  """
  refs = Path("/proc/self/clear_refs")
  if not refs.exists():
    return _peak()
  refs.write_text("5")
  return _status("VmRSS")


def _peak() -> int:
  from cmtree_jax.jobs import workdir

  if Path("/proc/self/status").exists():
    return _status("VmHWM")
  return workdir.peak_rss_bytes()


def _status(field: str) -> int:
  """A field of Linux's account of this process, in bytes."""
  lines = Path("/proc/self/status").read_text().splitlines()
  (line,) = (line for line in lines if line.startswith(f"{field}:"))
  return 1024 * int(line.split()[1])


def show(took: dict[str, Took], workdir: Path) -> Path:
  """One row for each method."""
  first = next(iter(took.values()))
  rows = []
  for name, one in took.items():
    loop = METHODS[name].make().loop
    if one.refused:
      rows.append([name, loop, one.refused, *[""] * 7])
      continue
    rows.append(
      [
        name,
        loop,
        f"{one.tokens / 1e6:.2f}",
        f"{one.flops:.1e}" if one.flops else "0",
        f"{one.seconds:.1f}",
        f"{one.cpu_seconds:.1f}",
        f"{one.again:.1f}",
        f"{one.peak_bytes / 2**20:,.0f}",
        f"{one.more_bytes / 2**20:,.0f}",
        f"{one.more_bytes / one.documents / 1000:.1f}",
      ]
    )
  return claims.write_table(
    workdir / TABLE,
    f"One search on {first.documents:,} documents of {first.corpus_tokens:,} tokens",
    [
      *("method", "loop", "M tokens read", "FLOPs"),
      *("seconds", "CPU seconds", "seconds again"),
      *("peak MiB", "MiB of the search", "kB a document"),
    ],
    rows,
  )


if __name__ == "__main__":
  sys.exit(main())
