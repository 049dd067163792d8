"""Files at an address, such as gs://bucket/run: by name, each whole or not there.

`fsspec` does the work. It knows most kinds of storage, tries again where their
libraries do, and has errors of many kinds, which become one line here.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from cmtree_jax.data import store
from cmtree_jax.types import UserError


class Remote:
  """The files below one address; names are relative to it."""

  def __init__(self, address: str):
    """One that is there or can be made by writing.

    Args:
      address: with a scheme that fsspec knows.
    Raises:
      UserError: the scheme is unknown, or its library is not installed.
    """
    self.address = address.rstrip("/")
    with self._told("name"):
      import fsspec

      # Others write there, so what was listed before says nothing.
      self._files, root = fsspec.url_to_fs(
        self.address, use_listings_cache=False
      )
      self._root = root.rstrip("/")

  def names(self, below: str = "") -> list[str]:
    """All files, sorted; none where there is nothing yet.

    Args:
      below: a folder; "": the address itself.
    """
    prefix = f"{self._root}/"
    with self._told("list"):
      found = self._files.find(f"{self._root}/{below}".rstrip("/"))
    # Some programs mark folders of a bucket by files whose names end so.
    return sorted(
      one.removeprefix(prefix)
      for one in found
      if one.startswith(prefix) and not one.endswith("/")
    )

  def entries(self) -> list[str]:
    """Names of files and folders right at the address."""
    with self._told("list"):
      try:
        found = self._files.ls(self._root, detail=False)
      except FileNotFoundError:
        return []
    return [one.rstrip("/").rpartition("/")[2] for one in found]

  def has(self, name: str) -> bool:
    """Whether there is a file of that name."""
    with self._told("read"):
      return self._files.isfile(self._path(name))

  def get(self, name: str, path: Path) -> bool:
    """Copies a file to this machine; where there is none, false, and none is here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, for somebody may have the old one in memory.
    unready = path.with_name(store.unready_name(path.name))
    with self._told("read"):
      try:
        self._files.get_file(self._path(name), str(unready))
      except FileNotFoundError:
        path.unlink(missing_ok=True)
        return False
      unready.replace(path)
      return True

  def put(self, path: Path, name: str) -> None:
    """Copies a file from this machine; the old one stays until it is there."""
    self._place(name, lambda goal: self._files.put_file(str(path), goal))

  def read(self, name: str) -> bytes | None:
    """What a small file holds; None where there is none."""
    with self._told("read"):
      try:
        return self._files.cat_file(self._path(name))
      except FileNotFoundError:
        return None

  def write(self, name: str, content: bytes) -> None:
    """Writes a small file; the old one stays until it is there."""
    self._place(name, lambda goal: self._files.pipe_file(goal, content))

  def create(self, name: str, content: bytes) -> bool:
    """Writes a small file unless there is one; whether it did."""
    goal = self._path(name)
    with self._told("write"):
      if self._is_disk:
        self._files.makedirs(goal.rpartition("/")[0], exist_ok=True)
      try:
        self._files.pipe_file(goal, content, mode="create")
      except FileExistsError:
        return False
      return True

  def remove(self, name: str) -> None:
    """Removes a file, if it is there."""
    with self._told("write"), contextlib.suppress(FileNotFoundError):
      self._files.rm_file(self._path(name))
      if self._is_disk:
        self._drop_folders(name)

  def _place(self, name: str, write: Callable[[str], None]) -> None:
    """Lets a file be written; disks show those that are not whole, buckets do not."""
    goal = self._path(name)
    with self._told("write"):
      if not self._is_disk:
        write(goal)
        return
      folder, _, own = goal.rpartition("/")
      unready = f"{folder}/{store.unready_name(own)}"
      self._files.makedirs(folder, exist_ok=True)
      write(unready)
      self._files.mv(unready, goal)

  def _drop_folders(self, name: str) -> None:
    """Removes the folders of a file that is gone, which buckets have only with files."""
    for folder in PurePosixPath(name).parents:
      if not folder.name or self._files.ls(self._path(str(folder))):
        break
      self._files.rmdir(self._path(str(folder)))

  @property
  def _is_disk(self) -> bool:
    """Whether it has folders, and files that are seen before they are whole."""
    return getattr(self._files, "local_file", False)

  def _path(self, name: str) -> str:
    return f"{self._root}/{name}"

  @contextlib.contextmanager
  def _told(self, what: str) -> Iterator[None]:
    """Makes one line of what libraries of storages raise."""
    try:
      yield
    except UserError:
      raise
    except Exception as error:  # they have many
      reason = " ".join((str(error) or repr(error)).split())[:200]
      raise UserError(
        f"{self.address}: wanted an address that can be read and written from "
        f"here, came no way to {what} it ({type(error).__name__}: {reason}). Check "
        "the address, the rights and the network, install what is named, or give a "
        "folder."
      ) from error
