"""Folders that are made once and then only read: whole, or not there.

A folder's name is a hash of everything that it is made from, and jobs share it. It is
made beside its final place, under a lock of the process that makes it, and gets its
name in one step. So two jobs that find nothing both make it, and the second one takes
what the first one named. A lock ends with its process, however that ends: the next
job goes on with what an interrupted one left.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from cmtree_jax.data import share, store
from cmtree_jax.types import UserError

SEAL_FILE = "files.json"  # size and digest of every other file, written last

# Files of a folder are hashed when it is opened, the smallest first, up to so many
# bytes: a second. Of the others only the size is looked at.
HASHED_BYTES = 500_000_000


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
  """The folder, made by `build` if it is not there yet, and checked.

  Args:
    folder: the final place.
    build: fills the folder that it is given, which no other process works in.
      That may hold what an earlier call left that was interrupted.
  Raises:
    UserError: the place cannot be written to or is full, or what is there is not
      what was written.
  """
  try:
    if not folder.is_dir():
      with _aside(folder) as place:
        if not _fetched(folder, place):
          build(place)
          _seal(place)
        _name(place, folder)
    _remove_leftovers(folder)
    share.offer(folder, SEAL_FILE)
  except OSError as error:
    raise UserError(store.unwritable(folder, error)) from error
  check(folder)
  return folder


def folders(cache: Path) -> Iterator[Path]:
  """All folders below one that were made and named."""
  for file in sorted(cache.rglob(SEAL_FILE)):
    if not any(x.startswith(".") for x in file.relative_to(cache).parts):
      yield file.parent


def check(folder: Path, *, whole: bool = False) -> None:
  """Refuses a folder whose files are not those that were written.

  Args:
    folder: that was made by `build_once`.
    whole: hashes every file, however long that takes.
  Raises:
    UserError: naming the first file that is missing or not as it was.
  """
  try:
    seal = json.loads((folder / SEAL_FILE).read_text())
    wanted = sorted(
      (size, name, digest) for name, (size, digest) in seal.items()
    )
  except (OSError, ValueError, TypeError, AttributeError):
    raise _damaged(folder, SEAL_FILE, "the list of its files", "none") from None
  left = HASHED_BYTES
  for size, name, digest in wanted:
    path = folder / name
    came = path.stat().st_size if path.is_file() else None
    if came != size:
      came = "no file" if came is None else f"{came:,}"
      raise _damaged(folder, name, f"{size:,} bytes", came)
    left -= size
    if (whole or left >= 0) and store.file_digest(path) != digest:
      raise _damaged(folder, name, "the bytes that were written", "others")


def _fetched(folder: Path, place: Path) -> bool:
  """Whether the folder came from the address of its cache, every byte of it."""
  address = share.fetch(folder, place, SEAL_FILE)
  if not address:
    return False
  try:
    check(place, whole=True)
  except UserError as error:
    store.remove(place)
    told = str(error).partition(";")[0].replace(str(place), address)
    raise UserError(
      f"{told}; remove {address}, and it is made again."
    ) from error
  store.settle(place)
  return True


def _damaged(folder: Path, name: str, wanted: str, came: str) -> UserError:
  return UserError(
    f"{folder / name}: wanted {wanted}, came {came}; delete the folder {folder}, "
    "and it is made again."
  )


@contextlib.contextmanager
def _aside(folder: Path) -> Iterator[Path]:
  """A folder beside the one that is to be made, locked by this process."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  place, lock = _claim(folder)
  try:
    place.mkdir(exist_ok=True)
    yield place
  finally:
    with contextlib.suppress(OSError):  # it holds something, or has its name
      place.rmdir()
    _unlock(place, lock)


def _claim(folder: Path) -> tuple[Path, IO[str] | None]:
  """The first place that no process works in, and its lock."""
  for number in itertools.count():
    place = _places(folder, str(number))
    try:
      if lock := _lock(place):
        return place, lock
    except OSError as error:
      if error.errno not in _NO_LOCKS:
        raise
      # Nobody can tell whether this one is at work, so nobody goes on with it.
      return _places(folder, secrets.token_hex(8)), None
  raise AssertionError("numbers never end")


# What file systems say that have no locks, as some of clusters.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def _places(folder: Path, which: str) -> Path:
  return folder.with_name(f".{folder.name}-{which}")


def _lock_file(place: Path) -> Path:
  return place.with_name(f"{place.name}.lock")


def _lock(place: Path) -> IO[str] | None:
  """The lock of a place, or None where another process has it."""
  lock = _lock_file(place).open("a")
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.close()
    return None
  except OSError:
    lock.close()
    _lock_file(place).unlink(missing_ok=True)
    raise
  if not os.fstat(lock.fileno()).st_nlink:
    # Its holder ended and removed it after it was opened here.
    lock.close()
    return None
  return lock


def _unlock(place: Path, lock: IO[str] | None) -> None:
  if lock:
    _lock_file(place).unlink(missing_ok=True)
    lock.close()


def _seal(place: Path) -> None:
  """Writes down what the folder holds; all is on disk before that is, and its name."""
  for path in place.rglob(f".*{store.TEMPORARY}"):
    path.unlink()  # its writer was killed
  seal = {
    str(path.relative_to(place)): [path.stat().st_size, store.file_digest(path)]
    for path in sorted(place.rglob("*"))
    if path.is_file()
  }
  store.settle(place)
  store.write_atomically(place / SEAL_FILE, store.to_json(seal))


def _name(place: Path, folder: Path) -> None:
  """Gives the folder its name, unless another process was faster."""
  try:
    place.rename(folder)
    store.sync(folder.parent)
  except OSError:
    if not folder.is_dir():
      raise
    store.remove(place)


def _remove_leftovers(folder: Path) -> None:
  """Removes what processes left that ended while they made the folder."""
  found = folder.parent.glob(f".{folder.name}-*")
  for place in {one.with_name(one.name.removesuffix(".lock")) for one in found}:
    with contextlib.suppress(OSError):  # a cache that is only read; no locks
      if lock := _lock(place):
        store.remove(place)
        _unlock(place, lock)
