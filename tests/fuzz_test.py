"""The fuzz command: it sees each kind of fault, and some cases of it are right."""

import subprocess
import sys

import pytest

from cmtree_jax.types import UserError
from experiments import fuzz
from experiments.fuzz_cases import AREAS
from tests import corpora

pytestmark = pytest.mark.skipif(
  sys.platform != "linux", reason="reads /proc, and forks"
)

_KINDS = """
import os, time
from cmtree_jax.types import UserError
from experiments import fuzz
from experiments.fuzz_cases import Lost

def refuse(told):
  raise UserError(told)

def lose():
  raise Lost("a document")

fuzz._MOST, fuzz._CEILING = 1 << 26, 1 << 29
for work in (
  lambda: "right",
  lambda: refuse("one line"),
  lambda: refuse("two\\nlines"),
  lambda: {}["x"],
  lose,
  lambda: str(len(b"x" * (80 << 20))),
  lambda: b"x" * (1 << 30),
  os.abort,
):
  print(fuzz.alone(work, 60).kind)
print(fuzz.alone(lambda: time.sleep(60), 0.1).kind)
"""


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [sys.executable, *arguments],
    cwd=corpora.ROOT,
    capture_output=True,
    text=True,
  )


def test_every_kind_of_outcome_is_seen():
  done = _run("-c", _KINDS)
  assert done.stdout.splitlines() == [
    *("right", "refused", "TRACEBACK", "TRACEBACK", "UNCOUNTED LOSS"),
    *("MEMORY", "TRACEBACK", "DIED", "TIME"),
  ], done.stderr[-500:]


def test_the_command_counts_cases():
  done = _run("-m", "experiments.fuzz", "--areas", "targets", "--seconds", "2")
  assert done.returncode == 0, done.stdout[-900:]
  assert "targets: " in done.stdout and "Wrong" not in done.stdout


def test_a_seed_is_a_case(tmp_path):
  AREAS["targets"].prepare(tmp_path / "targets")

  def outcome(seed):
    try:
      return fuzz.play(seed, tmp_path)
    except UserError as error:
      return str(error).partition(": ")[2]  # less the place

  seeds = [seed for seed in range(60) if fuzz.area_of(seed) == "targets"]
  found = [outcome(seed) for seed in seeds]
  assert found == [outcome(seed) for seed in seeds]
  assert len(set(found)) > 2
