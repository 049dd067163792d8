"""What every job does around its story: claim a folder, tell progress, stop in time."""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cmtree_jax import processes
from cmtree_jax.data import mirror, store
from cmtree_jax.data.build import prepare, workers
from cmtree_jax.jobs import build, programs
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.loops import fleet
from cmtree_jax.loops.checkpoint import (
  Checkpointer,
  Interrupted,
  StopFlag,
  stop_on_signal,
)
from cmtree_jax.report.metrics import Metrics
from cmtree_jax.report.progress import Reporter
from cmtree_jax.types import UserError

INTERRUPTED = 143  # 128 + SIGTERM: not finished, may be continued

Show = Callable[[], None]  # prints the end of a job, below its progress


class Job(NamedTuple):
  """What every stage needs beside its data."""

  config: Any
  workdir: Path
  reporter: Reporter
  stop: StopFlag
  metrics: Metrics = Metrics(None)

  @property
  def workers(self) -> workers.Workers:
    """Where work on documents is done."""
    plan = workers.Plan(**self.config.workers)
    return workers.Workers(plan, self.stop.check, self.reporter.advance)

  def described(
    self, what: str, make: Callable[[], Any], otherwise: Any
  ) -> Any:
    """What only describes results, which are not lost where it cannot be made.

    Args:
      what: as a person calls it.
      make: the description.
      otherwise: stands for it.
    """
    try:
      return make()
    except Interrupted:
      raise
    except Exception as error:  # whatever it is
      self.reporter.say(
        f"No {what}: {type(error).__name__}: {error}. All else is as it would be."
      )
      return otherwise

  @contextlib.contextmanager
  def session(self, stage: str, seed: int) -> Iterator[fleet.Session]:
    """A loop's seed, checkpoints and progress.

    Args:
      stage: names the folder of the checkpoints in the workdir.
      seed: of the loop.
    """
    checkpointer = Checkpointer(self.workdir / stage)
    own = self.workdir.name.removesuffix(".work")  # the cell's name

    def tell(
      step: int, values: Mapping[str, float], run: str = "", part: str = ""
    ) -> None:
      name = "/".join(filter(None, (run or own, part)))
      self.metrics.write(stage, name, step, values)

    with contextlib.closing(checkpointer):
      yield fleet.Session(
        seed, checkpointer, self.stop, self.reporter.advance, tell
      )


def run(
  story: Callable[[Job], Show | None],
  config: Any,
  workdir: Path,
  *,
  overwrite: bool = False,
) -> int:
  """Runs a job to its end, or continues it; returns the exit status.

  Args:
    story: what the job does; what it prints at the end, it has on the first process.
    config: locked and checked.
    workdir: gets config.json and all results.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the data is wrong, or a disk is full; nothing is lost.
    Fault: a loss is not finite, after saving.
  """
  if overwrite:
    _require_elsewhere(config, workdir)
  processes.require_same(lambda: workdirs.identity(config))
  with workdirs.held(workdir):
    processes.by_first(
      lambda: workdirs.claim_workdir(workdir, config, overwrite=overwrite)
    )
    set_up(config)
    quiet = not processes.is_first()
    with (
      Reporter(quiet=quiet) as reporter,
      Metrics(None if quiet else workdir) as metrics,
      stop_on_signal() as stop,
    ):
      try:
        show = story(Job(config, workdir, reporter, stop, metrics))
      except Interrupted:
        reporter.say("Interrupted and saved. Run the same command to go on.")
        return INTERRUPTED
      except UserError:
        raise
      except Exception as error:  # libraries have errors of their own for it
        if not store.is_full(error):
          raise
        raise UserError(
          f"No space is left in {workdir} or {build.cache_dir(config)}. What was "
          "saved is whole: free some space and run the same command to go on."
        ) from error
    processes.by_first(lambda: workdirs.finish(workdir))
  if show is not None:
    show()
  return 0


def set_up(config: Any) -> None:
  """How a process that works on a job compiles, multiplies and allocates."""
  _keep_compiled(build.cache_dir(config) / "xla")
  _multiply_in_full()
  programs.keep_freed_memory()


def _keep_compiled(folder: Path) -> None:
  """Keeps compiled programs there; what the environment says of it goes first."""
  for name, value in {
    "jax_compilation_cache_dir": str(folder),
    # By default programs of less than a second are compiled anew in every job,
    # and a job has hundreds.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": 0,
  }.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)


def _multiply_in_full() -> None:
  """Lets float32 mean float32 on all devices, whatever the environment says.

  Accelerators multiply such matrices in fewer bits by default, and a hypergradient by
  differences has none to spare. Numbers of 16 bits are multiplied as they are.
  """
  # For all threads, which a context manager is not.
  jax.config.update("jax_default_matmul_precision", "float32")


def _require_elsewhere(config: Any, workdir: Path) -> None:
  """Refuses to overwrite a recipe that the job is to read."""
  for name, folder in {
    "config.recipe.apply": config.recipe.apply,
    "config.partition.kind": config.partition.kind.partition("tree:")[2],
    "config.olmix.reuse": config.olmix.reuse,
    "config.quota.mixture": config.quota.mixture.partition("recipe:")[2],
  }.items():
    is_it = mirror.addressed(str(workdir)) == folder.rstrip("/")
    if folder and (is_it or Path(folder).resolve() == workdir.resolve()):
      raise UserError(
        f"{name} reads the recipe in {workdir}, which --overwrite would remove. "
        "Choose another --workdir."
      )


def prepared(
  job: Job, *, learned: Path | None = None, trained: bool = True
) -> prepare.Prepared:
  """The corpus of the config, with everything told that a person must know.

  Args:
    job: whose corpus it is.
    learned: folder of a recipe whose tokenizer and embedder are taken.
    trained: whether the job trains models, of whose length a person must know.
  """
  config = job.config
  data = processes.in_turn(
    lambda: prepare.prepare(
      build.corpus_plan(config),
      cache_dir=build.cache_dir(config),
      workers=job.workers,
      progress=job.reporter.say,
      learned=learned,
    )
  )
  processes.require_same(lambda: {"corpus": data.digest})
  for note in data.notes:
    job.reporter.say(note)
  job.reporter.say(build.budget(config, data).text())
  if data.targets:
    for line in build.unmatched(config, data, trained=trained):
      job.reporter.say(line)
  processes.by_first(lambda: workdirs.claim_corpus(job.workdir, data.digest))
  return data
