"""Starts two jobs at once on one cold cache and counts the times that both are right.

    python -m experiments.cold_cache --times 20

The second job starts at a moment drawn uniformly over the time that a job alone takes
to prepare its corpus, so all stages of the two meet. Both must end well and hand over
what the job alone does, byte by byte, and the cache that they leave must hold the same
arrays. --config.FIELD=VALUE is handed on to all jobs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from experiments.kill_resume import STAGES, Jobs

_ARRAYS = ("*.npy", "*.npz", "*.bin")  # what knows no path


def main(arguments: list[str] | None = None) -> int:
  """Prints a line for every pair; status 1 if any was not right."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--times", type=int, default=20)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  flags, settings = parser.parse_known_args(arguments)
  rng = random.Random(flags.seed)
  with tempfile.TemporaryDirectory() as folder:
    jobs = Jobs(
      *(Path(folder), STAGES["preparation"], settings), processes=1, devices=0
    )
    jobs.run(jobs.root / "warm.one")  # fills the cache of programs
    begin = time.monotonic()
    (alone,) = jobs.start(jobs.root / "alone.one")
    seconds = _until_prepared(alone, jobs.root / "alone.cache") - begin
    if alone.wait():
      raise SystemExit("The job alone failed.")
    right = sum(
      _pair(f"pair{number}", jobs, rng.uniform(0, seconds))
      for number in range(flags.times)
    )
  print(f"{right} of {flags.times} right")
  return int(right != flags.times)


def _until_prepared(job: subprocess.Popen[str], cache: Path) -> float:
  """The time at which a job's corpus is prepared."""
  while job.poll() is None and not any(cache.glob("prepared/[!.]*")):
    time.sleep(0.01)
  return time.monotonic()


def _pair(name: str, jobs: Jobs, delay: float) -> bool:
  """Whether two jobs, the second so many seconds later, are both right."""
  workdirs = [jobs.root / f"{name}.{which}" for which in ("one", "two")]
  started = [*jobs.start(workdirs[0])]  # their cache is `name.cache`
  time.sleep(delay)
  started += jobs.start(workdirs[1])
  told = [job.communicate()[1] for job in started]
  wrong = [
    f"{job.args[-1]} ended with {job.returncode}: {text[-300:]}"
    for job, text in zip(started, told, strict=True)
    if job.returncode
  ]
  wanted = jobs.contents(jobs.root / "alone.one")
  for workdir in workdirs:
    found = jobs.contents(workdir) if not wrong else wanted
    wrong += [
      f"{workdir.name}: {x}" for x in wanted if found.get(x) != wanted[x]
    ]
  same = _arrays(jobs.root / "alone.cache") == _arrays(
    jobs.root / f"{name}.cache"
  )
  wrong += [] if same else ["other arrays in the cache"]
  print(
    f"{name}, {delay:.1f} s apart: {'; '.join(wrong) or 'right'}", flush=True
  )
  return not wrong


def _arrays(cache: Path) -> dict[str, bytes]:
  """What is kept of the prepared corpus, by its place."""
  return {
    str(path.relative_to(cache)): path.read_bytes()
    for pattern in _ARRAYS
    for path in sorted((cache / "prepared").rglob(pattern))
  }


if __name__ == "__main__":
  sys.exit(main())
