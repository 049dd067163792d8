"""Draws pieces of documents under weights that may change between draws.

Every piece owns a fixed sequence of arrival points, one in each unit interval,
keyed by (seed, document id, number of the piece). Training moves a piece forward at
the speed of its document's weight, and it is drawn when it passes a point. So a
piece is drawn once per epoch under natural weights and floor or ceil of any other
expected count; two recipes with one seed see the same documents as far as their
weights allow; and nothing depends on the order of the documents.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from cmtree_jax.batch import Batch
from cmtree_jax.data import packing


class SamplerState(NamedTuple):
  """Everything that the next draw depends on; saved in checkpoints."""

  progress: np.ndarray  # float64 per piece, expected draws so far
  copies: np.ndarray  # int64 per piece, draws so far
  draws: np.ndarray  # int64 scalar, calls of `draw` so far


class Sampler(NamedTuple):
  """Pieces of a token store and the keys of their draws."""

  tokens: packing.TokenStore
  pieces: packing.Pieces
  key: np.ndarray  # uint64 per piece
  seed: int
  row_tokens: int

  def init(self) -> SamplerState:
    """The state before the first draw."""
    size = len(self.key)
    return SamplerState(np.zeros(size), np.zeros(size, np.int64), np.array(0))

  def draw(
    self, state: SamplerState, weight_N: np.ndarray, num_rows: int
  ) -> tuple[SamplerState, Batch]:
    """The next `num_rows` rows under the given weights of documents.

    Args:
      state: where the last draw stopped.
      weight_N: nonnegative weights of the documents, of any scale.
      num_rows: rows wanted.
    Returns:
      (state, Batch [num_rows, T]) without padding.
    Raises:
      ValueError: if no document has a weight above zero, or one is not finite.
    """
    speed = np.asarray(weight_N, np.float64)[self.pieces.document]
    pairs = num_rows * self.row_tokens
    flow = speed @ self.pieces.length
    if not 0 < flow < np.inf:
      raise ValueError(f"All weights are zero or not finite (sum {flow}).")
    order, time = self._arrivals(state, speed, pairs, pairs / flow)
    copies = state.copies + np.bincount(order, minlength=len(self.key))
    batch = packing.pack(
      self.tokens,
      self.pieces,
      order,
      num_rows=num_rows,
      row_tokens=self.row_tokens,
    )
    shuffle = np.random.default_rng([self.seed, int(state.draws)])
    row_order = shuffle.permutation(num_rows)
    state = SamplerState(state.progress + speed * time, copies, state.draws + 1)
    return state, Batch(*(x[row_order] for x in batch))

  def _arrivals(self, state, speed, pairs, expected_time):
    """Pieces in order of arrival until they fill `pairs`, and the time it took."""
    horizon = 1.5 * expected_time
    while True:
      last = np.floor(state.progress + speed * horizon).astype(np.int64)
      count = np.maximum(last + 1 - state.copies, 0)
      piece = np.repeat(np.arange(len(count)), count)
      first = np.repeat(np.cumsum(count) - count, count)
      copy = state.copies[piece] + np.arange(len(piece)) - first
      point = copy + self._uniform(piece, copy)
      with np.errstate(divide="ignore", invalid="ignore"):
        time = (point - state.progress[piece]) / speed[piece]
      # A point passed by rounding is due at once; a piece at rest never arrives.
      time = np.where(speed[piece] > 0, np.maximum(time, 0.0), np.inf)
      due = np.flatnonzero(time <= horizon)
      order = due[np.lexsort((self.key[piece[due]], time[due]))]
      filled = np.cumsum(self.pieces.length[piece[order]])
      if len(filled) and filled[-1] >= pairs:
        stop = int(np.searchsorted(filled, pairs)) + 1
        return piece[order[:stop]], time[order[stop - 1]]
      horizon *= 2

  def _uniform(self, piece: np.ndarray, copy: np.ndarray) -> np.ndarray:
    """Where in its unit interval a copy arrives: a hash of key and copy."""
    bits = _mix(self.key[piece] + np.uint64(_GOLDEN) * copy.astype(np.uint64))
    return (bits >> np.uint64(11)) * 2.0**-53


def make(
  tokens: packing.TokenStore,
  document_ids: Sequence[str],
  *,
  row_tokens: int,
  seed: int,
) -> Sampler:
  """A sampler over the documents of a store, called by `document_ids`."""
  pieces = packing.pieces(tokens, row_tokens)
  key_N = document_keys(document_ids)
  number = pieces.start - tokens.start_N1[pieces.document]
  key = _mix(key_N[pieces.document] ^ _mix(number.astype(np.uint64)))
  key = _mix(key ^ _mix(np.full(1, seed, np.uint64)))
  return Sampler(tokens, pieces, key, seed, row_tokens)


def document_keys(document_ids: Sequence[str]) -> np.ndarray:
  """A stable 64-bit hash of every id."""
  digests = (blake2b(i.encode(), digest_size=8) for i in document_ids)
  return np.array(
    [int.from_bytes(d.digest(), "little") for d in digests], np.uint64
  )


_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's increment


def _mix(x: np.ndarray) -> np.ndarray:
  """splitmix64's finalizer (Steele et al., 2014): a good hash of 64 bits."""
  with np.errstate(over="ignore"):
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
