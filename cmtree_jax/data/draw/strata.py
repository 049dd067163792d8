"""Fresh rows of every part of a corpus, drawn without any state.

What a method observes of its domains is keyed by (seed, number of the observation,
document id), so a search resumes anywhere, and the order of documents does not
matter. Every token of a part is observed equally often, whatever the length of the
document that it is in.
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
      if not len(piece):
        drawn.append(_padding(rows, sampler.row_tokens))
        continue
      rng = np.random.default_rng([sampler.seed, number, part])
      order, first_pairs = _stretch(
        rng,
        piece,
        packing.span(sampler.tokens, sampler.pieces, piece)[1],
        rows * sampler.row_tokens,
      )
      drawn.append(
        packing.pack(
          sampler.tokens,
          sampler.pieces,
          order,
          num_rows=rows,
          first_pairs=first_pairs,
        )
      )
    return Batch(*(np.stack(x) for x in zip(*drawn, strict=True)))


def make(
  sampler: Sampler,
  part_N: np.ndarray,
  *,
  num_parts: int,
  inside_N: np.ndarray | None = None,
) -> Strata:
  """The strata of documents.

  Args:
    sampler: whose keys order the pieces.
    part_N: the part of each document.
    num_parts: G.
    inside_N: bool, the documents that may be seen, as of a sub-pool; None: all.
  """
  part = part_N[sampler.pieces.document]
  if inside_N is not None:
    part = np.where(inside_N[sampler.pieces.document], part, -1)
  found = []
  for number in range(num_parts):
    piece = np.flatnonzero(part == number)
    order = np.argsort(sampler.key[piece], kind="stable")[:RESERVOIR]
    found.append(piece[order])
  return Strata(sampler, tuple(found))


def _stretch(
  rng: np.random.Generator,
  piece: np.ndarray,
  length: np.ndarray,
  pairs: int,
) -> tuple[np.ndarray, int | None]:
  """(pieces, pairs of the first of them): a stretch of `pairs` pairs by chance.

  The pieces are laid in a circle in random order, and the stretch begins at any
  pair of it alike. Were it to begin with a piece, short pieces would be seen too
  often in few rows. Of the two pieces that it cuts, the beginnings are taken.
  """
  order = rng.permutation(len(piece))
  end = np.cumsum(length[order])
  if end[-1] <= pairs:
    return piece[order], None
  begin = rng.integers(end[-1])
  first = int(np.searchsorted(end, begin, side="right"))
  first_pairs = int(end[first] - begin)
  order = np.roll(order, -first)
  # Pairs from the beginning of the stretch to the end of each piece.
  filled = np.cumsum(length[order]) - length[order[0]] + first_pairs
  if filled[-1] < pairs:  # it comes round to its first piece, which ends it
    return piece[np.roll(order, -1)], None
  stop = int(np.searchsorted(filled, pairs)) + 1
  return piece[order[:stop]], first_pairs


def _padding(rows: int, row_tokens: int) -> Batch:
  zero = np.zeros((rows, row_tokens), np.int32)
  return Batch(zero, zero, zero - 1, zero - 1)
