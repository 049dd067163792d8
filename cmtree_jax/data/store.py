"""How files are written: Parquet for text, NumPy for arrays, each whole or not at all.

A file has its name once its bytes are on disk, and is there for good once `replacing`
has ended. What stands for other files, a marker, is written after they are there.
What preparation keeps in folders that jobs share is made by `data/cache.py`.
"""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.types import UserError

TEMPORARY = ".tmp"  # ends the name of a file that is being written

# Of a target; a text that two of them have is kept in the later one.
SPLITS = ("train", "validation", "test")
SCORED_SPLITS = SPLITS[1:]  # what final models are scored on


def key_of(*parts: Any) -> str:
  """A short stable hash of anything that JSON can write."""
  text = json.dumps(parts, sort_keys=True, default=list)
  return blake2b(text.encode(), digest_size=12).hexdigest()


def digest(data: bytes) -> str:
  """A hash of bytes, as `file_digest` has it of a file that holds them."""
  return blake2b(data, digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
  """A hash of a file's bytes."""
  with path.open("rb") as file:
    return hashlib.file_digest(
      file, lambda: blake2b(digest_size=16)
    ).hexdigest()


def write_atomically(path: Path, data: bytes | str) -> None:
  """Writes a file that is either the old one or the whole new one."""
  content = data.encode() if isinstance(data, str) else data
  _replace(path, lambda file: file.write(content))


def to_json(value: Any) -> str:
  """Stable, readable JSON: sorted keys, and NaN refused rather than written."""
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def differences(
  old: Any, new: Any, name: str = ""
) -> Iterator[tuple[str, Any, Any]]:
  """(dotted name, before, after) of every field of two JSON values that differs."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      inner = f"{name}.{key}" if name else key
      yield from differences(old.get(key), new.get(key), inner)
  elif old != new:
    yield name, old, new


def save_array(path: Path, array: np.ndarray) -> None:
  """One .npy file, whole or not at all."""
  _replace(path, lambda file: np.save(file, array))


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
  """One .npz file, whole or not at all."""
  _replace(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def write_arrays(
  folder: Path, prefix: str, arrays: Mapping[str, np.ndarray]
) -> None:
  """Every array as a file of its own, `prefix.name.npy`."""
  for name, array in arrays.items():
    save_array(folder / f"{prefix}.{name}.npy", array)


def create_array(path: Path, dtype: Any, shape: tuple[int, ...]) -> Any:
  """A .npy file to be filled through memory mapping; its space on disk is taken.

  Raises:
    OSError: there is not so much. What is written to a mapped file when the disk is
      full ends the process without a word.
  """
  made = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
  if sys.platform == "linux":
    with path.open("r+b") as file:
      os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
  return made


def write_table(
  path: Path, names: Iterable[str], rows: Iterable[tuple[str, ...]]
) -> None:
  """Rows of strings as Parquet, whole or not at all."""
  import pyarrow as pa

  names = tuple(names)
  columns = list(zip(*rows, strict=True)) or [()] * len(names)
  arrays = [pa.array(column, pa.string()) for column in columns]
  write_parquet(path, pa.table(dict(zip(names, arrays, strict=True))))


def write_parquet(path: Path, table: Any) -> None:
  """An Arrow table, whole or not at all."""
  write_row_groups(path, [table])


def write_row_groups(path: Path, tables: Iterable[Any]) -> None:
  """Arrow tables of one schema, each a row group of one Parquet file."""
  import pyarrow.parquet as pq

  def write(file):
    writer = None
    for table in tables:
      if writer is None:
        writer = pq.ParquetWriter(
          file, table.schema, compression="zstd", write_page_checksum=True
        )
      writer.write_table(table)
    if writer is not None:
      writer.close()

  _replace(path, write)


def read_table(path: Path, *names: str) -> dict[str, list[str]]:
  """Columns of a Parquet file as lists, in the order of the names; no name: all.

  Raises:
    UserError: it is not what this package wrote there.
  """
  table = read_parquet(path, *names)
  return {name: table[name].to_pylist() for name in names or table.column_names}


def read_parquet(path: Path, *names: str) -> Any:
  """The same as an Arrow table; its pages' sums are checked, where it has them."""
  import pyarrow.parquet as pq

  try:
    return pq.read_table(
      path, columns=list(names) or None, page_checksum_verification=True
    )
  except FileNotFoundError:
    raise
  except Exception as error:  # what damaged files raise has no end
    raise UserError(
      f"{path}: wanted a sound Parquet file, came damage ({error!r}). Delete the "
      "folder that it lies in, and it is made again."
    ) from error


def remove(folder: Path) -> None:
  """Removes a folder and what is in it, if it is there."""
  shutil.rmtree(folder, ignore_errors=True)


def link(path: Path, other: Path) -> None:
  """The same file by another name; a copy where the file system has no links."""
  try:
    other.hardlink_to(path)
  except OSError:
    shutil.copyfile(path, other)


def unready_name(name: str) -> str:
  """What a file is called while it is written."""
  # Not the process's number: machines and containers that share a disk have equal
  # ones.
  return f".{name}.{secrets.token_hex(8)}{TEMPORARY}"


def is_unready(name: str) -> bool:
  """Whether a file of that name was being written when its process ended."""
  return name.startswith(".") and name.endswith(TEMPORARY)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
  """A temporary path; what was written there becomes `path` at the end."""
  temporary = path.with_name(unready_name(path.name))
  try:
    yield temporary
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)
  finally:
    temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
  """Waits until a file, or the names in a folder, are on disk.

  Raises:
    OSError: a file could not be written, which some systems say only now.
  """
  descriptor = os.open(path, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  except OSError as error:
    # Some file systems keep no order of names.
    if not path.is_dir() or error.errno in (errno.ENOSPC, errno.EIO):
      raise
  finally:
    os.close(descriptor)


def settle(folder: Path) -> None:
  """Waits until all that is in a folder is on disk: before a marker vouches for it."""
  for where, _, names in os.walk(folder, topdown=False):
    for name in names:
      if not os.path.islink(one := os.path.join(where, name)):
        sync(Path(one))
    sync(Path(where))


def _replace(path: Path, write: Callable[[Any], None]) -> None:
  with replacing(path) as temporary, temporary.open("xb") as file:
    write(file)


def require_space(folder: Path, num_bytes: int) -> None:
  """Raises OSError, as a write would, if a folder's disk has less space."""
  if shutil.disk_usage(folder).free < num_bytes:
    code = errno.ENOSPC
    raise OSError(code, os.strerror(code), str(folder))


# A disk, a quota, or what one file may hold.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: BaseException | None) -> bool:
  """Whether an error says that there is no space left, whoever raised it.

  >>> is_full(RuntimeError("write: No space left on device [/a/b]"))
  True
  """
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    if any(os.strerror(number) in str(error) for number in _FULL):
      return True
    error = error.__cause__ or error.__context__
  return False


def unwritable(folder: Path, error: OSError) -> str:
  """What to tell of a place that cannot be written to or is full."""
  return (
    f"Cannot write {folder}: {error.strerror or error}. Choose another place "
    "with --config.cache_dir or --workdir, or free some space."
  )
