"""The text of a schedule in training order: stage after stage, shuffled within each.

A reader that goes through the files in the order of their names sees what the schedule
says when it says it, whatever the order of the corpus is. No more of a corpus is held
than a shard or a file of text: every shard sends its copies of documents to files drawn
at random, and every file puts what it was sent into a random order.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe.export import files
from cmtree_jax.recipe.export.base import Capped, Options, Shard

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
  corpus, stages = capped.corpus, capped.stages
  first_G1 = _first_files(capped)
  sent = [
    SentItem(
      folder / SENT / f"{number:05d}.parquet",
      part,
      corpus.leaf_names,
      np.stack([stage.repeats[number] for stage in stages]),
      first_G1,
      options.seed,
      number,
    )
    for number, part in enumerate(corpus.parts)
  ]
  (folder / SENT).mkdir(parents=True, exist_ok=True)
  corpus.workers.run(send, sent, text="resampling")
  items = [
    FileItem(
      folder / f"stage-{g:05d}" / f"part-{number - begin:05d}.jsonl.zst",
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


def _first_files(capped: Capped) -> tuple[int, ...]:
  """Numbers of the stages' first files, and of all: as many as shards in a training."""
  copies_G = [
    sum(int(count_N.sum()) for count_N in stage.repeats)
    for stage in capped.stages
  ]
  num_parts, total = len(capped.corpus.parts), max(1, sum(copies_G))
  sizes = [-(-copies * num_parts // total) for copies in copies_G]
  return tuple(itertools.accumulate(sizes, initial=0))


def send(item: SentItem) -> None:
  """Writes the copies of a shard's documents, by the number of their file."""
  import pyarrow as pa

  shard = item.part()
  # Philox: its 128 bits of key take seed and shard without mixing them.
  key = np.array([item.seed, item.number], np.uint64)
  random = np.random.Generator(np.random.Philox(key=key))
  rows, numbers = [], []
  for g, count_N in enumerate(item.count_GN):
    row_C = np.repeat(np.arange(len(count_N)), count_N)
    begin, end = item.first_G1[g : g + 2]
    rows.append(row_C)
    numbers.append(random.integers(begin, max(end, begin + 1), len(row_C)))
  row_C, number_C = np.concatenate(rows), np.concatenate(numbers)
  order_C = np.argsort(number_C, kind="stable")
  row_C, number_C = row_C[order_C], number_C[order_C]
  place_C = random.random(len(row_C))

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
  """Writes the lines of one file in a random order."""
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
