"""The training text itself: JSON lines in which documents stand as often as they count.

For trainers that read through their data once. A shard of the corpus becomes a file;
the order within it is shuffled by the seed, the order of files is the reader's to
shuffle.
"""

import json
from pathlib import Path

import numpy as np

from cmtree_jax.export import counts, files
from cmtree_jax.export.base import Corpus, Options

FOLDER = "jsonl"


def export(corpus: Corpus, folder: Path, options: Options) -> list[Path]:
  """Writes zstd-compressed lines of id, text and leaf, resampled to the budget."""
  written = []
  for number, (shard, count_N) in enumerate(counts.counted(corpus, options)):
    order = _order(count_N, options.seed, number)
    lines = (
      json.dumps(
        {
          "id": shard.id[row],
          "text": shard.text[row],
          "leaf": corpus.leaf_names[shard.leaf_N[row]],
        },
        ensure_ascii=False,
      ).encode()
      + b"\n"
      for row in order
    )
    if len(order):
      path = folder / FOLDER / f"part-{number:05d}.jsonl.zst"
      written.append(files.write_zst(path, lines))
  return written


def _order(count_N: np.ndarray, seed: int, number: int) -> list[int]:
  """The rows of a shard with their repeats, shuffled."""
  rows = np.repeat(np.arange(len(count_N)), count_N)
  # Philox: its 128 bits of key take seed and shard without mixing them.
  key = np.array([seed, number], np.uint64)
  random = np.random.Generator(np.random.Philox(key=key))
  return rows[np.argsort(random.random(len(rows)), kind="stable")].tolist()
