"""The text of each leaf in files of its own: what mixture files point to.

Every format that mixes leaves shares them; the first to ask writes them. A leaf's
documents stand there once each, so within a leaf they are drawn alike: mixture files
carry the shares of leaves, and the differences between a leaf's documents only the
weights in the lines (and the formats `jsonl` and `parquet`).
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe.export import files
from cmtree_jax.recipe.export.base import Capped, Options, Shard

FOLDER = "leaves"
# Records held in memory before the largest leaf's go to a file.
BUFFER_BYTES = 128 << 20
_INDEX = "index.json"


class Leaf(NamedTuple):
  """A leaf that is exported, and where its documents are."""

  name: str
  path: str  # child numbers from the root
  share: float  # of the training tokens; sums to one over exported leaves
  num_documents: int
  num_tokens: int
  files: tuple[str, ...]  # relative to the export


class Group(NamedTuple):
  """Records of one leaf that go to one file."""

  leaf: str
  number: int  # of the file within the leaf
  records: Sequence[bytes]


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes zstd-compressed JSON lines per leaf: id, text, weight."""
  del options  # the weights are within the budget
  return paths(folder, FOLDER, write(capped, folder))


def write(capped: Capped, folder: Path) -> list[Leaf]:
  """The leaves in files of JSON lines, written unless an export has them."""
  return gather(
    capped,
    folder,
    FOLDER,
    encode=_encode,
    write_group=lambda group: files.write_zst(
      folder / FOLDER / group.leaf / f"part-{group.number:05d}.jsonl.zst",
      group.records,
    ),
  )


def gather(
  capped: Capped,
  folder: Path,
  name: str,
  *,
  encode: Callable[[Shard, int], bytes],
  write_group: Callable[[Group], Path],
) -> list[Leaf]:
  """Sends every document to a file of its leaf, in the order of the corpus.

  Args:
    capped: what to divide.
    folder: the export.
    name: folder in the export that remembers the leaves in an index.
    encode: a document of a shard as a record.
    write_group: writes a file of records.
  Returns:
    The leaves with a share, in the order of the corpus.
  """
  corpus, mixture = capped.corpus, capped.mixture
  index = folder / name / _INDEX
  if index.exists():
    return [
      Leaf(**leaf)._replace(files=tuple(leaf["files"]))
      for leaf in json.loads(index.read_text())
    ]
  size = len(corpus.leaf_names)
  num_documents_L = np.zeros(size, np.int64)
  num_tokens_L = np.zeros(size, np.int64)

  def records():
    for shard in corpus.shards():
      num_documents_L[:] += np.bincount(shard.leaf_N, minlength=size)
      np.add.at(num_tokens_L, shard.leaf_N, shard.num_tokens_N)
      for row, leaf in enumerate(shard.leaf_N.tolist()):
        leaf_name = corpus.leaf_names[leaf]
        if mixture[leaf_name] > 0:
          yield leaf_name, encode(shard, row)

  written: dict[str, list[str]] = {}
  for group in _groups(records()):
    path = write_group(group)
    of_leaf = written.setdefault(group.leaf, [])
    of_leaf.append(path.relative_to(folder).as_posix())
  leaves = [
    Leaf(
      leaf,
      corpus.leaf_paths[i],
      mixture[leaf],
      int(num_documents_L[i]),
      int(num_tokens_L[i]),
      tuple(written[leaf]),
    )
    for i, leaf in enumerate(corpus.leaf_names)
    if mixture[leaf] > 0
  ]
  store.write_atomically(index, store.to_json([x._asdict() for x in leaves]))
  return leaves


def paths(folder: Path, name: str, leaves: Sequence[Leaf]) -> list[Path]:
  """What `gather` wrote."""
  index = folder / name / _INDEX
  return [index, *(folder / file for leaf in leaves for file in leaf.files)]


def document_rates(leaves: Sequence[Leaf]) -> dict[str, float]:
  """Shares of documents that give the leaves their shares of tokens.

  Trainers that draw documents need these; a leaf of long ones is drawn less often.
  """
  rate = {x.name: x.share * x.num_documents / x.num_tokens for x in leaves}
  total = math.fsum(rate.values())
  return {name: value / total for name, value in rate.items()}


def epochs(leaf: Leaf, options: Options) -> float:
  """How often training sees the documents of a leaf, which it draws alike."""
  return options.budget.tokens * leaf.share / leaf.num_tokens


def _groups(records: Iterable[tuple[str, bytes]]) -> Iterator[Group]:
  """Records by leaf; the largest leaf's go whenever more bytes are held."""
  held: dict[str, list[bytes]] = {}
  num_bytes: dict[str, int] = {}
  number: dict[str, int] = {}
  total = 0
  for leaf, record in records:
    held.setdefault(leaf, []).append(record)
    num_bytes[leaf] = num_bytes.get(leaf, 0) + len(record)
    total += len(record)
    if total >= BUFFER_BYTES:
      largest = max(num_bytes, key=num_bytes.__getitem__)
      total -= num_bytes.pop(largest)
      yield Group(largest, number.get(largest, 0), held.pop(largest))
      number[largest] = number.get(largest, 0) + 1
  for leaf in sorted(held):
    yield Group(leaf, number.get(leaf, 0), held[leaf])


def _encode(shard: Shard, row: int) -> bytes:
  line = {
    "id": shard.id[row],
    "text": shard.text[row],
    "weight": float(shard.weight_N[row]),
  }
  return json.dumps(line, ensure_ascii=False).encode() + b"\n"
