"""Jobs whose workdir, recipe or cache is at an address."""

import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from cmtree_jax import ask, compare, main, sweep, verify
from cmtree_jax.config import load
from cmtree_jax.data import lease, mirror
from cmtree_jax.data.remote import Remote
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.loops.checkpoint import Checkpointer
from cmtree_jax.report import __main__ as report
from tests import corpora

STEPS = 4


class _Killed(BaseException):
  """Nothing more of this host is seen."""


def _fail(*args) -> None:
  raise _Killed


def _story(
  job: jobs.Job, *, ends_after: int = 0, kill: Callable[[], None] = lambda: None
) -> None:
  """A state that is saved at every step, and an array beside it."""
  with job.session("stage", 0) as session:
    saved: Checkpointer = session.checkpointer
    state = saved.restore({"x": np.zeros(2), "step": np.array(0)})
    state = state or {"x": np.zeros(2), "step": np.array(0)}
    array = saved.child("beside").array("a", (STEPS,))
    for step in range(int(state["step"]), STEPS):
      array[step] = step
      array.flush()
      state = {"x": state["x"] * 3 + step, "step": np.array(step + 1)}
      saved.save(step + 1, state)
      if step + 1 == ends_after:
        kill()
        raise _Killed
    array = np.array(array)
  found = {"x": state["x"].tolist(), "array": array.tolist()}
  (job.workdir / "summary.json").write_text(json.dumps(found))


def _run(workdir: str, host: pathlib.Path, **options) -> pathlib.Path:
  """The job, to its end or to the step after which it is killed."""
  config = load("configs/smoke.py", [f"cache_dir={host / 'cache'}"])
  os.environ["CMTREE_CACHE"] = str(host)
  folder = workdirs.folder(workdir)
  jobs.run(lambda job: _story(job, **options), config, folder)
  return folder


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  """What a job left, without what tells of its host."""
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file() and path.suffix in (".json", ".npy", ".sum")
    if path.name in ("summary.json", "a.npy") or path.suffix == ".sum"
  }


@pytest.fixture
def hosts(tmp_path, monkeypatch):
  """Hosts of their own caches, who wait a moment for a sign of life."""
  monkeypatch.setenv("CMTREE_CACHE", "")
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "kept")
  monkeypatch.setattr(lease, "DEAD_SECONDS", 0.8)
  yield tmp_path
  mirror.close()


@pytest.mark.parametrize("ends_after", [1, 3])
def test_a_job_goes_on_on_another_host(hosts, ends_after, monkeypatch):
  local = _run(str(hosts / "local" / "run"), hosts / "one")
  address = f"file://{hosts}/bucket/run"

  def kill(patched) -> None:
    for name in ("put", "write", "remove"):
      patched.setattr(Remote, name, _fail)

  with monkeypatch.context() as patched, pytest.raises(_Killed):
    _run(
      address, hosts / "two", ends_after=ends_after, kill=lambda: kill(patched)
    )
  bucket = hosts / "bucket" / "run"
  assert (bucket / "stage" / f"{ends_after}.sum").exists()
  assert not (bucket / "summary.json").exists()
  mirror.close()
  twin = _run(address, hosts / "three")
  assert _files(bucket) == _files(local) and len(_files(local)) == 4
  assert twin.is_relative_to(hosts / "three")
  assert workdirs.is_finished(bucket) and not (bucket / lease.FILE).exists()


def test_overwrite_takes_old_results_from_the_address_first(hosts, monkeypatch):
  address = f"file://{hosts}/bucket/run"
  twin = mirror.working(address)
  config = load("configs/smoke.py", [])
  with workdirs.held(twin):
    workdirs.claim_workdir(twin, config, overwrite=False)
    (twin / "recipe.json").write_text("old")
  gone = []
  own = Remote.put

  def put(self, path, name):
    gone.append((name, self.has("recipe.json")))
    own(self, path, name)

  monkeypatch.setattr(Remote, "put", put)
  with workdirs.held(twin):
    workdirs.claim_workdir(
      twin, load("configs/smoke.py", ["seed=1"]), overwrite=True
    )
  assert ("config.json", False) in gone


NOWHERE = "what://b/run"


@pytest.mark.parametrize(
  "name",
  [
    "main",
    "compare",
    "cache",
    "cells",
    "apply",
    "tree",
    "report",
    "recipes",
    "leaf",
    "verify",
  ],
)
def test_every_command_takes_an_address(name, hosts, capsys):
  """And says in one line that it is of no storage that is known."""
  corpora.write_job_corpus(hosts, {"goal": "sums"})

  def arguments(config, workdir, *settings):
    return corpora.arguments(config, hosts, workdir, ["goal"], *settings)

  smoke = "configs/smoke.py"
  local = hosts / "run"
  compared = ("compare.targets=goal", "compare.fractions=1.0")
  run = {
    "main": lambda: main.main(arguments(smoke, NOWHERE)),
    "compare": lambda: compare.main(
      arguments("configs/compare.py", NOWHERE, *compared)
    ),
    "cache": lambda: main.main(arguments(smoke, local, f"cache_dir={NOWHERE}")),
    "cells": lambda: compare.main(
      arguments(
        "configs/compare.py", local, *compared, f"compare.cells={NOWHERE}"
      )
    ),
    "apply": lambda: main.main(
      arguments(smoke, local, f"recipe.apply={NOWHERE}")
    ),
    "tree": lambda: main.main(
      arguments(smoke, local, f"partition.kind=tree:{NOWHERE}", "method=regmix")
    ),
    "report": lambda: report.main([NOWHERE]),
    "recipes": lambda: ask.main(["recipes", NOWHERE, NOWHERE]),
    "leaf": lambda: ask.main(
      [
        "leaf",
        "0",
        f"--config={smoke}",
        f"--workdir={NOWHERE}",
        "--output=x.jsonl",
      ]
    ),
    "verify": lambda: verify.main([NOWHERE]),
  }
  status = run[name]()
  corpora.assert_one_line(status, 2, [f"{NOWHERE}: wanted an address"], capsys)
  assert not any("what" in path.name for path in hosts.rglob("*"))


def test_a_sweep_wants_a_folder(hosts, capsys):
  status = sweep.main(
    ["--config=configs/sweeps/leaves.py", f"--workdir=file://{hosts}/sweep"]
  )
  corpora.assert_one_line(status, 2, ["wanted a folder", "--dry-run"], capsys)
