"""Files by pattern, their bytes and digests, on this machine or in a bucket.

Compressed bytes are known by how they begin, not by what the file is called, and
come out through a guard against files that are made to expand without end.
"""

import contextlib
import glob
import gzip
import hashlib
import io
import itertools
import os
import posixpath
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from cmtree_jax.data.read.fields import Part, Unusable
from cmtree_jax.types import UserError

# A compressed file that has expanded to more than BOMB_BYTES and to more than
# BOMB_RATIO times what was read of it is not read on. Text of people stays under
# 20, web logs under 100; gzip ends at 1,032, zstd beyond 10,000.
BOMB_BYTES = 1 << 28
BOMB_RATIO = 200

TRUNCATED = "a truncated file"
DAMAGED = "a damaged file"
UNREADABLE = "an unreadable file"
BOMB = "a decompression bomb"
# What a file begins with that is compressed in a way that is not read.
_OTHERS = {
  b"\xfd7zXZ\0": "xz",
  b"BZh": "bzip2",
  b"PK\x03\x04": "zip",
  b"PK\x05\x06": "zip",
  b"\x04\x22\x4d\x18": "lz4",
  b"7z\xbc\xaf\x27\x1c": "7z",
  b"Rar!\x1a\x07": "rar",
  b"\x1f\x9d": "compress",
  b"\x5d\0\0": "lzma",
  b"\xff\x06\0\0sNaPpY": "snappy",
}
_HEAD = max(map(len, _OTHERS))
WHOLE_FILE = (TRUNCATED, DAMAGED, UNREADABLE, BOMB)  # kinds that end a file


def find(pattern: str) -> list[str]:
  """Sorted paths that match; a path that exists is itself and no pattern.

  Raises:
    UserError: nothing matches, a name is no UTF-8, or the bucket cannot be
      reached from here.
  """
  pattern = os.path.expanduser(pattern)
  if is_remote(pattern):
    found = _find_remote(pattern)
  elif os.path.lexists(pattern):
    found = [pattern]
  else:
    found = list(_matches(pattern))
  if not found:
    raise UserError(
      f"{pattern}: wanted a file or a pattern such as folder/*.jsonl, came one "
      "that matches nothing; no file is there, check the path."
    )
  for path in found:
    _refuse_name_without_encoding(path)
  return sorted(found)


def parts(kind: str, pattern: str) -> list[Part]:
  """One part for each file that matches.

  Raises:
    UserError: as `find` does, or only folders match.
  """
  found = find(pattern)
  if all(map(os.path.isdir, found)):
    raise UserError(
      f"{found[0]}: wanted a file or a pattern, came a folder; give "
      f"{kind}:{posixpath.join(found[0], '*')} for the files in it."
    )
  return [
    Part(kind, path, posixpath.basename(path.rstrip("/"))) for path in found
  ]


def is_remote(path: str | Path) -> bool:
  """Whether a path names something in a bucket, such as gs://..."""
  return "://" in str(path)


@contextlib.contextmanager
def raw(path: str) -> Iterator[IO[bytes]]:
  """The bytes of a file as they are stored.

  Raises:
    Unusable: the file cannot be read to its end; also raised for the errors
      that reading it raises inside the `with` block.
  """
  from etils import epath

  try:
    if not is_remote(path):
      _refuse_what_is_no_file(path)
    with epath.Path(path).open("rb") as file:
      yield file
  except EOFError:
    raise _truncated() from None
  except (gzip.BadGzipFile, zlib.error) as error:
    raise damaged(error) from None
  except OSError as error:
    raise _translated(error) from None
  except Unusable:
    raise
  except Exception as error:
    if not is_remote(path):
      raise
    # The libraries of buckets have errors of their own.
    raise _unreadable(f"{type(error).__name__} ({error})") from None


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
  """The bytes of a file, decompressed if they begin as gzip or zstd do.

  Raises:
    Unusable: as `raw`, and for a file that expands beyond measure, or is compressed
      in another way.
  """
  with raw(path) as file:
    head = file.read(_HEAD)
    file.seek(0)
    _refuse_other_compression(head)
    if head[:2] == b"\x1f\x8b":
      # readinto1 hands over what came before an early end; readinto drops it.
      yield _buffered(gzip.GzipFile(fileobj=file).readinto1, file)
    elif head[:4] == b"\x28\xb5\x2f\xfd" or _is_skippable_frame(head[:4]):
      import pyarrow as pa

      # Unlike other readers, this one notices a frame that ends early.
      source = pa.PythonFile(file, mode="r")
      stream = pa.CompressedInputStream(source, "zstd")
      yield _buffered(stream.readinto, file)
    elif not head and path.endswith((".gz", ".zst")):
      raise _truncated()
    else:
      yield file


def trouble(path: str) -> str:
  """Why a file cannot even be begun to read; "" if it can."""
  try:
    with raw(path) as file:
      file.read(1)
  except Unusable as problem:
    return str(problem)
  return ""


def digest(part: Part) -> str:
  """A hash of a file's bytes; one that cannot be read has its own."""
  total = hashlib.blake2b(digest_size=16)
  try:
    with raw(part.path) as file:
      while block := file.read(1 << 20):
        total.update(block)
  except Unusable as problem:
    total.update(problem.kind.encode())
  return total.hexdigest()


def digest_of(paths: Iterable[str]) -> str:
  """A hash of the names and bytes of several files."""
  total = hashlib.blake2b(digest_size=16)
  for path in paths:
    name = posixpath.basename(path)
    total.update(os.fsencode(name) + b"\0")
    total.update(digest(Part("", path, name)).encode())
  return total.hexdigest()


def refuse_bomb(size: int, taken: int, least: int = BOMB_BYTES) -> None:
  """Stops a reader whose file expands beyond measure.

  Args:
    size: bytes that came out, or will.
    taken: compressed bytes that they came out of.
    least: bytes that do no harm.
  Raises:
    Unusable: `size` is over both limits.
  """
  if size > least and size > BOMB_RATIO * max(taken, 1):
    raise Unusable(
      BOMB,
      f"wanted a file that expands to at most {BOMB_RATIO} times its size, came "
      f"{size:,} bytes out of {taken:,}; if you trust it, decompress it "
      "yourself.",
    )


def damaged(error: Exception | str) -> Unusable:
  """What is raised when a library cannot make sense of a file."""
  reason = " ".join((str(error) or type(error).__name__).split())[:200]
  return Unusable(
    DAMAGED,
    f"wanted a sound file, came damage ({reason}); copy or make it again.",
  )


class Meter:
  """Counts what comes out of a file, whatever the file says of it."""

  def __init__(self, taken: int):
    """Of one file.

    Args:
      taken: bytes of the file.
    """
    self.taken, self._size = taken, 0

  def add(self, size: int) -> None:
    """Raises Unusable where a file can only be meant to fill memory or a disk."""
    self._size += size
    refuse_bomb(self._size, self.taken)


class _Guarded(io.RawIOBase):
  """Decompressed bytes; raises where a file can only be meant to fill a disk."""

  def __init__(self, readinto: Callable[[Any], int], file: IO[bytes]):
    self._readinto = readinto
    self._file = file
    self._size = 0

  def readable(self) -> bool:
    return True

  def readinto(self, buffer) -> int:
    size = self._readinto(buffer)
    self._size += size
    if self._size > BOMB_BYTES:
      refuse_bomb(self._size, self._file.tell())
    return size


def _buffered(readinto: Callable[[Any], int], file: IO[bytes]) -> IO[bytes]:
  return io.BufferedReader(_Guarded(readinto, file), 1 << 18)


def _refuse_other_compression(head: bytes) -> None:
  for begin, name in _OTHERS.items():
    if head.startswith(begin):
      raise Unusable(
        f"{name} compression, which is not read",
        f"wanted a plain file or one of gzip or zstd, came one of {name}, which is "
        "not read; decompress it.",
      )


def _is_skippable_frame(head: bytes) -> bool:
  """Whether zstd's parallel compressors began a file so."""
  return head[1:] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def _matches(pattern: str) -> set[str]:
  """What `glob` finds, with `**` for every folder once, whatever links lead to it."""
  steps = pattern.split("/")
  if "**" not in steps:
    return set(glob.glob(pattern))
  at = steps.index("**")
  roots = glob.glob("/".join(steps[:at]) or "/") if at else [""]
  after = itertools.dropwhile("**".__eq__, steps[at:])  # two mean what one does
  rest = "/".join(after) or "*"
  return {
    path
    for folder in _folders(roots)
    for path in _matches(posixpath.join(glob.escape(folder), rest))
  }


def _folders(roots: Sequence[str]) -> Iterator[str]:
  """The folders, and all below them; through links those that nothing else reaches."""
  seen: set[str] = set()
  waiting, links = list(roots), []
  while waiting or links:
    folder = waiting.pop() if waiting else links.pop()
    real = os.path.realpath(folder)
    if real in seen or not os.path.isdir(real):
      continue
    seen.add(real)
    yield folder
    try:
      entries = sorted(os.scandir(folder or "."), key=lambda one: one.name)
    except OSError:  # as `glob` does
      continue
    for one in entries:
      if one.is_dir() and not one.name.startswith("."):
        path = posixpath.join(folder, one.name)
        (links if one.is_symlink() else waiting).append(path)


def _refuse_what_is_no_file(path: str) -> None:
  if os.path.isfile(path):
    return
  if os.path.isdir(path):
    raise _unreadable("Is a directory")
  if os.path.islink(path):
    raise _unreadable(f"a link to {os.readlink(path)!r}, which is not there")
  if os.path.exists(path):  # reading a pipe may wait without end
    raise _unreadable("a device or a pipe")
  raise _unreadable("no file")


def _refuse_name_without_encoding(path: str) -> None:
  """Refuses a name that is no UTF-8: names become ids and messages, which are."""
  try:
    path.encode()
  except UnicodeEncodeError:
    encoding = sys.getfilesystemencoding()
    cure = "rename the file"
    if encoding != "utf-8":  # as under LC_ALL=C, where Python was told to obey
      cure = f"set PYTHONUTF8=1, for this Python takes names for {encoding}"
    raise UserError(
      f"{os.fsencode(path)!r}: wanted a file name in UTF-8, came other bytes; {cure}."
    ) from None


def _unreadable(came: str) -> Unusable:
  came = " ".join(came.split())[:200]
  return Unusable(
    UNREADABLE,
    f"wanted a readable file, came {came}; check the path and its permissions.",
  )


def _truncated() -> Unusable:
  return Unusable(
    TRUNCATED,
    "wanted a whole compressed file, came one that ends early; copy or make it "
    "again.",
  )


def _translated(error: OSError) -> Unusable:
  if str(error) == "Truncated compressed stream":  # pyarrow has no type for it
    return _truncated()
  if error.errno is None and "decompress failed" in str(error):
    return damaged(error)
  return _unreadable(repr(error.strerror or str(error)))


def _find_remote(pattern: str) -> list[str]:
  from etils import epath

  if "**" in pattern:
    raise UserError(
      f"{pattern}: wanted a pattern without '**', which buckets do not have, "
      "came one; give one '*' for each folder."
    )
  try:
    path = epath.Path(pattern)
    if path.exists():
      return [pattern]
    return [os.fspath(match) for match in path.parent.glob(path.name)]
  except Exception as error:  # the libraries of buckets have many
    reason = " ".join(str(error).split())[:200]
    raise UserError(
      f"{pattern}: wanted a bucket that can be read from here, came {reason}; "
      "install what it names, or give a local path."
    ) from None
