"""The training text itself: JSON lines in which documents stand as often as they count.

For trainers that read through their data once. A shard of the corpus becomes a file;
the order within it is shuffled by the seed, the order of files is the reader's to
shuffle. The text of a schedule, and that of a path, is in training order instead
(`training_order`): its files are to be read one after another.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.recipe.export import files, training_order
from cmtree_jax.recipe.export.base import Capped, Options, Shard

FOLDER = "jsonl"


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes zstd-compressed lines of id, text and leaf, resampled to the budget.

  Shards are resampled side by side by the corpus's workers.
  """
  if capped.stages:
    return training_order.export(capped, folder / FOLDER, options)
  if capped.corpus.places:
    return training_order.export_path(capped, folder / FOLDER, options)
  corpus = capped.corpus
  items = [
    PartItem(
      folder / FOLDER / f"part-{number:05d}.jsonl.zst",
      part,
      corpus.leaf_names,
      count_N,
      options.seed,
      number,
    )
    for number, (part, count_N) in enumerate(
      zip(corpus.parts, capped.repeats, strict=True)
    )
    if count_N.any()
  ]
  if items:
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
  corpus.workers.run(resample, items, text="resampling")
  return [item.done for item in items]


class PartItem(NamedTuple):
  """A shard to resample; see `resample`."""

  done: Path
  part: Callable[[], Shard]
  leaf_names: tuple[str, ...]
  count_N: np.ndarray  # copies of its documents
  seed: int
  number: int  # of the shard


def resample(item: PartItem) -> None:
  """Writes the lines of one shard."""
  shard = item.part()
  lines = (
    training_order.line(shard, row, item.leaf_names)
    for row in _order(item.count_N, item.seed, item.number)
  )
  files.write_zst(item.done, lines)


def _order(count_N: np.ndarray, seed: int, number: int) -> list[int]:
  """The rows of a shard with their repeats, shuffled."""
  rows = np.repeat(np.arange(len(count_N)), count_N)
  # Philox: its 128 bits of key take seed and shard without mixing them.
  key = np.array([seed, number], np.uint64)
  random = np.random.Generator(np.random.Philox(key=key))
  return rows[np.argsort(random.random(len(rows)), kind="stable")].tolist()
