"""Kills jobs at random moments and counts the bit-identical results.

    python -m experiments.kill_resume --kills 17
    python -m experiments.kill_resume --stages main --kills 10 --processes 2 --devices 4

For every stage of work one job runs through; the others each get SIGKILL once, at a
moment drawn uniformly over the first one's running time, and are then continued by the
same command. Of several processes one is killed, and the others must end within a
minute. What a job leaves must be equal byte by byte. Jobs are small, a quarter of a
minute each; --config.FIELD=VALUE is handed on to all of them.
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

_SURVIVAL = 60  # seconds that the others may outlive one that is killed
_SMALL = """
data.source=stdlib data.targets= data.max_documents=600 embedding.dim=16
batch.rows=4 batch.row_tokens=32 final.steps=24 final.steps_per_call=4
trial.steps=12 trial.steps_per_call=4 optimizer.warmup_steps=2 evaluate.rows=8
evaluate.max_tokens=600
""".split()
_SEARCH = """
guard.rivals=crisp_16 trial.exponents=0.5, cmtree.branching=2,2
values.sample_documents=256 values.outer_rows=16 values.probe_rows=16
values.validation_rows=16 values.unroll=4
""".split()
_ONLINE = """
cmtree.branching=2,2 final.seeds=1 online.unroll=2 online.every=4
online.outer_rows=8 online.probe_rows=8
""".split()
_COMPARED = """
compare.methods=dsir,crisp_16 compare.targets=python_modules compare.seeds=2
compare.fractions=1.0, compare.natural_multiples=, compare.noise_repeats=0
trial.exponents=0.5,
""".split()
_EXPORT = (
  "export.formats=parquet,jsonl,array_record,levanter,maxtext",
  # Else files name the workdir that they are in.
  "export.root=/exported",
  "export.tokenizer=a/tokenizer",
)


class Stage(NamedTuple):
  """A job that is killed, and what it must leave."""

  module: str
  config: str
  settings: tuple[str, ...]
  files: tuple[str, ...]  # of its workdir; a folder stands for all in it
  learned: bool = False  # whether it applies the recipe of a job before it
  cold: bool = False  # whether it prepares its corpus itself


_RECIPE = ("recipe.json", "comparison.json", "documents.parquet")
# A recipe names its cache, and each cold job has one of its own.
_PREPARED = (
  "comparison.json",
  "documents.parquet",
  "embedder.npz",
  "tokenizer.bin",
)
_MAIN, _SMOKE = "cmtree_jax.main", "configs/smoke.py"
STAGES = {
  "main": Stage(_MAIN, _SMOKE, (*_SMALL, *_SEARCH), _RECIPE),
  "preparation": Stage(
    *(_MAIN, "configs/method.py:natural"),
    (*_SMALL, "final.seeds=1"),
    _PREPARED,
    cold=True,
  ),
  "apply": Stage(
    _MAIN, _SMOKE, tuple(_SMALL), ("documents.parquet",), learned=True
  ),
  "export": Stage(
    *(_MAIN, _SMOKE, (*_SMALL, *_EXPORT)),
    ("documents.parquet", "export"),
    learned=True,
  ),
  "compare": Stage(
    *("cmtree_jax.compare", "configs/compare.py", (*_SMALL, *_COMPARED)),
    ("results.parquet", "table.md"),
  ),
  "online": Stage(
    *(_MAIN, "configs/online.py", (*_SMALL, *_ONLINE)),
    ("schedule.json", "documents.parquet", "table.md"),
  ),
}


class Jobs(NamedTuple):
  """Jobs of one stage, all under one folder."""

  root: Path
  stage: Stage
  settings: list[str]  # of the command line, for all of them
  processes: int
  devices: int  # simulated, of each process; 0: as there are

  def start(self, workdir: Path) -> list[subprocess.Popen[str]]:
    """All processes of one job."""
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    env = dict(os.environ)
    env.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.root / "xla"))
    if self.devices:
      env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(self.devices)}
    cache = workdir.with_suffix(".cache") if self.stage.cold else "cache"
    settings = [*self.stage.settings, f"cache_dir={self.root / cache}"]
    if self.stage.learned:
      settings.append(f"recipe.apply={self.root / 'main' / 'whole'}")
    command = [sys.executable, "-m", self.stage.module]
    command += ["--config", self.stage.config, "--workdir", str(workdir)]
    command += [f"--config.{one}" for one in settings] + self.settings
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

  def run(self, workdir: Path) -> None:
    """One job to its end."""
    started = self.start(workdir)
    told = [one.communicate()[1] for one in started]
    for one, text in zip(started, told, strict=True):
      if one.returncode:
        raise SystemExit(f"The job failed: {text[-2000:]}")

  def contents(self, workdir: Path) -> dict[str, bytes]:
    """What it leaves, by name."""
    found = {}
    for name in self.stage.files:
      path = workdir / name
      for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
          found[str(file.relative_to(workdir))] = file.read_bytes()
    return found


def main() -> int:
  """Prints a line per kill and the counts; status 1 if any result differs."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--stages", nargs="+", choices=STAGES, default=[*STAGES])
  parser.add_argument("--kills", type=int, default=5, help="of every stage")
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument(
    "--devices", type=int, default=0, help="of each, simulated"
  )
  flags, settings = parser.parse_known_args()
  rng = random.Random(flags.seed)
  equal = 0
  with tempfile.TemporaryDirectory() as folder:
    for name in dict.fromkeys(["main", *flags.stages]):
      jobs = Jobs(
        Path(folder), STAGES[name], settings, flags.processes, flags.devices
      )
      kills = flags.kills if name in flags.stages else 0
      equal += kill_all(name, jobs, kills, rng)
  total = flags.kills * len(flags.stages)
  print(f"{equal} of {total} bit-identical")
  return int(equal != total)


def kill_all(name: str, jobs: Jobs, kills: int, rng: random.Random) -> int:
  """Kills jobs of a stage; how many ended as if they had not been."""
  root = jobs.root / name
  root.mkdir()
  if kills:
    jobs.run(root / "warm")  # fills the caches
  begin = time.monotonic()
  jobs.run(root / "whole")
  seconds = time.monotonic() - begin
  wanted = jobs.contents(root / "whole")
  equal = 0
  for number in range(kills):
    moment = rng.uniform(0, seconds)
    workdir = root / f"killed{number}"
    victim = rng.randrange(jobs.processes)
    told = _kill(jobs, workdir, moment, victim)
    jobs.run(workdir)
    found = jobs.contents(workdir)
    other = [x for x in wanted | found if wanted.get(x) != found.get(x)]
    equal += not other
    print(
      f"{name}: process {victim} killed after {moment:.1f} of {seconds:.1f} s"
      f"{told}: {'DIFFERENT ' + ', '.join(other) if other else 'equal'}",
      flush=True,
    )
  return equal


def _kill(jobs: Jobs, workdir: Path, moment: float, victim: int) -> str:
  """Starts a job and kills one of its processes; what there is to tell of it."""
  started = jobs.start(workdir)
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


if __name__ == "__main__":
  sys.exit(main())
