"""A job's folder: whose it is, on which corpus; and facts of the process."""

import contextlib
import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cmtree_jax
from cmtree_jax import config as configs
from cmtree_jax import processes
from cmtree_jax.data import mirror, store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.read.files import is_remote
from cmtree_jax.recipe import policies, scorer
from cmtree_jax.report import metrics
from cmtree_jax.report.screen import printable
from cmtree_jax.types import UserError

CONFIG_FILE = "config.json"
CORPUS_FILE = "corpus_digest.txt"
MARKER_FILE = ".cmtree_jax"  # tells a run of this package from other folders
FINISHED_FILE = ".finished"  # written last, when all else is there

# Everything else that jobs write into a workdir: `--overwrite` removes these names,
# and no others.
WRITTEN = (
  *("assigned", "cells", "export", "online"),
  *("comparison.json", "comparison.svg", "documents.parquet", "recipe.json"),
  *("results.parquet", "schedule.json", "schedule.parquet", policies.FILE),
  *("report.html", "sample.parquet", "selection.html", "selection.parquet"),
  scorer.FILE,
  *("mixture.json", "summary.json", "table.md"),
  *(metrics.FILE, metrics.FOLDER),
  *(*prepare.LEARNED_FILES, CORPUS_FILE, FINISHED_FILE),
)

# Fields of the config that say where a host keeps things: processes of one job may
# differ in them.
OF_HOST = ("cache_dir",)
# These and blocks that change no result: a run goes on under others.
FREE = (*OF_HOST, "data.max_skipped", "data.strict", "export", "workers")

# How a folder of results is chosen, and what a refusal advises at the end.
WORKDIR = "--workdir"
SHARED = "config.compare.cells (or --workdir)"  # an experiment's lie there
_ADVICE = {
  WORKDIR: f"choose another {WORKDIR}, or add --overwrite to start anew",
  SHARED: f"or choose another {SHARED}",
}


def folder(text: str, chosen_by: str = WORKDIR) -> Path:
  """A folder that a person names for a job; of an address, its twin on this machine.

  Raises:
    UserError: the address is of no storage that is known here; or checkpoints would
      not be found again in the folder, as it has a sign of a pattern.
  """
  path = Path(text)
  if is_remote(text):
    path = mirror.working(text)
    processes.follow(mirror.news, mirror.hear)
  signs = sorted(_PATTERN & set(str(path.absolute())))
  if signs and chosen_by in _ADVICE:  # others hold no checkpoints
    raise UserError(
      f"{chosen_by} {text}: wanted a path without {' '.join(sorted(_PATTERN))}, which "
      f"libraries take for patterns of names, came {' '.join(signs)}. Choose another "
      "folder."
    )
  return path


_PATTERN = frozenset("*?[]")


@contextlib.contextmanager
def hold(workdir: Path, chosen_by: str = WORKDIR) -> Iterator[None]:
  """Makes the folder if need be and keeps other jobs out of it for a while.

  The lock is the system's: that of a job that was killed is gone. A twin is locked at
  its address, and gets what is there.

  Args:
    workdir: of a job, or cells that several comparisons share.
    chosen_by: WORKDIR or SHARED.
  Raises:
    UserError: another job is in it, or it cannot be made.
  """
  if twin := mirror.of(workdir):
    with twin.held(MARKER_FILE):
      yield
    return
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    folder = os.open(workdir, os.O_RDONLY)
  except OSError as error:
    raise UserError(_unwritable(workdir, chosen_by, error)) from error
  try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    os.close(folder)
    raise UserError(
      f"Another job is running in {workdir}. Wait for its end, stop it, or "
      f"choose another {chosen_by}."
    ) from None
  except OSError:  # a file system without locks
    pass
  try:
    yield
  finally:
    os.close(folder)


@contextlib.contextmanager
def held(workdir: Path, chosen_by: str = WORKDIR) -> Iterator[None]:
  """As `hold`, by the first process for all of them."""
  with contextlib.ExitStack() as stack:
    processes.by_first(lambda: stack.enter_context(hold(workdir, chosen_by)))
    twin = mirror.of(workdir)
    if twin and not processes.is_first():
      twin.pull()
    yield


def identity(config: Any) -> dict[str, str]:
  """What all processes of a job must have in common, as a person calls it."""
  return {
    "config": digest(config),
    "commit": git_commit() or cmtree_jax.__version__,
  }


def digest(config: Any) -> str:
  """A hash of what makes the results, the same on all hosts."""
  same = config.copy_and_resolve_references().unlock()
  for name in OF_HOST:
    del same[name]
  return configs.digest(same)


def digest_of_results(config: Any) -> str:
  """A hash of the fields of the config that change results."""
  same = config.copy_and_resolve_references().unlock()
  for name in FREE:
    block, _, field = name.rpartition(".")
    del (same[block] if block else same)[field]
  return configs.digest(same)


def claim_workdir(
  workdir: Path, config: Any, *, overwrite: bool, chosen_by: str = WORKDIR
) -> None:
  """Makes the workdir this config's, or says why it cannot be.

  Args:
    workdir: empty, not there yet, or a run of this config to go on with.
    config: resolved.
    overwrite: removes another run first; files of others stay, and are told.
    chosen_by: WORKDIR or SHARED.
  Raises:
    UserError: it cannot be written to, holds another config's run, or is no run
      of this package.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / MARKER_FILE).exists():
      _require_unused(workdir, config, chosen_by, overwrite=overwrite)
      store.write_atomically(workdir / MARKER_FILE, _MARKER)
    elif overwrite:
      _clear(workdir)
      mirror.push(workdir)  # or another config could come to lie by old results
    _require_same(workdir, config, chosen_by)
    for path in _leftovers(workdir):
      path.unlink()
    store.write_atomically(workdir / CONFIG_FILE, _config_json(config))
  except OSError as error:
    raise UserError(_unwritable(workdir, chosen_by, error)) from error


def claim_corpus(workdir: Path, digest: str, chosen_by: str = WORKDIR) -> None:
  """Makes the workdir this corpus's.

  Args:
    workdir: claimed.
    digest: of the corpus and its targets.
    chosen_by: WORKDIR or SHARED.
  Raises:
    UserError: the run began with another corpus.
  """
  file = workdir / CORPUS_FILE
  came = _read_digest(file)
  if came not in (None, digest):
    raise UserError(
      f"{workdir} holds a run on another corpus or other targets "
      f"(config.data.targets): their hash was {came}, now {digest}. Bring the "
      f"old ones back to continue it, {_ADVICE[chosen_by]}."
    )
  store.write_atomically(file, digest + "\n")


def finish(workdir: Path) -> None:
  """Marks a job as ended well, all of its files written."""
  store.write_atomically(workdir / FINISHED_FILE, _FINISHED)


def is_finished(workdir: Path) -> bool:
  """Whether the job of a folder has ended well."""
  return (workdir / FINISHED_FILE).exists()


def _read_digest(file: Path) -> str | None:
  """What the file of the corpus says, if it is there; damage is another corpus."""
  try:
    words = file.read_bytes().decode(errors="replace").split()
    return " ".join(words)[:_SHOWN]
  except FileNotFoundError:
    return None


def peak_rss_bytes() -> int:
  """The most memory that this process has held."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else peak * 1024


def git_commit() -> str | None:
  """The commit of the package's checkout, "-dirty" if changed; None without one."""
  command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
  folder = Path(__file__).parent
  try:
    done = subprocess.run(
      [*command, "--exclude=*"],
      cwd=folder,
      capture_output=True,
      text=True,
      check=True,
    )
  except (OSError, subprocess.CalledProcessError):
    return None
  return done.stdout.strip()


def _config_json(config: Any) -> str:
  return store.to_json(config.to_dict())


_MARKER = "A run of cmtree_jax; --overwrite asks for this file.\n"
_FINISHED = "This run has ended well; a sweep asks for this file.\n"


def _unwritable(workdir: Path, chosen_by: str, error: OSError) -> str:
  return (
    f"Cannot write to {chosen_by} {workdir}: {error.strerror or error}. "
    "Choose a folder that you may write to."
  )


def _require_unused(
  workdir: Path, config: Any, chosen_by: str, *, overwrite: bool
) -> None:
  """Refuses a folder without a marker that holds something.

  A run of this very config goes on: versions before this one left no marker.
  """
  names = [p.name for p in workdir.iterdir() if not _is_temporary(p)]
  if CONFIG_FILE in names and not overwrite:
    old = _read_config(workdir)
    if old == json.loads(_config_json(config)):
      return
  if names:
    raise UserError(
      f"{workdir} is not empty and holds no {MARKER_FILE}, so it is no run of "
      f"this package. Choose another {chosen_by}; if it is a run of an earlier "
      "version, remove it by hand."
    )


def _clear(workdir: Path) -> None:
  """Removes a run and leaves what others put there."""
  kept = []
  for path in sorted(workdir.iterdir()):
    if path.name in WRITTEN or _is_temporary(path):
      if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
      else:
        path.unlink()
    elif path.name not in (CONFIG_FILE, MARKER_FILE):
      kept.append(path.name)
  # Last, so that what is left after a kill still belongs to the old config.
  (workdir / CONFIG_FILE).unlink(missing_ok=True)
  if kept:
    told = (
      f"--overwrite kept what no job of this package wrote to {workdir}: "
      f"{', '.join(kept)}."
    )
    print(printable(told), file=sys.stderr)


def _leftovers(workdir: Path) -> list[Path]:
  """What writers that were killed left; the lock is held, so no other one is alive."""
  inside = (workdir / name for name in ("assigned", "cells", "export"))
  files = [p for folder in inside for p in folder.rglob(f".*{store.TEMPORARY}")]
  return [*filter(_is_temporary, workdir.iterdir()), *files]


def _is_temporary(path: Path) -> bool:
  """Whether a job was killed while it wrote this file."""
  names = (MARKER_FILE, CONFIG_FILE, *WRITTEN)
  return path.name.endswith(store.TEMPORARY) and path.name.startswith(
    tuple(f".{name}." for name in names)
  )


def _read_config(workdir: Path) -> Any:
  """What config.json holds; None if it is not there or no JSON."""
  try:
    return json.loads((workdir / CONFIG_FILE).read_text())
  except (FileNotFoundError, ValueError):
    return None


def _require_same(workdir: Path, config: Any, chosen_by: str) -> None:
  """Refuses a run of another config, unless it has not got as far as its corpus.

  So a mistake that is found while the corpus is read can be cured, and the command
  given again.
  """
  if not any((workdir / name).exists() for name in WRITTEN):
    return
  old, new = _read_config(workdir), json.loads(_config_json(config))
  if not isinstance(old, dict):
    raise UserError(
      f"{workdir / CONFIG_FILE}: wanted the config of this run, came none that "
      f"can be read. Bring it back, {_ADVICE[chosen_by]}."
    )
  changed = [
    f"{name} was {_short(a)}, now {_short(b)}"
    for name, a, b in store.differences(old, new)
    if not any(f"{name}.".startswith(f"{one}.") for one in FREE)
  ]
  if changed:
    raise UserError(
      f"{workdir} holds another run: {'; '.join(changed[:3])}"
      f"{' ...' if len(changed) > 3 else ''}. Run with the old settings to "
      f"continue it, {_ADVICE[chosen_by]}."
    )


def _short(value: Any) -> str:
  """As Python writes it; what is long is cut off."""
  text = repr(value)
  return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWN = 60  # characters of a setting
