"""Damages what this package reads, at random, and counts what comes of it.

  python -m experiments.fuzz --seconds 600
  python -m experiments.fuzz --seeds 17 4711

A seed is a case: which area (`fuzz_cases`), what is damaged, and how. Each runs in a
process of its own. Right is what comes of the sound file, or one line that says what is
wrong and, of documents, how many are lost. Wrong are a traceback, a loss or another
value that nobody is told of, more than a GiB of memory, a minute, and a process that
dies. The command ends with status 1 and the seeds of what was wrong; given again as
--seeds, they tell all of each. Linux only.
"""

import argparse
import itertools
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from cmtree_jax.report.screen import printable
from cmtree_jax.types import Fault, UserError
from experiments.fuzz_cases import AREAS, REFUSED, Lost

TRACEBACK, LOSS, MEMORY, TIME, DIED = BAD = (
  *("TRACEBACK", "UNCOUNTED LOSS", "MEMORY", "TIME", "DIED"),
)
_SECONDS = 60  # of a case
_MOST = 1 << 30  # bytes of memory beyond what a case begins with
_CEILING = 4 << 30  # bytes of addresses beyond, so that the machine survives


class Outcome(NamedTuple):
  """What came of a case."""

  kind: str  # RIGHT, REFUSED or one of BAD
  told: str = ""  # a message, or a traceback


def main() -> int:
  """Prints what was wrong and the counts; status 1 if anything was."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--seconds", type=float, default=60)
  parser.add_argument("--seed", type=int, default=0, help="the first one")
  parser.add_argument("--seeds", type=int, nargs="+", help="these, no others")
  parser.add_argument("--areas", nargs="+", choices=AREAS, default=list(AREAS))
  flags = parser.parse_args()
  areas = set(map(area_of, flags.seeds)) if flags.seeds else set(flags.areas)
  counts: Counter[tuple[str, str]] = Counter()
  bad = []
  with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    # In processes of their own too: what is forked below has no threads.
    for name in sorted(areas):
      made = alone(lambda name=name: _made(name, root), 10 * _SECONDS)
      if made.kind in BAD and made.kind != MEMORY:
        raise SystemExit(f"The sound {name} cannot be made: {made.told}")
    for seed in flags.seeds or _until(flags.seconds, flags.seed):
      area = area_of(seed)
      if area not in areas:
        continue
      one = alone(lambda seed=seed: play(seed, root), _SECONDS)
      counts[area, one.kind] += 1
      if one.kind in BAD:
        bad.append(seed)
      if one.kind in BAD or flags.seeds:
        lines = one.told.strip().splitlines() or [""]
        told = lines if flags.seeds else [lines[-1][:200]]
        print(f"{seed}, {area}: {one.kind}", *map(printable, told), sep="\n  ")
        sys.stdout.flush()
  for (area, kind), count in sorted(counts.items()):
    print(f"{area}: {count:,} {kind}")
  if bad:
    print(f"Wrong: --seeds {' '.join(map(str, bad))}")
  return int(bool(bad))


def area_of(seed: int) -> str:
  """The area of a case."""
  often = [area.often for area in AREAS.values()]
  (name,) = random.Random(seed).choices(list(AREAS), often)
  return name


def play(seed: int, root: Path) -> str:
  """Runs a case here; RIGHT or REFUSED, or raises what a reader raises.

  Args:
    seed: of the case.
    root: has what is sound, in a folder for each area.
  """
  area, rng = area_of(seed), random.Random(seed)
  with tempfile.TemporaryDirectory(dir=root) as place:
    return AREAS[area].run(root / area, Path(place), rng)


def alone(work: Callable[[], str], seconds: float) -> Outcome:
  """What comes of some work in a process of its own."""
  mine, its = multiprocessing.Pipe(duplex=False)
  context = multiprocessing.get_context("fork")
  process = context.Process(target=_watched, args=(work, its))
  process.start()
  its.close()
  try:
    if not mine.poll(seconds):
      return Outcome(TIME, f"more than {seconds:g} s")
    return mine.recv()
  except EOFError:
    process.join()
    return Outcome(DIED, f"exit status {process.exitcode}")
  finally:
    process.kill()
    process.join()


def _watched(work: Callable[[], str], its: Connection) -> None:
  """Runs in the process; sends its outcome."""
  # What libraries print is not what a case is about.
  for stream in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
  size, begin = _memory("VmSize"), _memory("VmRSS")
  resource.setrlimit(resource.RLIMIT_AS, (size + _CEILING, -1))
  try:
    found = Outcome(work())
  except (UserError, Fault) as error:
    found = Outcome(REFUSED, str(error))
    if "\n" in str(error):
      found = Outcome(TRACEBACK, f"several lines: {error!r}")
  except Lost as error:
    found = Outcome(LOSS, str(error))
  except BaseException:
    found = Outcome(TRACEBACK, traceback.format_exc())
  used = _memory("VmHWM") - begin
  if used > _MOST and found.kind not in BAD:
    found = Outcome(MEMORY, f"{used:,} bytes")
  its.send(found)
  its.close()


def _memory(name: str) -> int:
  """Bytes of this process, as the system counts them."""
  for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024
  raise OSError(f"/proc/self/status has no {name}")


def _made(name: str, root: Path) -> str:
  AREAS[name].prepare(root / name)
  return ""


def _until(seconds: float, first: int) -> Iterator[int]:
  """Seeds, for so long."""
  end = time.monotonic() + seconds
  return itertools.takewhile(
    lambda _: time.monotonic() < end, itertools.count(first)
  )


if __name__ == "__main__":
  sys.exit(main())
