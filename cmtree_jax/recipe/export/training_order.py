"""Text in training order: that of a schedule stage after stage, or along a path.

A reader that goes through the files in the order of their names sees what the schedule
says when it says it, whatever the order of the corpus is. No more of a corpus is held
than a shard or a file of text: every shard sends its copies of documents to files drawn
at random, and every file puts what it was sent into a random order. Along a path a
document goes to the file of its place; further copies are in further laps of the path.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe.export import files
from cmtree_jax.recipe.export.base import Capped, Corpus, Options, Shard

SENT = ".sent"  # folder of what shards sent, until all files are written


class SentItem(NamedTuple):
  """A shard that sends its copies; see `send`."""

  done: Path
  part: Callable[[], Shard]
  leaf_names: tuple[str, ...]
  count_GN: np.ndarray  # copies of its documents by stage
  # A stage's files are numbered from one of these to the next.
  first_G1: tuple[int, ...]
  seed: int
  number: int  # of the shard
  # Its documents' places on a path, as a share of it; None: in random order.
  place_N: np.ndarray | None = None


class FileItem(NamedTuple):
  """A file of text; see `gather`."""

  done: Path
  sent: tuple[Path, ...]  # by all shards
  number: int


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes zstd-compressed lines of id, text and leaf, a folder for each stage.

  Args:
    capped: with stages.
    folder: of the text.
    options: the seed of the order.
  """
  parts = range(len(capped.corpus.parts))
  count_PGN = [
    np.stack([stage.repeats[part] for stage in capped.stages]) for part in parts
  ]
  return _export(capped.corpus, count_PGN, folder / "stage", options)


def export_path(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """The same along a path, a folder for each lap of it.

  Args:
    capped: of a corpus with places.
    folder: of the text.
    options: its seed is not used, as nothing is random.
  """
  corpus = capped.corpus
  laps = max(int(count_N.max(initial=1)) for count_N in capped.repeats)
  count_PGN = [
    (count_N > np.arange(laps)[:, None]).astype(np.int64)
    for count_N in capped.repeats
  ]
  places = [place() / corpus.num_documents for place in corpus.places]
  return _export(corpus, count_PGN, folder / "lap", options, places)


def _export(
  corpus: Corpus,
  count_PGN: Sequence[np.ndarray],
  stem: Path,
  options: Options,
  places: Sequence[np.ndarray | None] = (),
) -> list[Path]:
  """Writes copies of documents, by part and stage, to folders of the stages."""
  first_G1 = _first_files(count_PGN)
  folder = stem.parent
  sent = [
    SentItem(
      folder / SENT / f"{number:05d}.parquet",
      part,
      corpus.leaf_names,
      count_PGN[number],
      first_G1,
      options.seed,
      number,
      places[number] if places else None,
    )
    for number, part in enumerate(corpus.parts)
  ]
  (folder / SENT).mkdir(parents=True, exist_ok=True)
  corpus.workers.run(send, sent, text="resampling")
  items = [
    FileItem(
      folder / f"{stem.name}-{g:05d}" / f"part-{number - begin:05d}.jsonl.zst",
      tuple(item.done for item in sent),
      number,
    )
    for g, (begin, end) in enumerate(itertools.pairwise(first_G1))
    for number in range(begin, end)
  ]
  for item in items:
    item.done.parent.mkdir(exist_ok=True)
  corpus.workers.run(gather, items, text="putting in training order")
  store.remove(folder / SENT)
  return [item.done for item in items]


def _first_files(count_PGN: Sequence[np.ndarray]) -> tuple[int, ...]:
  """Numbers of the stages' first files, and of all: as many as shards in a training."""
  copies_PG = [count_GN.sum(axis=1) for count_GN in count_PGN]
  copies_G = np.sum(copies_PG, axis=0).tolist()
  num_parts, total = len(count_PGN), max(1, sum(copies_G))
  sizes = [-(-copies * num_parts // total) for copies in copies_G]
  return tuple(itertools.accumulate(sizes, initial=0))


def send(item: SentItem) -> None:
  """Writes the copies of a shard's documents, by the number of their file."""
  import pyarrow as pa

  shard = item.part()
  # Philox: its 128 bits of key take seed and shard without mixing them.
  key = np.array([item.seed, item.number], np.uint64)
  random = np.random.Generator(np.random.Philox(key=key))
  rows, numbers, place_N = [], [], item.place_N
  for g, count_N in enumerate(item.count_GN):
    row_C = np.repeat(np.arange(len(count_N)), count_N)
    begin, end = item.first_G1[g : g + 2]
    rows.append(row_C)
    if place_N is None:
      number_C = random.integers(begin, max(end, begin + 1), len(row_C))
    else:
      number_C = begin + (place_N[row_C] * (end - begin)).astype(np.int64)
    numbers.append(number_C)
  row_C, number_C = np.concatenate(rows), np.concatenate(numbers)
  order_C = np.argsort(number_C, kind="stable")
  row_C, number_C = row_C[order_C], number_C[order_C]
  place_C = random.random(len(row_C)) if place_N is None else place_N[row_C]

  def tables() -> Iterator[pa.Table]:
    for some in np.array_split(
      np.arange(len(row_C)), max(1, len(row_C) // _GROUP)
    ):
      lines = [
        line(shard, row, item.leaf_names) for row in row_C[some].tolist()
      ]
      yield pa.table(
        {
          "file": pa.array(number_C[some], pa.int64()),
          "place": pa.array(place_C[some], pa.float64()),
          "line": pa.array(lines, pa.binary()),
        }
      )

  store.write_row_groups(item.done, tables())


# Copies that are written, and skipped by those that read other files, together.
_GROUP = 256


def gather(item: FileItem) -> None:
  """Writes the lines of one file in the order of what was drawn, or of the path."""
  import pyarrow.parquet as pq

  places, lines = [], []
  for path in item.sent:
    wanted = [("file", "==", item.number)]
    table = pq.read_table(path, columns=["place", "line"], filters=wanted)
    places.append(table["place"].to_numpy())
    lines += table["line"].to_pylist()
  order = np.argsort(np.concatenate(places), kind="stable").tolist()
  files.write_zst(item.done, (lines[i] for i in order))


def line(shard: Shard, row: int, leaf_names: tuple[str, ...]) -> bytes:
  """A document of a shard as a line of JSON."""
  told = {
    "id": shard.id[row],
    "text": shard.text[row],
    "leaf": leaf_names[shard.leaf_N[row]],
  }
  return json.dumps(told, ensure_ascii=False).encode() + b"\n"
