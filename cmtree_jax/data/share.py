"""A cache at an address: each folder is made or fetched once on every host.

What `cache.py` makes goes up whole, the list of its files last: a folder without it is
not there. What another host has made comes down and is checked, every byte. Nothing is
removed at the address, so hosts need no locks there.
"""

from pathlib import Path
from typing import ClassVar

from cmtree_jax.data import mirror, store
from cmtree_jax.data.read.files import is_remote
from cmtree_jax.data.remote import Remote


class _Open:
  """The caches of this process that are at an address too."""

  caches: ClassVar[dict[Path, Remote]] = {}  # by their folder on this machine


def local(text: str | Path) -> Path:
  """Where a cache is on this machine: the folder itself, or one for its address."""
  if not is_remote(text):
    return Path(text).expanduser()
  return mirror.local_cache() / "addresses" / store.key_of(str(text))


def attach(text: str | Path) -> Path:
  """The same; from now on its folders are fetched from the address and go there.

  Raises:
    UserError: the address cannot be read.
  """
  folder = local(text)
  if is_remote(text) and folder not in _Open.caches:
    one = Remote(str(text))
    one.entries()  # what cannot be reached is told before any work
    _Open.caches[folder] = one
  return folder


def fetch(folder: Path, place: Path, seal: str) -> str:
  """Copies a folder of the cache from its address, if that has one.

  Args:
    folder: as it is called here.
    place: where it is put.
    seal: the file that was written last.
  Returns:
    Where it came from; "" if it did not.
  """
  one, name = _at_address(folder)
  if one is None or not one.has(f"{name}/{seal}"):
    return ""
  store.remove(place)
  for file in one.names(name):
    one.get(file, place / Path(file).relative_to(name))
  return f"{one.address}/{name}"


def offer(folder: Path, seal: str) -> None:
  """Copies a folder of the cache to its address, if that has none."""
  one, name = _at_address(folder)
  if one is None or one.has(f"{name}/{seal}"):
    return
  files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
  for path in sorted(files, key=lambda path: path == folder / seal):
    one.put(path, f"{name}/{path.relative_to(folder).as_posix()}")


def _at_address(folder: Path) -> tuple[Remote | None, str]:
  for cache, one in _Open.caches.items():
    if folder.is_relative_to(cache):
      return one, folder.relative_to(cache).as_posix()
  return None, ""
