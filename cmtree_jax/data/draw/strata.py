"""Fresh rows of every part of a corpus, drawn without any state.

What a method observes of its domains is keyed by (seed, number of the observation,
document id), so a search resumes anywhere, and the order of documents does not
matter.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.sampler import Sampler

RESERVOIR = 4096  # pieces of a part that are drawn from; bounds memory and time


class Strata(NamedTuple):
  """The parts of a corpus; a part may be empty."""

  sampler: Sampler  # its tokens, pieces and seed
  # Pieces of each part, in the order of their keys, which is as good as random.
  piece_G: tuple[np.ndarray, ...]

  def rows(self, number: int, rows: int) -> Batch:
    """Rows of every part, [G, rows, T]; padding where a part has too little.

    Args:
      number: counts observations; equal numbers give equal rows.
      rows: how many rows each part gives.
    """
    sampler = self.sampler
    drawn = []
    for part, piece in enumerate(self.piece_G):
      rng = np.random.default_rng([sampler.seed, number, part])
      # Short pieces share a row: four of them for each should do.
      order = rng.permutation(piece)[: 4 * rows]
      drawn.append(
        packing.pack(sampler.tokens, sampler.pieces, order, num_rows=rows)
        if len(order)
        else _padding(rows, sampler.row_tokens)
      )
    return Batch(*(np.stack(x) for x in zip(*drawn, strict=True)))


def make(sampler: Sampler, part_N: np.ndarray, *, num_parts: int) -> Strata:
  """The strata of documents.

  Args:
    sampler: whose keys order the pieces.
    part_N: the part of each document.
    num_parts: G.
  """
  part = part_N[sampler.pieces.document]
  found = []
  for number in range(num_parts):
    piece = np.flatnonzero(part == number)
    order = np.argsort(sampler.key[piece], kind="stable")[:RESERVOIR]
    found.append(piece[order])
  return Strata(sampler, tuple(found))


def _padding(rows: int, row_tokens: int) -> Batch:
  zero = np.zeros((rows, row_tokens), np.int32)
  return Batch(zero, zero, zero - 1, zero - 1)
