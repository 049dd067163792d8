"""Documents on disk: Parquet shards that any tool reads, and what is known of rows.

A shard holds some thousand documents, so that one fits in memory and many make
work for all cores. Their order is the corpus's order. Beside each lies a small
array of digests, from which repeated ids and texts are found without the texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.types import Record

MAX_BYTES = 32_000_000  # of text in a shard, unless it holds a single document

# Columns of a shard's array of digests, uint64 [documents, 5].
ID, TEXT, NUM_BYTES = (0, 1), (2, 3), 4


def digest(text: str) -> bytes:
  """Sixteen bytes that name a text."""
  return blake2b(text.encode(), digest_size=16).digest()


def write(
  path: Path,
  records: Sequence[Record],
  hidden: Mapping[str, Sequence[str]] | None = None,
) -> None:
  """Writes a shard, and before it the digests, to `digests_path(path)`.

  Args:
    path: of the shard.
    records: its documents.
    hidden: more labels of each, in columns of their own.
  """
  rows = [
    digest(one.id)
    + digest(one.text)
    + len(one.text.encode()).to_bytes(8, "little")
    for one in records
  ]
  digests = np.frombuffer(b"".join(rows), "<u8").reshape(len(rows), 5)
  store.save_array(digests_path(path), digests)
  labels = hidden or {}
  names = (*Record._fields, *labels)
  columns = (*zip(*records, strict=True), *labels.values())
  store.write_table(path, names, zip(*columns, strict=True))


class Writer:
  """Cuts a stream of documents into shards."""

  def __init__(self, stem: Path, max_documents: int):
    self._stem, self._max_documents = stem, max_documents
    self._records: list[Record] = []
    self._hidden: dict[str, list[str]] = {}
    self._bytes = 0
    self.shards: list[tuple[str, int]] = []

  def add(self, record: Record, **hidden: str) -> None:
    """Takes one document, and hidden labels that all documents here have."""
    size = len(record.text.encode())
    if self._records and self._bytes + size > MAX_BYTES:
      self.flush()
    self._records.append(record)
    for name, label in hidden.items():
      self._hidden.setdefault(name, []).append(label)
    self._bytes += size
    if len(self._records) == self._max_documents:
      self.flush()

  def flush(self) -> None:
    """Writes what has been added since the last shard."""
    if self._records:
      name = f"{self._stem.name}-{len(self.shards):05d}.parquet"
      write(self._stem.with_name(name), self._records, self._hidden)
      self.shards.append((name, len(self._records)))
      self._records, self._hidden, self._bytes = [], {}, 0


def digests_path(path: Path) -> Path:
  """Where a shard's digests lie."""
  return path.with_suffix(".digests.npy")


class Documents(NamedTuple):
  """The documents of a prepared corpus; texts stay on disk."""

  paths: tuple[Path, ...]  # shards
  # int64: the number of the first document of each shard, and the end.
  start_S1: np.ndarray

  def __len__(self) -> int:
    return int(self.start_S1[-1])

  def column(self, name: str) -> Iterator[list[str]]:
    """One column, as a list for each shard."""
    for path in self.paths:
      yield store.read_table(path, name)[name]

  def labels(self, name: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """A column of labels: (the number of each document's label, int32 [N]; all).

    Labels are numbered by the alphabet, so the order of documents does not matter.
    """
    numbers: dict[str, int] = {}
    parts = [
      np.array([numbers.setdefault(v, len(numbers)) for v in one], np.int32)
      for one in self.column(name)
    ]
    names = sorted(numbers)
    rank = np.empty(len(names), np.int32)
    rank[[numbers[one] for one in names]] = np.arange(len(names))
    return rank[np.concatenate(parts)], tuple(names)

  def rows(self, numbers: np.ndarray, *names: str) -> dict[str, list[str]]:
    """Columns of some documents, in their given order."""
    numbers = np.asarray(numbers, np.int64)
    found: dict[str, list[str]] = {name: [""] * len(numbers) for name in names}
    shard_of = np.searchsorted(self.start_S1, numbers, side="right") - 1
    for shard in np.unique(shard_of):
      columns = store.read_table(self.paths[shard], *names)
      for place in np.flatnonzero(shard_of == shard):
        row = int(numbers[place] - self.start_S1[shard])
        for name in names:
          found[name][place] = columns[name][row]
    return found


def keep(source: Path, path: Path, rows: np.ndarray) -> dict[str, list[str]]:
  """Writes the given rows of a shard as another shard; returns id and text."""
  columns = store.read_table(source)
  kept = {
    name: [column[row] for row in rows.tolist()]
    for name, column in columns.items()
  }
  store.write_table(path, kept, zip(*kept.values(), strict=True))
  return {name: kept[name] for name in ("id", "text")}


def texts(paths: Sequence[Path], rows: Sequence[tuple[int, int]]) -> list[str]:
  """Texts of (shard, row) in their order; each shard is read once, by itself."""
  found = [""] * len(rows)
  wanted: dict[int, list[tuple[int, int]]] = {}
  for place, (shard, row) in enumerate(rows):
    wanted.setdefault(shard, []).append((place, row))
  for shard, places in wanted.items():
    column = store.read_table(paths[shard], "text")["text"]
    for place, row in places:
      found[place] = column[row]
  return found


class BucketItem(NamedTuple):
  """Repeated digests of one range of values; see `find_repeated`."""

  done: Path  # uint64 [found, 4]: shard, row, shard and row of the first
  digests: tuple[Path, ...]  # one file for each shard
  columns: tuple[int, int]  # ID or TEXT
  bucket: int
  num_buckets: int


def find_repeated(item: BucketItem) -> None:
  """Finds the documents whose id or text came before, among those of a bucket.

  Equal digests fall into one bucket, so that buckets need not see each other.
  """
  found = [np.zeros((0, 4), np.uint64)]
  for shard, path in enumerate(item.digests):
    digests = np.load(path, mmap_mode="r")
    high, low = (np.asarray(digests[:, c]) for c in item.columns)
    row = np.flatnonzero(high % np.uint64(item.num_buckets) == item.bucket)
    place = np.full(len(row), shard)
    found.append(
      np.stack([high[row], low[row], place, row], axis=1).astype(np.uint64)
    )
  table = np.concatenate(found)
  # Shard and row ascend already, and lexsort is stable.
  table = table[np.lexsort((table[:, 1], table[:, 0]))]
  is_first = np.ones(len(table), bool)
  is_first[1:] = np.any(table[1:, :2] != table[:-1, :2], axis=1)
  first = np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
  repeated = np.flatnonzero(~is_first)
  pairs = np.concatenate([table[repeated, 2:], table[first[repeated], 2:]], 1)
  store.save_array(item.done, pairs)


def num_buckets(num_documents: int) -> int:
  """How many buckets a corpus needs for the table of each to stay small."""
  return min(256, 1 + num_documents // 1_000_000)


def smallest(
  digests: Sequence[Path],
  dropped: Sequence[np.ndarray],
  *,
  max_bytes: int,
  max_documents: int | None = None,
) -> list[tuple[int, int]]:
  """Documents (shard, row) with the smallest text digests, in that order.

  A sample that depends neither on order nor on shards. It ends with the document
  that reaches `max_bytes` of text.

  Args:
    digests: one file for each shard.
    dropped: rows of each shard that are no documents of the corpus.
    max_bytes: of text.
    max_documents: None: as many as there are.
  """
  tables = [np.load(path, mmap_mode="r") for path in digests]
  total = sum(int(table[:, NUM_BYTES].sum()) for table in tables)
  # Digests are as good as random, so a share of their range holds about that share
  # of the text; only so many are sorted. Twice what is needed, or else again twice.
  share = 2.0 * max_bytes / max(total, 1)
  while True:
    rows = _below(tables, dropped, share)
    before = np.cumsum(rows[:, 2]) - rows[:, 2]
    if share >= 1 or int(rows[:, 2].sum()) >= max_bytes:
      rows = rows[before < max_bytes][:max_documents]
      return [(int(shard), int(row)) for shard, row in rows[:, 3:]]
    share *= 2


def _below(
  tables: Sequence[np.ndarray], dropped: Sequence[np.ndarray], share: float
) -> np.ndarray:
  """(text digest, bytes, shard, row) of the smallest digests, ascending."""
  limit = np.uint64(min(share, 1 - 2**-52) * 2.0**64)
  found = []
  for shard, (table, gone) in enumerate(zip(tables, dropped, strict=True)):
    is_small = (table[:, TEXT[0]] <= limit) | (share >= 1)
    is_small[gone] = False
    row = np.flatnonzero(is_small)
    place = np.full(len(row), shard, np.uint64)
    found.append(np.column_stack([table[row][:, 2:], place, row.astype("u8")]))
  rows = np.concatenate(found)
  return rows[np.lexsort((rows[:, 4], rows[:, 3], rows[:, 1], rows[:, 0]))]
