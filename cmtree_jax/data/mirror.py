"""A folder at an address has a twin on this machine, where all work is done.

Jobs need what no bucket has: names that change at once, locks, files in memory. So what
is at the address is copied to a twin, and what changes there is copied back after every
save. A push that is cut off leaves what a job that was killed could have left on a disk:
files go up in the order in which they were written, what is gone goes last, and a new
folder counts only when all of it is there, for on a disk it gets its name when it is
whole.
"""

import atexit
import contextlib
import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from cmtree_jax.data import store
from cmtree_jax.data.lease import FILE as LOCK_FILE
from cmtree_jax.data.lease import Lease
from cmtree_jax.data.read.files import is_remote
from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError

# Names the files of the new folders that are being pushed; removed when all are there.
JOURNAL_FILE = ".push.json"
_OWN = (LOCK_FILE, JOURNAL_FILE)


def local_cache() -> Path:
  """Where twins lie; the address of a shared cache is no place for them."""
  told = os.environ.get("CMTREE_CACHE", "")
  own = told and not is_remote(told)
  return Path(told if own else "~/.cache/cmtree_jax").expanduser().absolute()


class Mirror:
  """A twin and what is known of its address."""

  def __init__(self, address: str):
    """An empty twin, in a folder that is this process's as long as it lives.

    Raises:
      UserError: the address is of no storage that is known here, or the cache of this
        machine cannot be written to.
    """
    self.remote = Remote(address)
    self._place = local_cache() / "twins" / secrets.token_hex(8)
    try:
      self._place.mkdir(parents=True)
    except OSError as error:
      raise UserError(store.unwritable(self._place, error)) from error
    self._alive = os.open(self._place, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system without locks
      fcntl.flock(self._alive, fcntl.LOCK_EX)
    # Cells and progress are called after the folder.
    self.twin = self._place / (self.remote.address.rpartition("/")[2] or "run")
    self._known: dict[str, _State | None] = {}  # at the address
    self._lease: Lease | None = None
    self._news: set[str] = set()  # names of what changed since others were told

  @contextlib.contextmanager
  def held(self, marker: str) -> Iterator[None]:
    """Keeps other jobs out of the address, and the twin equal to it.

    Args:
      marker: file that is wherever this package wrote.
    Raises:
      UserError: another job is there, files of others are, or it cannot be reached.
    """
    entries = self.remote.entries()  # a whole bucket would take long to list
    if marker not in entries and set(entries) - {LOCK_FILE}:
      raise UserError(
        f"{self.remote.address} is not empty and holds no {marker}, so it is no run "
        "of this package. Choose another address."
      )
    self._lease = Lease(self.remote, self._place.name, _has_ended)
    self._lease.take()
    try:
      self.pull()
      try:
        yield
      except BaseException:
        with contextlib.suppress(UserError):  # the first error tells more
          self.push()
        raise
      self.push()
    finally:
      with contextlib.suppress(UserError):
        self._lease.release()
      self._lease = None

  def pull(self, *, skip: str = "") -> None:
    """Makes the twin equal to what the address holds.

    Args:
      skip: files of this folder that are no JSON stay where they are.
    Raises:
      UserError: it cannot be read.
    """
    store.remove(self.twin)
    self.twin.mkdir(parents=True)
    found = [one for one in self.remote.names() if one not in _OWN]
    lost = self._cut_off(found)
    for name in lost if self._lease else ():
      self.remote.remove(name)
    if self._lease:  # only now, or they would be taken for whole
      self.remote.remove(JOURNAL_FILE)
    self._known = {}
    for name in found:
      if name in lost or (
        skip and name.startswith(f"{skip}/") and not name.endswith(".json")
      ):
        continue
      if store.is_unready(name.rpartition("/")[2]):
        self._known[name] = None  # goes at the next push
      elif self.remote.get(name, self.twin / name):
        self._known[name] = _State.of(self.twin / name)

  def push(self) -> None:
    """Makes the address equal to the twin.

    Raises:
      UserError: it cannot be written to, or another job has taken it over.
    """
    if self._lease is None:
      return
    self._lease.check()
    files = self._files()
    changed = [
      name for name, state in files.items() if self._known.get(name) != state
    ]
    if came := self._new_folders(changed):
      self.remote.write(JOURNAL_FILE, json.dumps(came).encode())
    for name in sorted(changed, key=lambda name: (files[name].written, name)):
      try:
        self.remote.put(self.twin / name, name)
      except UserError:
        if (self.twin / name).exists():
          raise
        continue  # another thread took it away
      self._known[name] = files[name]
    if came:
      self.remote.remove(JOURNAL_FILE)
    gone = self._known.keys() - files.keys()
    for name in sorted(gone):
      self.remote.remove(name)
      del self._known[name]
    self._news |= {*changed, *gone}

  def news(self) -> list[str]:
    """Pushes; the names of what changed since this was last asked."""
    self.push()
    names, self._news = sorted(self._news), set()
    return names

  def hear(self, names: Iterable[str]) -> None:
    """Brings files of those names into the twin, or takes them away."""
    for name in names:
      path = self.twin / name
      if not self.remote.get(name, path):
        for folder in path.parents:
          if folder == self.twin or any(folder.iterdir()):
            break
          folder.rmdir()

  def close(self) -> None:
    """Removes the twin."""
    store.remove(self._place)
    os.close(self._alive)

  def _files(self) -> dict[str, "_State"]:
    """All files of the twin; other threads may be at work in it."""
    found = {}
    for folder, _, names in os.walk(self.twin):
      for path in (Path(folder, name) for name in names):
        if not store.is_unready(path.name):
          with contextlib.suppress(FileNotFoundError):
            found[path.relative_to(self.twin).as_posix()] = _State.of(path)
    return found

  def _new_folders(self, changed: list[str]) -> dict[str, list[str]]:
    """Folder -> its files, for each that the address has nothing of."""
    there = {folder for name in self._known for folder in _folders(name)}
    came: dict[str, list[str]] = {}
    for name in changed:
      new = [folder for folder in _folders(name) if folder not in there]
      if new:
        came.setdefault(new[0], []).append(name)
    return came

  def _cut_off(self, found: list[str]) -> set[str]:
    """Files of new folders whose push did not come to its end."""
    journal = json.loads(self.remote.read(JOURNAL_FILE) or b"{}")
    there = set(found)
    return {
      name
      for names in journal.values()
      if not there.issuperset(names)
      for name in names
      if name in there
    }


class _State(NamedTuple):
  """By which one sees that a file has changed."""

  size: int
  number: int  # of the file system; one that was replaced has another
  written: int  # ns
  digest: str  # "" where the time tells

  @classmethod
  def of(cls, path: Path) -> "_State":
    """Of a file as it is."""
    found = path.stat()
    # What is written through memory changes no time on some file systems.
    digest = store.file_digest(path) if path.suffix == ".npy" else ""
    return cls(found.st_size, found.st_ino, found.st_mtime_ns, digest)


def _folders(name: str) -> list[str]:
  """All folders that a file is in, the outermost first."""
  return [str(one) for one in reversed(Path(name).parents) if one.name]


class _Open:
  """The mirrors of this process, by their addresses."""

  jobs: ClassVar[dict[str, Mirror]] = {}  # where jobs write
  read: ClassVar[dict[str, Mirror]] = {}  # as they were at the first look


def working(address: str) -> Path:
  """The twin of an address that a job will hold; empty until then."""
  return _opened(_Open.jobs, address).twin


def reading(folder: Path | str) -> Path:
  """A folder to read, of this machine or of an address.

  Raises:
    UserError: the address cannot be read.
  """
  if not is_remote(folder):
    return Path(folder)
  is_new = str(folder) not in _Open.read
  one = _opened(_Open.read, str(folder))
  if is_new:
    one.pull(skip="export")  # files for trainers, which may be many
  return one.twin


def of(path: Path) -> Mirror | None:
  """The mirror of a job whose twin a path lies in."""
  return _around(path, _Open.jobs)


def push(path: Path) -> None:
  """Pushes what a job wrote, if the path is one of a twin."""
  if one := of(path):
    one.push()


def news() -> str:
  """Pushes what this process wrote for others, and says what it is."""
  found = {address: one.news() for address, one in _Open.jobs.items()}
  return json.dumps(found)


def hear(told: str) -> None:
  """Has the twins of this process follow those of the process that told."""
  for address, names in json.loads(told or "{}").items():
    _Open.jobs[address].hear(names)


def publish(path: Path) -> None:
  """Copies a file that was written beside what was read to its address."""
  if one := _around(path, _Open.read):
    one.remote.put(path, str(path.relative_to(one.twin)))


def addressed(text: str) -> str:
  """A text for persons and trainers, with addresses in the place of their twins."""
  for one in (*_Open.jobs.values(), *_Open.read.values()):
    text = text.replace(str(one.twin), one.remote.address)
  return text


def close() -> None:
  """Removes all twins of this process, and those of processes that were killed."""
  opened = [*_Open.jobs.values(), *_Open.read.values()]
  _Open.jobs.clear()
  _Open.read.clear()
  for one in opened:
    one.close()
  for place in (local_cache() / "twins").iterdir() if opened else ():
    if _has_ended(place.name):
      store.remove(place)


atexit.register(close)


def _around(path: Path, mirrors: dict[str, Mirror]) -> Mirror | None:
  found = (x for x in mirrors.values() if path.is_relative_to(x.twin))
  return next(found, None)


def _opened(mirrors: dict[str, Mirror], address: str) -> Mirror:
  if address not in mirrors:
    mirrors[address] = Mirror(address)
  return mirrors[address]


def _has_ended(token: str) -> bool:
  """Whether a twin of this machine has no process any more."""
  place = local_cache() / "twins" / token
  try:
    alive = os.open(place, os.O_RDONLY)
  except OSError:
    return False
  try:
    fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return False
  finally:
    os.close(alive)
  return True
