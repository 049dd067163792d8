"""JSON files that tell damage: they hold digests of themselves and of their neighbors.

What a job leaves is read again by other jobs, maybe years later and after copies. A
number that changed on the way would change a training and tell nobody.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cmtree_jax.data import store
from cmtree_jax.types import UserError

DIGEST = "digest"  # of everything else in the file
FILES = "files"  # name -> digest, of files beside it


def write(
  path: Path, data: Mapping[str, Any], *, beside: Iterable[Path] = ()
) -> None:
  """Writes JSON with digests, whole or not at all.

  Args:
    path: of the file.
    data: what it holds.
    beside: files that it is worth nothing without, in its folder or below.
  """
  files = {
    str(one.relative_to(path.parent)): store.file_digest(one) for one in beside
  }
  told = {**data, **({FILES: files} if files else {})}
  # As it will be read: tuples are lists then, and all keys strings.
  told = json.loads(store.to_json(told))
  whole = {**told, DIGEST: _digest(told)}
  store.write_atomically(path, store.to_json(whole))


def read(path: Path, *, cure: str) -> dict[str, Any]:
  """What a file holds, `FILES` with it.

  Files of versions that wrote no digests are taken as they are; where that is not
  wanted, the reader asks for a format number.

  Args:
    path: of the file.
    cure: ends the message of an error: what to do.
  Raises:
    UserError: it is not what was written.
  """
  try:
    told = json.loads(path.read_bytes(), parse_constant=_refuse)
    if not isinstance(told, dict):
      raise ValueError("no JSON object")
    digest = told.pop(DIGEST, None)
    if digest not in (None, _digest(told)):
      raise ValueError("other content than was written")
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(
      f"{path}: wanted the JSON that was written there, came {_short(error)}. "
      f"{cure}"
    ) from error
  return told


def require(path: Path, told: Mapping[str, Any], *names: str, cure: str):
  """Refuses files that are not those that a sealed one was written with.

  Args:
    path: of the sealed file.
    told: what `read` found in it.
    names: of the others; by default all of them.
    cure: as in `read`.
  Raises:
    UserError: naming the first that is missing or not as it was.
  """
  files = told.get(FILES, {})
  for name in names or files:
    one = path.parent / name
    if not one.is_file():
      raise UserError(f"{one}: wanted a file, came none. {cure}")
    if name in files and store.file_digest(one) != files[name]:
      raise UserError(
        f"{one}: wanted the bytes that {path.name} was written with, came others. "
        f"{cure}"
      )


def _digest(told: Mapping[str, Any]) -> str:
  """A hash of what JSON tells; NaN and infinity raise ValueError."""
  return store.digest(store.to_json(told).encode())


def _refuse(constant: str) -> None:
  raise ValueError(f"{constant}, which is no finite number")


def _short(error: Exception) -> str:
  told = error.strerror if isinstance(error, OSError) else str(error)
  return " ".join((told or repr(error)).split())[:200]
