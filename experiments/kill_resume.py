"""Kills a job at random moments and counts the bit-identical results.

  python -m experiments.kill_resume --config configs/smoke.py --kills 5

One job runs through; the others each get SIGKILL once, at a moment drawn uniformly
over the first one's running time, and are then continued by the same command. The
recipe, the comparison and the documents must be equal byte by byte.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FILES = ("recipe.json", "comparison.json", "documents.parquet")


def main() -> int:
  """Prints a line per kill and the count; status 1 if any result differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="configs/smoke.py")
  parser.add_argument("--kills", type=int, default=5)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  flags, overrides = parser.parse_known_args()
  rng = random.Random(flags.seed)
  with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    _run(flags.config, root / "warm", overrides)  # fills the caches
    begin = time.monotonic()
    _run(flags.config, root / "whole", overrides)
    seconds = time.monotonic() - begin
    wanted = _contents(root / "whole")
    equal = 0
    for number in range(flags.kills):
      moment = rng.uniform(0, seconds)
      workdir = root / f"killed{number}"
      was_running = _kill(flags.config, workdir, overrides, moment)
      _run(flags.config, workdir, overrides)
      same = _contents(workdir) == wanted
      equal += same
      print(
        f"killed after {moment:.1f} of {seconds:.1f} s"
        f"{'' if was_running else ' (already finished)'}: "
        f"{'equal' if same else 'DIFFERENT'}",
        flush=True,
      )
  print(f"{equal} of {flags.kills} bit-identical")
  return int(equal != flags.kills)


def _command(config: str, workdir: Path, overrides: list[str]) -> list[str]:
  module = [sys.executable, "-m", "cmtree_jax.main"]
  return [*module, "--config", config, "--workdir", str(workdir), *overrides]


def _run(config: str, workdir: Path, overrides: list[str]) -> None:
  done = subprocess.run(
    _command(config, workdir, overrides), capture_output=True, text=True
  )
  if done.returncode:
    raise SystemExit(f"The job failed: {done.stderr[-2000:]}")


def _kill(
  config: str, workdir: Path, overrides: list[str], moment: float
) -> bool:
  """Starts a job and kills it; returns whether it was still running."""
  job = subprocess.Popen(
    _command(config, workdir, overrides),
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    job.wait(timeout=moment)
  except subprocess.TimeoutExpired:
    job.kill()
    job.wait()
    return True
  return False


def _contents(workdir: Path) -> list[bytes]:
  return [(workdir / name).read_bytes() for name in FILES]


if __name__ == "__main__":
  sys.exit(main())
