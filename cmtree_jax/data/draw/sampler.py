"""Draws pieces of documents under weights that may change between draws.

Every piece owns a fixed sequence of arrival points, one in each unit interval,
keyed by (seed, document id, number of the piece). Training moves a piece forward at
the speed of its document's weight, and it is drawn when it passes a point. So a
piece is drawn once per epoch under natural weights and floor or ceil of any other
expected count; two recipes with one seed see the same documents as far as their
weights allow; and nothing depends on the order of the documents.

Times of arrival are counted from the last change of the weights, so they are the
same numbers however far ahead they are computed. They are computed for a block of
many rows in one pass over all pieces, and a draw costs only its own rows.

Memory: a piece takes 16 bytes here and 12 in a state, its document 8 for its weight
and nothing else that grows with the corpus. With a block, and the states before and
after a change of the weights, it is at most `BYTES_PER_PIECE` at any moment, besides
the rows of a draw. Samplers that differ in the seed, `_replace(seed=...)`, share all.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple, Self

import numpy as np

from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch

BYTES_PER_PIECE = 64  # with documents of one piece; asserted by a test

# Pairs of a block, as a share of the corpus: 16 passes an epoch, and about three
# bytes a piece while it is put in order.
BLOCK_SHARE = 1 / 16


class SamplerState(NamedTuple):
  """Everything that the next draw depends on; saved in checkpoints.

  Its arrays are shared between states and must not be written to.
  """

  progress: np.ndarray  # float64 per piece, expected draws at the last change
  copies: np.ndarray  # int32 per piece, draws so far
  weight_N: np.ndarray  # float64, weights of documents since the last change
  time: np.ndarray  # float64 scalar, gone by since the last change
  draws: np.ndarray  # int64 scalar, calls of `draw` so far


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Cursor:
  """A state in the middle of a block, and the block.

  No NamedTuple, so that JAX and Grain take it for one value.
  """

  base: SamplerState  # where the block begins
  flow: float  # pairs that arrive per unit of time
  horizon: float  # time until which arrivals are in the block
  piece: np.ndarray  # int32, in order of arrival
  time: np.ndarray  # float64, of each arrival
  filled: np.ndarray  # int64, pairs of the arrivals up to each
  taken: int  # arrivals already drawn
  draws: int

  def state(self) -> SamplerState:
    """The state to save; takes a pass over all pieces."""
    copies, time = self.base.copies, self.base.time
    if self.taken:
      copies = copies.copy()
      np.add.at(copies, self.piece[: self.taken], 1)
      time = self.time[self.taken - 1]
    return SamplerState(
      progress=self.base.progress,
      copies=copies,
      weight_N=self.base.weight_N,
      time=np.array(time),
      draws=np.array(self.draws),
    )

  def take(self, pairs: int) -> tuple[Self, np.ndarray, int]:
    """(cursor, next pieces, their pairs), until `pairs` or the block's end."""
    before = int(self.filled[self.taken - 1]) if self.taken else 0
    stop = int(np.searchsorted(self.filled, before + pairs)) + 1
    stop = min(stop, len(self.piece))
    if stop == self.taken:
      return self, self.piece[:0], 0
    pieces = self.piece[self.taken : stop]
    cursor = dataclasses.replace(self, taken=stop)
    return cursor, pieces, int(self.filled[stop - 1]) - before

  def __deepcopy__(self, memo: object) -> Self:
    """Itself, for it never changes; Grain copies the state of every element."""
    del memo
    return self


class Sampler(NamedTuple):
  """Pieces of a token store and the keys of their draws."""

  tokens: packing.TokenStore
  pieces: packing.Pieces
  key: np.ndarray  # uint64 per piece, of document id and number
  seed: int
  block_pairs: int
  # Per piece, the order of those that arrive at one time; None: that of the keys. Read
  # where pieces share their keys, see `bundles`.
  tie: np.ndarray | None = None

  @property
  def row_tokens(self) -> int:
    """T, the (input, label) pairs of a row."""
    return self.pieces.row_tokens

  def init(self) -> SamplerState:
    """The state before the first draw."""
    return SamplerState(
      progress=np.zeros(len(self.key)),
      copies=np.zeros(len(self.key), np.int32),
      weight_N=np.zeros(len(self.tokens.start_N1) - 1),
      time=np.array(0.0),
      draws=np.array(0),
    )

  def start(self, state: SamplerState, weight_N: np.ndarray) -> Cursor:
    """Where draws go on from a state under the given weights of documents.

    Args:
      state: where the last draw stopped.
      weight_N: nonnegative, of any scale; must not be written to afterwards.
        Equal to those of the state, they go on as if nothing had happened.
    Raises:
      ValueError: there is not one weight for each document, all are zero, or
        one is negative or not finite.
    """
    weight_N = np.asarray(weight_N, np.float64)
    if weight_N.shape != state.weight_N.shape:
      raise ValueError(
        f"Wanted a weight for each of {len(state.weight_N):,} documents, came "
        f"{weight_N.shape}."
      )
    flow = self._flow(weight_N)
    if not 0 < flow < np.inf or weight_N.min() < 0:
      raise ValueError(
        "Wanted finite weights of zero or more that are not all zero, came "
        f"{weight_N.min()} to {weight_N.max()}."
      )
    if not np.array_equal(weight_N, state.weight_N):
      state = SamplerState(
        progress=self._moved(state),
        copies=state.copies,
        weight_N=weight_N,
        time=np.array(0.0),
        draws=state.draws,
      )
    return Cursor(
      base=state,
      flow=flow,
      horizon=float(state.time),
      piece=np.zeros(0, np.int32),
      time=np.zeros(0),
      filled=np.zeros(0, np.int64),
      taken=0,
      draws=int(state.draws),
    )

  def draw(
    self, cursor: Cursor, num_rows: int, *, share: tuple[int, int] = (0, 1)
  ) -> tuple[Cursor, Batch]:
    """The next `num_rows` rows, or a process's share of them.

    Args:
      cursor: where the last draw stopped.
      num_rows: rows that are drawn by all processes together.
      share: (index, count): every count-th row from this index on is given.
    Returns:
      (cursor, Batch [num_rows / count, T]) without padding.
    """
    cursor, order = self.arrivals(cursor, num_rows * self.row_tokens)
    shuffle = np.random.default_rng([self.seed, cursor.draws])
    index, count = share
    batch = packing.pack(
      self.tokens,
      self.pieces,
      order,
      num_rows=num_rows,
      rows=shuffle.permutation(num_rows)[index::count],
    )
    return dataclasses.replace(cursor, draws=cursor.draws + 1), batch

  def arrivals(self, cursor: Cursor, pairs: int) -> tuple[Cursor, np.ndarray]:
    """(cursor, the next pieces), as few as have so many pairs."""
    parts: list[np.ndarray] = []
    while True:
      cursor, pieces, taken = cursor.take(pairs)
      parts.append(pieces)
      pairs -= taken
      if pairs <= 0:
        return cursor, np.concatenate(parts)
      cursor = self._next_block(cursor, pairs)

  def looks(self, state: SamplerState) -> tuple[np.ndarray, np.ndarray]:
    """(draws, expected draws) of every document so far.

    A document has been drawn as often as that of its pieces that was drawn most
    often; all of its pieces move at one speed.
    """
    first_N = np.flatnonzero(self.pieces.number == 0)
    count_N = np.maximum.reduceat(state.copies, first_N)
    return count_N, self._moved(state)[first_N]

  def _next_block(self, cursor: Cursor, pairs: int) -> Cursor:
    """The block that begins where this one ends, of about `pairs` or more."""
    base, horizon = cursor.state(), cursor.horizon
    step = max(1.5 * pairs, self.block_pairs) / cursor.flow
    while True:
      horizon += step
      piece, time = self._arrivals(base, horizon)
      if len(piece):
        break
      step *= 2
    return Cursor(
      base=base,
      flow=cursor.flow,
      horizon=horizon,
      piece=piece,
      time=time,
      filled=np.cumsum(packing.span(self.tokens, self.pieces, piece)[1]),
      taken=0,
      draws=cursor.draws,
    )

  def _arrivals(self, state: SamplerState, horizon: float):
    """Pieces not yet drawn that arrive by the horizon, in order, with times."""
    found = [
      self._arrivals_of(part, state, horizon)
      for part in packing.chunks(len(self.key))
    ]
    piece, time = (np.concatenate(x) for x in zip(*found, strict=True))
    del found
    order = np.argsort(time)
    # Equal times are rare; the key breaks them, so that no order of pieces matters.
    if (np.diff(time[order]) == 0).any():
      tie = self.key if self.tie is None else self.tie
      order = np.lexsort((tie[piece], time))
    return piece[order], time[order]

  def _arrivals_of(self, part: slice, state: SamplerState, horizon: float):
    """The arrivals among the pieces of a slice, in the pieces' order."""
    speed = state.weight_N[self.pieces.document[part]]
    progress, copies = state.progress[part], state.copies[part]
    last = np.floor(progress + speed * horizon).astype(np.int64)
    count = np.where(speed > 0, last + 1 - copies, 0)
    # A piece may pass several points by the horizon: one entry for each.
    may = np.flatnonzero(count > 0)
    count = count[may]
    piece = np.repeat(may, count)
    first = np.repeat(np.cumsum(count) - count, count)
    copy = copies[piece] + np.arange(len(piece)) - first
    key = mixed(self.key[part][piece] ^ mixed(np.full(1, self.seed, np.uint64)))
    point = copy + _uniform(key, copy)
    # Rounding may put a point just behind the progress; it is then due at once.
    time = np.maximum((point - progress[piece]) / speed[piece], 0.0)
    due = time <= horizon
    return (piece[due] + part.start).astype(np.int32), time[due]

  def _flow(self, weight_N: np.ndarray) -> float:
    """Pairs that arrive per unit of time."""
    start_N1, flow = self.tokens.start_N1, 0.0
    for part in packing.chunks(len(weight_N)):
      pairs = np.diff(start_N1[part.start : part.stop + 1]) - 1
      flow += float(np.sum(weight_N[part] * pairs))
    return flow

  def _moved(self, state: SamplerState) -> np.ndarray:
    """The progress of all pieces at the state's time."""
    if state.time == 0:
      return state.progress
    progress = np.empty_like(state.progress)
    for part in packing.chunks(len(progress)):
      speed = state.weight_N[self.pieces.document[part]]
      progress[part] = state.progress[part] + speed * state.time
    return progress


def make(
  tokens: packing.TokenStore,
  key_N: np.ndarray,
  *,
  row_tokens: int,
  seed: int,
  block_share: float = BLOCK_SHARE,
) -> Sampler:
  """A sampler over the documents of a store.

  Args:
    tokens: the store.
    key_N: uint64, of `document_keys`; read once.
    row_tokens: T.
    seed: chooses the arrival points.
    block_share: share of the corpus that is put in order at a time; what is drawn
      does not depend on it.
  """
  pieces = packing.pieces(tokens, row_tokens)
  key = np.empty(len(pieces.document), np.uint64)
  for part in packing.chunks(len(key)):
    offset = pieces.number[part].astype(np.uint64) * np.uint64(row_tokens)
    key[part] = mixed(key_N[pieces.document[part]] ^ mixed(offset))
  total_pairs = int(tokens.start_N1[-1]) - len(key_N)
  return Sampler(tokens, pieces, key, seed, int(block_share * total_pairs))


def document_keys(document_ids: Sequence[str]) -> np.ndarray:
  """A stable 64-bit hash of every id."""
  return _hashes(one.encode() for one in document_ids)


def keys_of_tokens(tokens: packing.TokenStore, rows: slice) -> np.ndarray:
  """A stable 64-bit hash of the tokens of each of some documents in a row.

  It is equal for equal texts under one tokenizer, however the store keeps tokens.
  """
  start_P1 = tokens.start_N1[rows.start : rows.stop + 1].tolist()
  return _hashes(
    np.asarray(tokens.flat[start:stop], "<u4").tobytes()
    for start, stop in itertools.pairwise(start_P1)
  )


def _hashes(documents: Iterable[bytes]) -> np.ndarray:
  digests = (blake2b(one, digest_size=8) for one in documents)
  return np.array(
    [int.from_bytes(one.digest(), "little") for one in digests], np.uint64
  )


def some(key_N: np.ndarray, size: int, *seed: int) -> np.ndarray:
  """Numbers of some documents in a row, the same ones in whatever order they come.

  Args:
    key_N: uint64, of `document_keys`.
    size: how many; all where there are no more.
    seed: numbers of 0 or more; others choose others.

  >>> key_N = document_keys([f"text {i}" for i in range(1000)])
  >>> a, b = some(key_N, 100, 0), some(key_N[::-1], 100, 0)
  >>> len(a), set(key_N[a]) == set(key_N[::-1][b]), set(a) == set(some(key_N, 100, 1))
  (100, True, False)
  """
  if size >= len(key_N):
    return np.arange(len(key_N))
  rank_N = key_N
  for one in seed:
    rank_N = mixed(rank_N ^ mixed(np.array(one, np.uint64)))
  return np.sort(np.argpartition(rank_N, size)[:size])


def keys_of_seed(key_N: np.ndarray, seed: int) -> np.ndarray:
  """Keys that put the same documents in another order for every seed.

  >>> key_N = document_keys(["a", "b", "c"])
  >>> one_N = keys_of_seed(key_N, 1)
  >>> bool((keys_of_seed(key_N, 0) == key_N).all()), bool((one_N == key_N).any())
  (True, False)
  """
  return key_N ^ np.uint64(seed * _GOLDEN % 2**64)


def unit_keys(key_N: np.ndarray) -> np.ndarray:
  """A number in [0, 1) for every key, float32: as good as random."""
  return (mixed(key_N) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _uniform(key: np.ndarray, copy: np.ndarray) -> np.ndarray:
  """Where in its unit interval a copy arrives: a hash of key and copy."""
  bits = mixed(key + np.uint64(_GOLDEN) * copy.astype(np.uint64))
  return (bits >> np.uint64(11)) * 2.0**-53


_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, splitmix64's increment


def mixed(x: np.ndarray) -> np.ndarray:
  """splitmix64's finalizer (Steele et al., 2014): a good hash of 64 bits."""
  with np.errstate(over="ignore"):
    x = x + np.uint64(_GOLDEN)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
