"""What preparation leaves on disk: Parquet for text, NumPy files for arrays.

A folder appears under its final name only when it is complete, and its name is a
hash of everything that it was made from.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.types import UserError

# Of a target; a text that two of them have is kept in the later one.
SPLITS = ("train", "validation", "test")
SCORED_SPLITS = SPLITS[1:]  # what final models are scored on


def key_of(*parts: Any) -> str:
  """A short stable hash of anything that JSON can write."""
  text = json.dumps(parts, sort_keys=True, default=list)
  return blake2b(text.encode(), digest_size=12).hexdigest()


def file_digest(path: Path) -> str:
  """A hash of a file's bytes."""
  with path.open("rb") as file:
    return hashlib.file_digest(
      file, lambda: blake2b(digest_size=16)
    ).hexdigest()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
  """The folder, made by `build` in a temporary place if it is not there yet.

  Raises:
    UserError: if the place cannot be written to or is full.
  """
  if folder.is_dir():
    return folder
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
  except OSError as error:
    raise UserError(unwritable(folder, error)) from error
  try:
    build(temporary)
    if not folder.is_dir():  # another process may have been faster
      os.replace(temporary, folder)
  except OSError as error:
    raise UserError(unwritable(folder, error)) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return folder


def write_atomically(path: Path, data: bytes | str) -> None:
  """Writes a file that is either the old one or the whole new one."""
  if isinstance(data, str):
    data = data.encode()
  content = data

  def write(file):
    file.write(content)
    file.flush()
    os.fsync(file.fileno())

  _replace(path, write)


def to_json(value: Any) -> str:
  """Stable, readable JSON: sorted keys, and NaN refused rather than written."""
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


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
  """A .npy file to be filled through memory mapping."""
  return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


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
        writer = pq.ParquetWriter(file, table.schema, compression="zstd")
      writer.write_table(table)
    if writer is not None:
      writer.close()

  _replace(path, write)


def read_table(path: Path, *names: str) -> dict[str, list[str]]:
  """Columns of a Parquet file as lists, in the order of the names."""
  import pyarrow.parquet as pq

  table = pq.read_table(path, columns=list(names))
  return {name: table[name].to_pylist() for name in names}


def remove(folder: Path) -> None:
  """Removes a folder and what is in it, if it is there."""
  shutil.rmtree(folder, ignore_errors=True)


def sizes(folder: Path, *patterns: str) -> dict[str, int]:
  """Bytes of every file of a folder that a pattern names."""
  paths = sorted(p for pattern in patterns for p in folder.glob(pattern))
  return {str(p.relative_to(folder)): p.stat().st_size for p in paths}


def check_sizes(folder: Path, wanted: Mapping[str, int]) -> None:
  """Refuses a folder whose files are not those that were written.

  Raises:
    UserError: naming the first file that is missing or has another size.
  """
  for name, size in wanted.items():
    path = folder / name
    came = path.stat().st_size if path.exists() else None
    if came != size:
      came = "no file" if came is None else f"{came:,}"
      raise UserError(
        f"{path}: wanted {size:,} bytes, came {came}; delete the folder "
        f"{folder}, and it is made again."
      )


def _replace(path: Path, write: Callable[[Any], None]) -> None:
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with temporary.open("wb") as file:
      write(file)
    os.replace(temporary, path)
  finally:
    temporary.unlink(missing_ok=True)


def unwritable(folder: Path, error: OSError) -> str:
  """What to tell of a place that cannot be written to or is full."""
  return (
    f"Cannot write {folder}: {error.strerror or error}. Choose another place "
    "with --config.cache_dir or --workdir, or free some space."
  )
