"""A job's folder: whose it is, on which corpus; and facts of the process."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.types import UserError

CONFIG_FILE = "config.json"
CORPUS_FILE = "corpus_digest.txt"
MARKER_FILE = ".cmtree_jax"  # tells a run of this package from other folders

# Everything else that jobs write into a workdir: `--overwrite` removes these names,
# and no others.
WRITTEN = (
  *("assigned", "cells", "export"),
  *("comparison.json", "comparison.svg", "documents.parquet", "recipe.json"),
  *("results.parquet", "summary.json", "table.md"),
  *(*prepare.LEARNED_FILES, CORPUS_FILE),
)


def claim_workdir(workdir: Path, config: Any, *, overwrite: bool) -> None:
  """Makes the workdir this config's, or says why it cannot be.

  Args:
    workdir: empty, not there yet, or a run of this config to go on with.
    config: resolved.
    overwrite: removes another run first; files of others stay, and are told.
  Raises:
    UserError: it cannot be written to, holds another config's run, or is no run
      of this package.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    if not (workdir / MARKER_FILE).exists():
      _require_unused(workdir, config, overwrite=overwrite)
      store.write_atomically(workdir / MARKER_FILE, _MARKER)
    elif overwrite:
      _clear(workdir)
    _require_same(workdir, config)
    store.write_atomically(workdir / CONFIG_FILE, _config_json(config))
  except OSError as error:
    raise UserError(
      f"Cannot write to --workdir {workdir}: {error.strerror or error}. "
      "Choose a folder that you may write to."
    ) from error


def claim_corpus(workdir: Path, digest: str) -> None:
  """Makes the workdir this corpus's.

  Raises:
    UserError: the run began with another corpus.
  """
  file = workdir / CORPUS_FILE
  if file.exists() and (came := file.read_text().strip()) != digest:
    raise UserError(
      f"{workdir} holds a run on another corpus: its hash was {came}, now "
      f"{digest}. Bring the old files back to continue it, choose another "
      "--workdir, or add --overwrite to start anew."
    )
  store.write_atomically(file, digest + "\n")


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


def _require_unused(workdir: Path, config: Any, *, overwrite: bool) -> None:
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
      "this package. Choose another --workdir; if it is a run of an earlier "
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
    print(
      f"--overwrite kept what no job of this package wrote to {workdir}: "
      f"{', '.join(kept)}.",
      file=sys.stderr,
    )


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


def _require_same(workdir: Path, config: Any) -> None:
  """Refuses a run of another config."""
  left = [name for name in WRITTEN if (workdir / name).exists()]
  if not left and not (workdir / CONFIG_FILE).exists():
    return
  old, new = _read_config(workdir), json.loads(_config_json(config))
  if not isinstance(old, dict):
    raise UserError(
      f"{workdir / CONFIG_FILE}: wanted the config of this run, came none that "
      "can be read. Choose another --workdir, or add --overwrite to start anew."
    )
  changed = [
    f"{name} was {a!r}, now {b!r}" for name, a, b in _differences(old, new, "")
  ]
  if changed:
    raise UserError(
      f"{workdir} holds another run: {'; '.join(changed[:3])}"
      f"{' ...' if len(changed) > 3 else ''}. Choose another --workdir, run "
      "with the old settings to continue it, or add --overwrite to start anew."
    )


def _differences(old: Any, new: Any, name: str):
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      inner = f"{name}.{key}" if name else key
      yield from _differences(old.get(key), new.get(key), inner)
  elif old != new:
    yield name, old, new
