"""Documents of any source, one after the other: `kind:address` to records.

A corpus is a list of addresses; each falls into parts that workers read on their
own. A part never holds more than one document in memory (Parquet: a few rows of
one row group), and what is wrong inside one comes out as a `Skip`.
"""

import pathlib
import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cmtree_jax.data.read import (
  files,
  hugging_face,
  jsonl,
  parquet,
  seqio_reader,
  text_folder,
  tfds_reader,
)
from cmtree_jax.data.read.fields import Found, Part, Rules
from cmtree_jax.types import UserError

__all__ = ["READERS", "Part", "Rules", "digest", "parts", "read", "stamp"]


class Reader(NamedTuple):
  """What a kind of source must answer; the modules import late what is large."""

  parts: Callable[[str], list[Part]]
  read: Callable[[Part, Rules], Iterator[Found]]
  digest: Callable[[Part], str]


READERS = {
  "hf": Reader(hugging_face.parts, hugging_face.read, hugging_face.digest),
  "jsonl": Reader(jsonl.parts, jsonl.read, files.digest),
  "parquet": Reader(parquet.parts, parquet.read, files.digest),
  "seqio": Reader(seqio_reader.parts, seqio_reader.read, seqio_reader.digest),
  "text": Reader(text_folder.parts, text_folder.read, text_folder.digest),
  "tfds": Reader(tfds_reader.parts, tfds_reader.read, tfds_reader.digest),
}


def parts(addresses: Sequence[str]) -> list[Part]:
  """All parts, sorted by path, each once however many addresses it matches.

  Args:
    addresses: such as "jsonl:folder/*.jsonl.gz" or "tfds:name:train".
  Raises:
    UserError: an unknown kind, or an address that leads to nothing.
  """
  found: dict[tuple[str, str], Part] = {}
  for address in addresses:
    kind, _, rest = address.partition(":")
    if kind not in READERS or not rest:
      raise UserError(
        f"Unknown source {address!r}; give kind:address. Known kinds: "
        f"{', '.join(sorted(READERS))}."
      )
    for part in READERS[kind].parts(rest):
      found.setdefault((part.path, kind), part)
  return _with_unique_names([found[key] for key in sorted(found)])


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a part in its order, and what is wrong with the others.

  Bad data never raises: a file that is damaged yields what comes before the
  damage, then a `Skip`.
  """
  return READERS[part.kind].read(part, rules)


def stamp(part: Part) -> str:
  """What changes when a part does, without reading it where that can be helped.

  Size and time of change of a local file or of all files in a folder, and whether it
  can be read: one that cannot is cured without a change. Else the digest.
  """
  path = pathlib.Path(part.path)
  if not path.exists():
    return digest(part)
  files_of = sorted(p for p in path.rglob("*") if p.is_file())
  return " ".join(
    f"{one.stat().st_size}:{one.stat().st_mtime_ns}{files.trouble(str(one))}"
    for one in files_of or [path]
  )


def digest(part: Part) -> str:
  """A hash of the bytes behind a part, as 32 hexadecimal digits."""
  return READERS[part.kind].digest(part)


def _with_unique_names(found: list[Part]) -> list[Part]:
  """Lengthens names that come twice by the folders that they lie in."""
  names = [part.name for part in found]
  depth = 2
  while len(set(names)) < len(names):
    twice = {name for name, count in Counter(names).items() if count > 1}
    names = [
      _longer(part, depth) if name in twice else name
      for part, name in zip(found, names, strict=True)
    ]
    depth += 1
  return [
    Part(part.kind, part.path, name)
    for part, name in zip(found, names, strict=True)
  ]


def _longer(part: Part, depth: int) -> str:
  """The last `depth` steps of a path; kind and path tell any two apart."""
  steps = part.path.split("/")
  if depth > len(steps):
    return f"{part.kind}:{part.path}"
  return posixpath.join(*steps[-depth:])
