"""How time, memory and disk grow with the corpus that a recipe is applied to.

    python -m experiments.scale --folder D [--documents N ...] [--recipe W] [--json F]

Writes corpora of made-up words, of 16 topics and 20 to 60 words a document, and runs
the job that applies a recipe to each: it reads, tokenizes and embeds every document,
gives it a leaf and a weight, and exports. The recipe is learned first with
`configs/smoke.py`, unless one is given. Memory is anonymous memory, so that pages of
mapped files do not count. What was measured is kept in D; the same command
goes on with the next corpus.
Ten million documents take 20 GB of disk there.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import bench_data

_TOPICS, _WORDS = 16, 20_000
_IN_FILE = 100_000  # documents
_CONFIG = Path(__file__).parents[1] / "configs" / "smoke.py"
# What the job says, in this order, and the stage that is done with it.
_STAGES = {"read": "Read ", "prepare": "Tokenized and embedded "}


class Row(NamedTuple):
  """One corpus: seconds, and bytes for each document where not said otherwise."""

  documents: int
  cpu_seconds: float  # of all its processes
  seconds: float  # on the clock, and by stage:
  read_seconds: float
  prepare_seconds: float  # tokenize and embed
  apply_seconds: float  # leaf, weight and export
  main_bytes: int  # the most that the job's own process held, in all
  all_bytes: int  # the same of all its processes together
  prepared_bytes: float  # on disk
  written_bytes: float  # on disk: documents.parquet and the export


def main() -> None:
  """Reads the flags, measures, and writes table and JSON."""
  flags = _flags()
  folder = Path(flags.folder)
  recipe = Path(flags.recipe) if flags.recipe else _recipe(folder)
  rows = [_row(folder, documents, recipe) for documents in flags.documents]
  if flags.json:
    text = json.dumps([row._asdict() for row in rows], indent=1)
    Path(flags.json).write_text(text + "\n")
  Console(width=150).print(table(rows))


def _flags() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--folder", required=True, help="for everything made")
  parser.add_argument(
    "--documents", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000]
  )
  parser.add_argument("--recipe", help="workdir of a job that learned one")
  parser.add_argument("--json", help="file for the rows")
  return parser.parse_args()


def table(rows: list[Row]) -> Table:
  """The rows for a person; below each pair what one more document costs."""
  made = Table(*(name.replace("_", " ") for name in Row._fields))
  for before, row in zip([None, *rows], rows, strict=False):
    made.add_row(*(f"{value:,.0f}" for value in row))
    if before is not None:
      more = row.documents - before.documents
      made.add_row(
        "each more",
        *(
          f"{(value - old) / more:,.2g}"
          for value, old in zip(row[1:6], before[1:6], strict=True)
        ),
        *(
          f"{(value - old) / more:,.1f}"
          for value, old in zip(row[6:8], before[6:8], strict=True)
        ),
      )
  return made


def _recipe(folder: Path) -> Path:
  workdir = folder / "recipe"
  command = _command(workdir, cache=folder / "cache_of_recipe")
  subprocess.run(command, check=True)
  return workdir


def _command(workdir: Path, *settings: str, cache: Path) -> list[str]:
  overrides = [f"--config.{one}" for one in (f"cache_dir={cache}", *settings)]
  flags = ["--config", str(_CONFIG), "--workdir", str(workdir), *overrides]
  return [sys.executable, "-m", "cmtree_jax.main", *flags]


def _row(folder: Path, documents: int, recipe: Path) -> Row:
  place = folder / str(documents)
  kept = place / "row.json"
  if kept.exists():
    return Row(**json.loads(kept.read_text()))
  write(place / "pool", documents)
  for half_done in ("applied", "cache"):  # its time is lost
    shutil.rmtree(place / half_done, ignore_errors=True)
  command = _command(
    place / "applied",
    f"recipe.apply={recipe}",
    f"data.source=parquet:{place / 'pool' / '*.parquet'}",
    "export.formats=parquet",
    cache=place / "cache",
  )
  cpu = _cpu_seconds()
  seconds, memory = _watched(command)
  read, prepare = (seconds[name] for name in _STAGES)
  row = Row(
    documents=documents,
    cpu_seconds=_cpu_seconds() - cpu,
    seconds=seconds["end"],
    read_seconds=read,
    prepare_seconds=prepare - read,
    apply_seconds=seconds["end"] - prepare,
    main_bytes=memory.main,
    all_bytes=memory.all,
    prepared_bytes=_size(place / "cache" / "prepared") / documents,
    written_bytes=_size(place / "applied") / documents,
  )
  kept.write_text(json.dumps(row._asdict()))
  return row


def write(folder: Path, documents: int) -> None:
  """Parquet files of documents; those that a stopped run has written are kept."""
  import pyarrow as pa
  import pyarrow.parquet as pq

  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  syllables = np.array([c + v for c in "bdfgklmnprstvz" for v in "aeiou"])
  word_V = np.array(
    ["".join(rng.choice(syllables, n)) for n in rng.integers(1, 5, _WORDS)],
    object,
  )
  # Zipf's law with a flat head, in another order for each topic.
  share_V = 1 / (np.arange(_WORDS) + 10.0)
  below_V = np.cumsum(share_V / share_V.sum())
  order_KV = [rng.permutation(_WORDS) for _ in range(_TOPICS)]
  for first in range(0, documents, _IN_FILE):
    path = folder / f"{first // _IN_FILE:05d}.parquet"
    if path.exists():
      continue
    rng = np.random.default_rng(first)
    numbers = range(first, min(first + _IN_FILE, documents))
    texts = []
    for topic, length in zip(
      rng.integers(0, _TOPICS, len(numbers)),
      rng.integers(20, 61, len(numbers)),
      strict=True,
    ):
      rank_T = np.searchsorted(below_V[:-1], rng.random(length))
      texts.append(" ".join(word_V[order_KV[topic][rank_T]]))
    made = pa.table({"id": [f"{n:010d}" for n in numbers], "text": texts})
    whole = path.with_suffix(".part")
    pq.write_table(made, whole)
    whole.rename(path)


def _cpu_seconds() -> float:
  """That processes which this one started have taken, and theirs."""
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return used.ru_utime + used.ru_stime


class _Memory(NamedTuple):
  main: int
  all: int


def _watched(command: list[str]) -> tuple[dict[str, float], _Memory]:
  """Runs a job: (seconds from the start to each stage's end, the most memory)."""
  begin = time.monotonic()
  seconds: dict[str, float] = {}
  with subprocess.Popen(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  ) as process:
    most = [0, 0]
    done = threading.Event()

    def watch() -> None:
      while not done.wait(0.1):
        held = _anonymous_bytes(process.pid)
        own, every = held.get(process.pid, 0), sum(held.values())
        most[:] = max(most[0], own), max(most[1], every)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    assert process.stdout is not None
    for line in process.stdout:
      print(line, end="", flush=True)
      for name, start in _STAGES.items():
        if re.match(start, line):
          seconds[name] = time.monotonic() - begin
    done.set()
    watcher.join()
  if process.returncode:
    sys.exit(process.returncode)
  return {**seconds, "end": time.monotonic() - begin}, _Memory(*most)


def _anonymous_bytes(group: int) -> dict[int, int]:
  """By process, of a process group; what has ended meanwhile is left out."""
  found = {}
  for name in filter(str.isdigit, os.listdir("/proc")):
    with contextlib.suppress(OSError):
      if os.getpgid(int(name)) == group:
        found[int(name)] = bench_data.anonymous_bytes(name)
  return found


def _size(folder: Path) -> int:
  return sum(
    path.stat().st_size for path in folder.rglob("*") if path.is_file()
  )


if __name__ == "__main__":
  main()
