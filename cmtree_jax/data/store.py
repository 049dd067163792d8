"""What preparation leaves on disk: Parquet for text, NumPy files for arrays.

A folder appears under its final name only when it is complete, and its name is a
hash of everything that it was made from.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.data.packing import TokenStore
from cmtree_jax.types import Document, Label, RawCorpus, Target, UserError

SPLITS = ("train", "validation", "test")


def key_of(*parts: Any) -> str:
  """A short stable hash of anything that JSON can write."""
  text = json.dumps(parts, sort_keys=True, default=list)
  return blake2b(text.encode(), digest_size=12).hexdigest()


def corpus_digest(corpus: RawCorpus) -> str:
  """A hash of every id and text of the pool and the targets."""
  digest = blake2b(digest_size=16)
  for document in corpus.documents:
    digest.update(f"{document.id}\0{document.text}\0".encode())
  for name, target in sorted(corpus.targets.items()):
    for split in SPLITS:
      digest.update(f"{name}\0{split}\0".encode())
      for text in getattr(target, split):
        digest.update(f"{text}\0".encode())
  return digest.hexdigest()


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
    raise UserError(_unwritable(folder, error)) from error
  try:
    build(temporary)
    if not folder.is_dir():  # another process may have been faster
      os.replace(temporary, folder)
  except OSError as error:
    raise UserError(_unwritable(folder, error)) from error
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return folder


def write_atomically(path: Path, data: bytes | str) -> None:
  """Writes a file that is either the old one or the whole new one."""
  if isinstance(data, str):
    data = data.encode()
  temporary = path.with_name(f".{path.name}.{os.getpid()}")
  with temporary.open("wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)


def to_json(value: Any) -> str:
  """Stable, readable JSON: sorted keys, and NaN refused rather than written."""
  return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_corpus(folder: Path, corpus: RawCorpus) -> None:
  """Saves a corpus as Parquet; hidden labels go to a file of their own."""
  _write_table(folder / "documents.parquet", Document._fields, corpus.documents)
  if corpus.labels is not None:
    _write_table(folder / "labels.parquet", Label._fields, corpus.labels)
  rows = [
    (name, split, text)
    for name, target in corpus.targets.items()
    for split in SPLITS
    for text in getattr(target, split)
  ]
  _write_table(folder / "targets.parquet", ("target", "split", "text"), rows)
  (folder / "notes.json").write_text(json.dumps(corpus.notes))


def read_corpus(folder: Path) -> RawCorpus:
  """The corpus that `write_corpus` saved."""
  documents = tuple(
    Document(*row) for row in _read_rows(folder / "documents.parquet")
  )
  labels_path = folder / "labels.parquet"
  labels = None
  if labels_path.exists():
    labels = tuple(Label(*row) for row in _read_rows(labels_path))
  texts: dict[str, dict[str, list[str]]] = {}
  for name, split, text in _read_rows(folder / "targets.parquet"):
    texts.setdefault(name, {s: [] for s in SPLITS})[split].append(text)
  targets = {
    name: Target(name, *(tuple(splits[s]) for s in SPLITS))
    for name, splits in texts.items()
  }
  notes = tuple(json.loads((folder / "notes.json").read_text()))
  return RawCorpus(documents, targets, labels, notes)


def write_tokens(folder: Path, name: str, tokens: TokenStore) -> None:
  """Saves a token store as three .npy files."""
  for field in TokenStore._fields:
    np.save(folder / f"{name}.{field}.npy", getattr(tokens, field))


def read_tokens(folder: Path, name: str) -> TokenStore:
  """Reads a token store; the tokens themselves stay on disk (memory-mapped)."""
  return TokenStore(
    flat=np.load(folder / f"{name}.flat.npy", mmap_mode="r"),
    start_N1=np.load(folder / f"{name}.start_N1.npy"),
    bytes_N=np.load(folder / f"{name}.bytes_N.npy"),
  )


def _write_table(path: Path, names: Iterable[str], rows: Iterable[tuple]):
  import pyarrow as pa
  import pyarrow.parquet as pq

  names = tuple(names)
  columns = list(zip(*rows, strict=True)) or [()] * len(names)
  arrays = [pa.array(column, pa.string()) for column in columns]
  pq.write_table(pa.table(dict(zip(names, arrays, strict=True))), path)


def _read_rows(path: Path) -> Iterable[tuple]:
  import pyarrow.parquet as pq

  table = pq.read_table(path)
  return zip(*(column.to_pylist() for column in table.columns), strict=True)


def _unwritable(folder: Path, error: OSError) -> str:
  return (
    f"Cannot write {folder}: {error.strerror or error}. Choose another place "
    "with --config.cache_dir or --workdir, or free some space."
  )
