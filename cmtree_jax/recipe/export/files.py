"""Files that appear under their names only when they are whole."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cmtree_jax.data import store


def write_zst(path: Path, chunks: Iterable[bytes]) -> Path:
  """Writes chunks as one zstd frame: several readers stop after the first."""
  import zstandard

  compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
  path.parent.mkdir(parents=True, exist_ok=True)
  with (
    store.replacing(path) as temporary,
    temporary.open("wb") as file,
    compressor.stream_writer(file) as writer,
  ):
    for chunk in chunks:
      writer.write(chunk)
  return path


def write_chunks(path: Path, chunks: Iterable[bytes]) -> Path:
  """Writes chunks as they are."""
  with store.replacing(path) as temporary, temporary.open("wb") as file:
    file.writelines(chunks)
  return path


def write_text(path: Path, text: str) -> Path:
  """Writes a text file."""
  store.write_atomically(path, text)
  return path


def write_yaml(path: Path, value: Any, *, comment: str) -> Path:
  """Writes YAML under a comment; strings that look like numbers are quoted."""
  import yaml

  head = "".join(f"# {line}\n" for line in comment.splitlines())
  body = yaml.safe_dump(value, allow_unicode=True, sort_keys=False, width=2**31)
  return write_text(path, head + body)
