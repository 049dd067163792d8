"""A sweep: one config under many settings, each a job in a process of its own.

Which runs there are is read of the config file alone, so several hosts agree on it
and a run is known by its settings. This process never touches a device: the runs
have them.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.read.files import is_remote
from cmtree_jax.evaluate.results import Standing, standings
from cmtree_jax.jobs import subprocesses
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.compare import RESULTS_FILE
from cmtree_jax.report import sweeps
from cmtree_jax.types import UserError


class Run(NamedTuple):
  """One of the jobs of a sweep."""

  fields: dict[str, Any]  # of the config, dotted -> value
  config: Any  # resolved
  module: str  # that is run
  arguments: tuple[str, ...]  # of its command line, less the workdir
  workdir: Path

  @property
  def command(self) -> tuple[str, ...]:
    """Of its process."""
    workdir = ("--workdir", str(self.workdir))
    return (sys.executable, "-m", self.module, *self.arguments, *workdir)

  @property
  def name(self) -> str:
    """Of its folder."""
    return self.workdir.name

  @property
  def told(self) -> dict[str, str]:
    """The fields as a person reads them."""
    return {k: configs.text_of(value) for k, value in self.fields.items()}

  @property
  def seeds(self) -> int:
    """Final trainings that are compared."""
    if "compare" in self.config:
      return self.config.compare.seeds
    return self.config.final.seeds


def plan(path: str, workdir: str, overrides: Sequence[str]) -> list[Run]:
  """The runs that a config file asks for.

  Args:
    path: of the file, as `config.load` takes it.
    workdir: of the whole sweep.
    overrides: of all runs, "field=value".
  Raises:
    UserError: a field or value is wrong, or two runs are the same.
  """
  if is_remote(workdir):
    raise UserError(
      f"--workdir {workdir}: wanted a folder, came an address; the logs and the table "
      "of a sweep lie beside its runs. Give a folder, or start the commands that "
      "--dry-run prints, each with an address of its own."
    )
  folder = workdirs.folder(workdir) / "runs"
  found: dict[str, Run] = {}
  for number, fields in enumerate(configs.runs(path), 1):
    run = _run(path, folder, overrides, fields, number)
    if run.name in found:
      first = list(found).index(run.name) + 1
      raise UserError(
        f"{path}: runs {first} and {number} of sweep(add) have equal settings, "
        f"{_told(fields)}. Take one of them out."
      )
    found[run.name] = run
  return list(found.values())


def _run(
  path: str,
  folder: Path,
  overrides: Sequence[str],
  fields: dict[str, Any],
  number: int,
) -> Run:
  """A run of those fields, the same as its command will read them."""
  of_all = {one.partition("=")[0] for one in overrides}
  for name in fields:
    if name in of_all:
      raise UserError(
        f"--config.{name} is what run {number} of {path} sets by itself "
        f"({_told(fields)}). Leave it out, or change the file."
      )
  own = [f"{name}={configs.text_of(value)}" for name, value in fields.items()]
  config = configs.load(path, overrides)
  for override in own:
    try:
      configs.override_field(config, override)
    except UserError as error:
      raise UserError(f"{path}, run {number} of sweep(add): {error}") from error
  module = f"cmtree_jax.{'compare' if 'compare' in config else 'main'}"
  digest = workdirs.digest(config)[:_DIGITS]
  workdir = folder / f"{_slug(fields)}-{digest}"
  given = [f"--config.{one}" for one in (*overrides, *own)]
  return Run(fields, config, module, ("--config", path, *given), workdir)


_DIGITS = 8  # of a digest: 10,000 runs share one in 1 of 86 sweeps
_LONGEST = 80  # characters of a name before it


def _slug(fields: dict[str, Any]) -> str:
  """Settings as a part of a file name: "branching-4-4_epochs-2"."""
  parts = (
    f"{name.split('.')[-1]}-{configs.text_of(value)}"
    for name, value in fields.items()
  )
  words = (re.sub(r"[^A-Za-z0-9.]+", "-", one).strip("-") for one in parts)
  return "_".join(words)[:_LONGEST] or "run"


def _told(fields: dict[str, Any]) -> str:
  return " ".join(f"{k}={configs.text_of(v)}" for k, v in fields.items())


def shard(runs: Sequence[Run], text: str) -> list[Run]:
  """Every n-th of the runs from the i-th, of "i/n".

  Raises:
    UserError: there is no such part.
  """
  found = re.fullmatch(r"(\d+)/(\d+)", text)
  part, parts = map(int, found.groups()) if found else (0, 0)
  if not 1 <= part <= parts:
    raise UserError(
      f"--shard wants I/N with I from 1 to N, such as 2/3, came {text}."
    )
  return list(runs[part - 1 :: parts])


def show(runs: Sequence[Run], where: str) -> None:
  """Prints the command of each, a line that a shell takes.

  Args:
    runs: of the sweep.
    where: "here", or "tpu" for the script tpu/run.sh, whose workdirs are its own.
  """
  for run in runs:
    if where == "tpu":
      settings = shlex.join((f"RUN_ID={run.name}", f"MODULE={run.module}"))
      print(f"{settings} tpu/run.sh {shlex.join(run.arguments)}")
    else:
      print(shlex.join(("python", *run.command[1:])))


def require_parallel(parallel: int) -> None:
  """Refuses a number of runs at a time that is none."""
  if parallel < 1:
    raise UserError(f"--parallel must be at least 1, came {parallel}.")


def run(
  runs: Sequence[Run], mine: Sequence[Run], workdir: str, *, parallel: int
) -> int:
  """Does the runs that are not done yet, then writes the table of all.

  Args:
    runs: of the sweep.
    mine: those of them that are done here.
    workdir: of the sweep.
    parallel: how many run at the same time.
  Returns:
    0; the largest status of a run that failed; 143 if it was stopped.
  """
  folder = workdirs.folder(workdir)
  left = [one for one in mine if not workdirs.is_finished(one.workdir)]
  tasks = [
    subprocesses.Task(
      one.name, one.command, folder / "logs" / f"{one.name}.txt"
    )
    for one in left
  ]
  status = subprocesses.run(
    tasks, parallel=parallel, done=len(mine) - len(left)
  )
  if status != subprocesses.INTERRUPTED:
    for file in write(runs, folder):
      print(f"wrote {file}")
  return status


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
  """Writes the table of all runs that are finished, and its figure."""
  rows = [
    sweeps.Row(one.name, one.fields, one.told, standing, _is_own(one, standing))
    for one in runs
    if workdirs.is_finished(one.workdir)
    for standing in _standings(one)
  ]
  finished = sum(workdirs.is_finished(one.workdir) for one in runs)
  return sweeps.write(rows, folder, finished=finished, planned=len(runs))


def _standings(run: Run) -> list[Standing]:
  """What a finished run found; nothing where it had no target to compare on."""
  file = run.workdir / RESULTS_FILE
  if not file.exists():
    return []
  columns = store.read_table(file)
  rows = [
    dict(zip(columns, row, strict=True))
    for row in zip(*columns.values(), strict=True)
  ]
  return standings(rows, seeds=run.seeds)


def _is_own(run: Run, one: Standing) -> bool:
  """Whether a line is what the run was for: in a main job its method."""
  return "compare" in run.config or one.method == run.config.method
