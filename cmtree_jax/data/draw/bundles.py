r"""Rows that are packed along a path of documents, with attention across them.

What is drawn is a bundle: documents that follow one another on the path and fill a few
rows. They share the places where they arrive, so that a short training sees bundles
and not every tenth document of the path; for each document alone these places are as
random as they are in `sampler`, so that it is drawn as often as its weight says, to
the next whole number. As a window ends after so many rows and not at a time, there is
a bias, as in `sampler`; it is below the share that one bundle has of the window.

A window is a pass of the training over what it sees. What arrives in it is laid end to
end in the order of the path and cut into rows, which are read in random order. So at
the end of each window the looks at documents are those of plain draws, and within one
a document is seen early or late by chance; more than `Course.most` looks are never
given. A document that comes several times in a window stands in as many laps of the
path, so that no row has a text twice if a lap is longer than that.
"""

import dataclasses
import math
from typing import NamedTuple, Self

import numpy as np

from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.sampler import Cursor, Sampler, SamplerState
from cmtree_jax.data.draw.subpool import Subpool

# Rows that a bundle fills. Where two bundles meet that are not neighbors a row is cut
# between them: of four rows one, while a short training has many bundles yet.
ROWS = 4


class Course(NamedTuple):
  """How long a training is, and how often it may see a document."""

  rows: int
  passes: int  # over what it sees; a window for each
  most: int  # looks at a document

  def window(self, number: int) -> int:
    """Rows of a window; those after the end are as long as the others."""
    rows = -(-self.rows // self.passes)
    left = self.rows - number * rows
    return min(rows, left) if left > 0 else rows


class BundleState(NamedTuple):
  """Everything that the next draw depends on; saved in checkpoints."""

  window: SamplerState  # where the window begins
  taken: np.ndarray  # int64 scalar, rows of it that were drawn


class _Window(NamedTuple):
  """The rows of a window."""

  piece: np.ndarray  # int32, in the order in which they are laid
  end: np.ndarray  # int64, pairs up to the end of each
  row: np.ndarray  # int64, rows in the order in which they are read
  after: Cursor  # where the next window begins


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class BundleCursor:
  """A place in a window. No NamedTuple, as `sampler.Cursor` is none."""

  base: Cursor  # where the window begins
  window: _Window | None  # made when it is first read
  taken: int  # rows already drawn

  def state(self) -> BundleState:
    """The state to save."""
    return BundleState(self.base.state(), np.array(self.taken))

  def __deepcopy__(self, memo: object) -> Self:
    """Itself, for it never changes; Grain copies the state of every element."""
    del memo
    return self


class Bundles(NamedTuple):
  """A sampler whose rows are packed along a path; see `make`."""

  sampler: Sampler  # pieces of a bundle share their keys; `tie` is the path
  course: Course
  shuffled: bool  # the same documents as often, in random order

  def init(self) -> BundleState:
    """The state before the first draw."""
    return BundleState(self.sampler.init(), np.array(0))

  def start(self, state: BundleState, weight_N: np.ndarray) -> BundleCursor:
    """Where draws go on under the weights of documents; see `Sampler.start`.

    Raises:
      ValueError: as there, or the weights are others than those of a window that has
        been begun.
    """
    taken = int(state.taken)
    if taken and not np.array_equal(weight_N, state.window.weight_N):
      raise ValueError(
        "Wanted the weights of the window that has been begun: rows along a path "
        "change their weights between windows alone."
      )
    base = self.sampler.start(state.window, weight_N)
    return BundleCursor(base, None, taken)

  def draw(
    self,
    cursor: BundleCursor,
    num_rows: int,
    *,
    share: tuple[int, int] = (0, 1),
  ) -> tuple[BundleCursor, Batch]:
    """The next `num_rows` rows, or a process's share of them; see `Sampler.draw`."""
    index, count = share
    parts, at = [], 0
    while at < num_rows:
      window = cursor.window or self._window(cursor.base)
      taken = min(num_rows - at, len(window.row) - cursor.taken)
      row = window.row[cursor.taken : cursor.taken + taken]
      parts.append(self._read(window, row[(index - at) % count :: count]))
      at += taken
      cursor = BundleCursor(cursor.base, window, cursor.taken + taken)
      if cursor.taken == len(window.row):
        cursor = BundleCursor(window.after, None, 0)
    return cursor, Batch(*map(np.concatenate, zip(*parts, strict=True)))

  def _read(self, window: _Window, row: np.ndarray) -> Batch:
    return packing.lay(
      self.sampler.tokens,
      self.sampler.pieces,
      window.piece,
      window.end,
      rows=row,
    )

  def _window(self, base: Cursor) -> _Window:
    """The rows that begin where a cursor stands."""
    number = int(base.draws)
    rows = self.course.window(number)
    after, piece, lap = self._arrived(base, rows * self.sampler.row_tokens)
    _, length = packing.span(self.sampler.tokens, self.sampler.pieces, piece)
    # The last to arrive is cut where the window is full, however it is laid.
    length[-1] -= length.sum() - rows * self.sampler.row_tokens
    order = np.lexsort((*self._places(piece, lap, number), lap))
    shuffle = np.random.default_rng([self.sampler.seed, number])
    return _Window(
      piece[order],
      np.cumsum(length[order]),
      shuffle.permutation(rows),
      dataclasses.replace(after, draws=number + 1),
    )

  def _places(self, piece: np.ndarray, lap: np.ndarray, number: int):
    """By what the pieces of a lap are sorted, as `np.lexsort` takes it."""
    tie = self.sampler.tie
    assert tie is not None
    if not self.shuffled:
      return (tie[piece],)
    # A document's pieces stay together, in their order.
    piece_number = self.sampler.pieces.number[piece]
    document = (tie[piece] - piece_number).astype(np.uint64)
    salt = np.array([self.sampler.seed, number], np.uint64)
    for salted in (*salt, lap.astype(np.uint64)):
      document = sampler.mixed(document ^ sampler.mixed(np.atleast_1d(salted)))
    return piece_number, document

  def _arrived(self, cursor: Cursor, pairs: int):
    """(cursor, pieces, lap of each) of a window, in the order of their arrival.

    What would be seen too often is passed over, as long as there are others.
    """
    first_copy = cursor.state().copies
    copies, parts, passed = first_copy.copy(), [], 0
    missing = pairs
    while missing > 0:
      cursor, piece = self.sampler.arrivals(cursor, missing)
      copy = copies[piece] + _occurrence(piece)
      np.add.at(copies, piece, 1)
      _, length = packing.span(self.sampler.tokens, self.sampler.pieces, piece)
      may = (copy < self.course.most) | (passed >= pairs)
      passed += int(length[~may].sum())
      missing -= int(length[may].sum())
      parts.append((piece[may], copy[may] - first_copy[piece[may]]))
    piece, lap = (np.concatenate(x) for x in zip(*parts, strict=True))
    return cursor, piece, lap


def make(
  plain: Sampler,
  place_N: np.ndarray,
  unit_N: np.ndarray,
  course: Course,
  *,
  shuffled: bool = False,
) -> Bundles:
  """Draws along a path.

  Args:
    plain: of the documents; its keys are not read.
    place_N: int, each document's place on the path.
    unit_N: of `units`.
    course: the training.
    shuffled: the documents of a window are laid by chance and not along the path.
  """
  pieces = plain.pieces
  order = np.lexsort((pieces.number, place_N[pieces.document]))
  tie = np.empty(len(order), np.int32)
  tie[order] = np.arange(len(order), dtype=np.int32)
  bundled = plain._replace(key=unit_N[pieces.document], tie=tie)
  return Bundles(bundled, course, shuffled)


def course(rows: int, seen: Subpool) -> Course:
  """Of a training of so many rows on a sub-pool.

  A pass is about one epoch, or the whole training where it is shorter.
  """
  # Whole looks: rounding alone must not add one.
  most = math.ceil(round(seen.max_weight * seen.epochs, 6))
  return Course(rows, max(1, round(seen.epochs)), most)


def units(
  place_N: np.ndarray,
  key_N: np.ndarray,
  pairs_N: np.ndarray,
  *,
  row_tokens: int,
) -> np.ndarray:
  """The bundle of each document, uint64: the key of its first one.

  Args:
    place_N: int, each document's place on the path.
    key_N: uint64, of document ids.
    pairs_N: tokens.
    row_tokens: T.
  """
  order = np.argsort(place_N)
  begin = np.cumsum(pairs_N[order]) - pairs_N[order]
  bundle = begin // (ROWS * row_tokens)
  _, first, of_O = np.unique(bundle, return_index=True, return_inverse=True)
  unit_N = np.empty(len(order), np.uint64)
  unit_N[order] = key_N[order][first][of_O]
  return unit_N


def too_short(pairs_N: np.ndarray, row_tokens: int) -> str:
  """What a person must know where a row seldom holds two documents; else nothing."""
  mean = pairs_N.mean()
  if 2 * mean <= row_tokens:
    return ""
  return (
    f"Rows of {row_tokens:,} tokens seldom hold two documents, of {mean:,.0f} in the "
    "mean: little is read together. Raise config.batch.row_tokens."
  )


def _occurrence(piece: np.ndarray) -> np.ndarray:
  """How often each piece has stood before it in the list."""
  order = np.argsort(piece, kind="stable")
  begins = np.append(True, np.diff(piece[order]) != 0)
  first = np.maximum.accumulate(np.where(begins, np.arange(len(piece)), 0))
  found = np.empty(len(piece), np.int64)
  found[order] = np.arange(len(piece)) - first
  return found
