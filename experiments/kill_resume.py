"""Kills a job at random moments and counts the bit-identical results.

  python -m experiments.kill_resume --config configs/smoke.py --kills 5
  python -m experiments.kill_resume --kills 10 --processes 2 --devices 4

One job runs through; the others each get SIGKILL once, at a moment drawn uniformly
over the first one's running time, and are then continued by the same command. Of
several processes one is killed, and the others must end within a minute. The recipe,
the comparison and the documents must be equal byte by byte.
"""

import argparse
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

FILES = ("recipe.json", "comparison.json", "documents.parquet")
_SURVIVAL = 60  # seconds that the others may outlive one that is killed


class _Job(NamedTuple):
  """A command line, and how many processes it is given to."""

  config: str
  overrides: list[str]
  processes: int
  devices: int  # simulated, of each process; 0: as there are

  def start(self, workdir: Path) -> list[subprocess.Popen[str]]:
    """All of its processes."""
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    env = dict(os.environ)
    if self.devices:
      env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices)}
    command = [sys.executable, "-m", "cmtree_jax.main", "--config", self.config]
    command += ["--workdir", str(workdir), *self.overrides]
    return [
      subprocess.Popen(
        command + self._place(number, port),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(self.processes)
    ]

  def _place(self, number: int, port: int) -> list[str]:
    if self.processes == 1:
      return []
    return [
      *("--distributed", f"--coordinator=localhost:{port}"),
      *(f"--process-id={number}", f"--num-processes={self.processes}"),
    ]


def main() -> int:
  """Prints a line per kill and the count; status 1 if any result differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--config", default="configs/smoke.py")
  parser.add_argument("--kills", type=int, default=5)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument(
    "--devices", type=int, default=0, help="of each, simulated"
  )
  flags, overrides = parser.parse_known_args()
  job = _Job(flags.config, overrides, flags.processes, flags.devices)
  rng = random.Random(flags.seed)
  with tempfile.TemporaryDirectory() as folder:
    root = Path(folder)
    _run(job, root / "warm")  # fills the caches
    begin = time.monotonic()
    _run(job, root / "whole")
    seconds = time.monotonic() - begin
    wanted = _contents(root / "whole")
    equal = 0
    for number in range(flags.kills):
      moment = rng.uniform(0, seconds)
      workdir = root / f"killed{number}"
      victim = rng.randrange(flags.processes)
      told = _kill(job, workdir, moment, victim)
      _run(job, workdir)
      same = _contents(workdir) == wanted
      equal += same
      print(
        f"process {victim} killed after {moment:.1f} of {seconds:.1f} s"
        f"{told}: {'equal' if same else 'DIFFERENT'}",
        flush=True,
      )
  print(f"{equal} of {flags.kills} bit-identical")
  return int(equal != flags.kills)


def _run(job: _Job, workdir: Path) -> None:
  started = job.start(workdir)
  told = [one.communicate()[1] for one in started]
  for one, text in zip(started, told, strict=True):
    if one.returncode:
      raise SystemExit(f"The job failed: {text[-2000:]}")


def _kill(job: _Job, workdir: Path, moment: float, victim: int) -> str:
  """Starts a job and kills one of its processes; what there is to tell of it."""
  started = job.start(workdir)
  try:
    started[victim].communicate(timeout=moment)
    told = " (already finished)"
  except subprocess.TimeoutExpired:
    started[victim].kill()
    begin = time.monotonic()
    told = ""
    for one in started:
      left = _SURVIVAL - (time.monotonic() - begin)
      text = one.communicate(timeout=max(left, 0.1))[1]
      if one is not started[victim]:
        last = (text.splitlines() or [""])[-1]
        seconds = time.monotonic() - begin
        told = f", the other ended {seconds:.1f} s later: {last[:40]!r}"
  finally:
    for one in started:
      one.kill()
      one.communicate()
  return told


def _contents(workdir: Path) -> list[bytes]:
  return [(workdir / name).read_bytes() for name in FILES]


if __name__ == "__main__":
  sys.exit(main())
