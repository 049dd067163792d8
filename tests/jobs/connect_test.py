"""Several processes at one job: they find what one does, and end and go on together."""

import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from cmtree_jax.jobs import connect
from cmtree_jax.jobs.command import command
from cmtree_jax.types import UserError
from tests import corpora

DEVICES = 4
PATIENCE = 900  # seconds; on loaded cores
SMALL = """
data.targets= mesh.data=-1 batch.rows=8 final.preset=0.1m trial.preset=0.1m
final.seeds=1 baselines=,
""".split()
TREE = """
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.start.steps=20
cmtree.step.solver_steps=5
""".split()
RECIPE = ("recipe.json", "documents.parquet", "comparison.json")
# Name -> (module, config, settings, what must be equal).
JOBS = {
  "main": (
    "cmtree_jax.main",
    "configs/quickstart.py",
    """
    guard.rivals=, values.population=4 values.rounds=1 values.max_age=8
    values.min_age=4 values.steps_between_rounds=4 values.outer_rows=8
    values.probe_rows=8 values.validation_rows=8 values.lookahead=4
    values.sample_documents=64
    """.split()
    + TREE,
    RECIPE,
  ),
  "selection": (
    "cmtree_jax.main",
    "configs/quickstart.py",
    """
    method=grand guard.on=false trial.exponents=, look.steps=4
    look.steps_per_call=4
    """.split(),
    (*RECIPE, "selection.parquet"),
  ),
  "online": (
    "cmtree_jax.main",
    "configs/online.py",
    """
    online.unroll=2 online.every=2 online.outer_rows=8 online.probe_rows=8
    """.split()
    + TREE,
    ("schedule.json", "documents.parquet", "table.md"),
  ),
  "compare": (
    "cmtree_jax.compare",
    "configs/compare.py",
    """
    compare.methods=natural,rnb compare.targets=arithmetic compare.seeds=1
    compare.fractions=1.0 compare.natural_multiples=, compare.noise_repeats=0
    steer.steps=6 rnb.every=3 trial.exponents=,
    """.split(),
    ("results.parquet", "table.md"),
  ),
}
# Several trainings: there is a time to stop at, and two to be killed at.
LONG = ["method=natural", "final.seeds=6", "final.steps=48"]
CELL = "cells/final/natural.any.{}.x1.json"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("processes")
  corpora.write_job_corpus(folder, {"arithmetic": "sums"})
  return folder


class Started:
  """The processes of a job."""

  def __init__(
    self,
    corpus: pathlib.Path,
    workdir: pathlib.Path,
    settings: Iterable[str],
    *,
    count: int,
    module: str = "cmtree_jax.main",
    config: str = "configs/quickstart.py",
    last: tuple[str, ...] = (),
    hosts: pathlib.Path
    | None = None,  # each process on one of its own, if given
    slurm: bool = False,  # tells them who they are, and flags do not
  ):
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    given = corpora.arguments(
      config, corpus, workdir, ["arithmetic"], *SMALL, *settings
    )
    if hosts:
      given.append(f"--workdir=file://{workdir}")
    self.workdir = workdir
    self.processes = [
      subprocess.Popen(
        [
          *(sys.executable, "-m", "tests.kept", module),
          *(*given, "--distributed"),
          *(() if slurm else _place(port, number, count)),
          *(last if number == count - 1 else ()),
        ],
        cwd=corpora.ROOT,
        env={
          **os.environ,
          "PYTHONPATH": str(corpora.ROOT),
          "JAX_PLATFORMS": "cpu",
          "JAX_NUM_CPU_DEVICES": str(DEVICES // count),
          **({"CMTREE_CACHE": str(hosts / str(number))} if hosts else {}),
          **(_slurm(port, number, count) if slurm else {}),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
      )
      for number in range(count)
    ]

  def ends(self, timeout: float = PATIENCE) -> list[tuple[int, str]]:
    """(exit status, what it said) of each."""
    try:
      told = [one.communicate(timeout=timeout)[1] for one in self.processes]
    finally:
      for one in self.processes:
        one.kill()
    return [
      (one.returncode, text)
      for one, text in zip(self.processes, told, strict=True)
    ]

  def finish(self) -> pathlib.Path:
    """The workdir, at the end of all."""
    for status, told in self.ends():
      assert status == 0, told[-2000:]
    return self.workdir

  def reach(self, name: str) -> None:
    """Waits for a file of the workdir."""
    deadline = time.monotonic() + PATIENCE
    while not (self.workdir / name).exists():
      assert all(one.poll() is None for one in self.processes), self.ends()
      assert time.monotonic() < deadline
      time.sleep(0.02)


def _place(port: int, number: int, count: int) -> tuple[str, ...]:
  """Flags that tell a process who it is."""
  return (
    *(f"--coordinator=localhost:{port}", f"--process-id={number}"),
    f"--num-processes={count}",
  )


def _slurm(port: int, number: int, count: int) -> dict[str, str]:
  """The environment of a task of a SLURM job; JAX takes the port from its number."""
  return {
    "SLURM_JOB_ID": str(port),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": str(count),
    "SLURM_PROCID": str(number),
    "SLURM_LOCALID": str(number),
  }


def contents(workdir: pathlib.Path, names) -> dict[str, bytes]:
  return {name: (workdir / name).read_bytes() for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_two_processes_find_what_one_does(name, corpus, tmp_path):
  module, config, settings, names = JOBS[name]
  # One of the jobs on two hosts: all share what twins are kept equal by.
  apart = tmp_path if name == "main" else None
  one, two = (
    Started(
      corpus,
      corpus / f"{name}{count}",
      settings,
      count=count,
      module=module,
      config=config,
      hosts=hosts,
    ).finish()
    for count, hosts in ((1, None), (2, apart))
  )
  assert contents(one, names) == contents(two, names)


@pytest.mark.slow
def test_stopped_and_killed_they_go_on_to_the_same(corpus):
  wanted = Started(corpus, corpus / "whole", LONG, count=2).finish()

  def start():
    return Started(corpus, corpus / "stopped", LONG, count=2)

  job = start()
  job.reach(CELL.format(0))
  job.processes[1].send_signal(signal.SIGTERM)
  assert [status for status, _ in job.ends()] == [143, 143]
  assert not (corpus / "stopped" / RECIPE[0]).exists()
  for victim, cell in ((0, 1), (1, 2)):
    job = start()
    job.reach(CELL.format(cell))
    begin = time.monotonic()
    job.processes[victim].kill()
    status, told = job.ends()[1 - victim]
    assert status in (connect.STATUS_LOST, -signal.SIGABRT)  # 134 in a shell
    assert time.monotonic() - begin < 60
    assert told.splitlines()[-1] == connect.LOST
    assert told.count("Fault:") == 1 and "*** " not in told
  assert contents(start().finish(), RECIPE) == contents(wanted, RECIPE)


@pytest.mark.slow
def test_slurm_tells_who_is_who(corpus):
  settings = [*LONG, "final.seeds=1"]
  job = Started(corpus, corpus / "slurm", settings, count=2, slurm=True)
  (_, first), (_, second) = ends = job.ends()
  assert [status for status, _ in ends] == [0, 0], first[-2000:]
  assert "Budget:" in first and "Budget:" not in second
  assert (job.workdir / RECIPE[0]).exists()


@pytest.mark.slow
def test_who_is_at_another_job_is_refused(corpus):
  other = ("--config.seed=5",)
  job = Started(corpus, corpus / "other", LONG, count=2, last=other)
  words = "Process 1 has another config than process 0"
  for status, told in job.ends():
    assert status == 2
    assert told.startswith(f"Error: {words}") and told.count("\n") == 1
  assert not (corpus / "other").exists()


@pytest.mark.parametrize(
  ("plan", "words"),
  [
    (connect.Plan("here:1"), "go together"),
    (connect.Plan("here", 0, 2), "HOST:PORT"),
    (connect.Plan("here:1", 2, 2), "from 0 to"),
    (connect.Plan("here:1", -1, 2), "from 0 to"),
  ],
)
def test_half_a_plan_is_refused(plan, words):
  with pytest.raises(UserError, match=words):
    plan.check()


def test_addresses_are_for_several_processes(capsys):
  given = ["--config=c", "--workdir=w", "--process-id=1"]
  with pytest.raises(SystemExit):
    command("test", "A test.", lambda *_, **__: 0, given)
  assert "need --distributed" in capsys.readouterr().err


def test_what_libraries_say_is_made_short():
  reading, writing = os.pipe()
  out_reading, out = os.pipe()
  said = [
    b"[Gloo] Rank 1 is connected to 7 peer ranks. Expected : 7\n",
    b" is connected to 3 peer ranks\n",
    b"7\n",
    b"Something that matters\n",
    b"F0101 client.h:80] because the JAX distributed service detected fatal "
    b"errors.\n",
    b"*** Check failure stack trace: ***\n",
  ]
  os.write(writing, b"".join(said))
  os.close(writing)
  connect._read_out(reading, out)
  os.close(out)
  with open(out_reading) as told:
    assert told.read() == f"Something that matters\n{connect.LOST}\n"
