"""Documents as flat token arrays, cut into pieces and packed into rows.

A document is stored as end-of-text, its tokens, end-of-text: n + 2 numbers that
give n + 1 (input, label) pairs, so that every token is predicted once and a row of
T pairs never waits for padding. Pairs are the unit of every token budget.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw.batch import Batch


class TokenStore(NamedTuple):
  """The tokens of N documents in one flat array."""

  flat: np.ndarray  # uint16 or uint32, documents end to end
  start_N1: np.ndarray  # int64 [N + 1], document i is flat[start[i]:start[i+1]]
  bytes_N: np.ndarray  # int64, UTF-8 bytes of each document's text

  @property
  def pairs_N(self) -> np.ndarray:
    """(input, label) pairs of each document: its length in training tokens."""
    return np.diff(self.start_N1) - 1

  @property
  def mass_N(self) -> np.ndarray:
    """Each document's share of the tokens, float64; sums to one."""
    pairs_N = self.pairs_N
    return pairs_N / pairs_N.sum()


class Pieces(NamedTuple):
  """Documents cut into pieces of at most T pairs; what the sampler draws.

  Eight bytes a piece; where it stands in the store, `span` tells.
  """

  document: np.ndarray  # int32, index of the document
  number: np.ndarray  # int32, of the document's pieces those before it
  row_tokens: int  # T


def store(
  tokens: Sequence[np.ndarray], byte_counts: Sequence[int], *, end_of_text: int
) -> TokenStore:
  """Joins tokenized documents into a TokenStore."""
  length_N = np.array([len(t) + 2 for t in tokens], np.int64)
  start_N1 = np.concatenate([[0], np.cumsum(length_N)]).astype(np.int64)
  largest = max((int(t.max()) for t in tokens if len(t)), default=0)
  dtype = np.uint16 if max(largest, end_of_text) < 2**16 else np.uint32
  flat = np.full(int(start_N1[-1]), end_of_text, dtype)
  for start, one in zip(start_N1, tokens, strict=False):
    flat[start + 1 : start + 1 + len(one)] = one
  return TokenStore(flat, start_N1, np.asarray(byte_counts, np.int64))


def join(stores: Sequence[TokenStore]) -> TokenStore:
  """The documents of several stores in one."""
  ends = np.cumsum([0] + [len(one.flat) for one in stores])
  starts = [
    one.start_N1[:-1] + end for one, end in zip(stores, ends, strict=False)
  ]
  return TokenStore(
    np.concatenate([one.flat for one in stores]),
    np.concatenate([*starts, ends[-1:]]),
    np.concatenate([one.bytes_N for one in stores]),
  )


def pieces(tokens: TokenStore, row_tokens: int) -> Pieces:
  """Cuts every document into consecutive pieces of at most `row_tokens` pairs."""
  parts = chunks(len(tokens.start_N1) - 1)
  total = sum(int(_counts(tokens, part, row_tokens).sum()) for part in parts)
  if max(total, len(tokens.start_N1)) >= 2**31:
    raise ValueError(
      f"Wanted less than 2**31 pieces, came {total:,}: raise row_tokens = "
      f"{row_tokens} or divide the corpus."
    )
  document, number = np.empty(total, np.int32), np.empty(total, np.int32)
  at = 0
  for part in parts:
    count = _counts(tokens, part, row_tokens)
    here = slice(at, at + int(count.sum()))
    first = np.repeat(np.cumsum(count) - count, count)
    document[here] = np.repeat(np.arange(part.start, part.stop), count)
    number[here] = np.arange(len(first)) - first
    at = here.stop
  return Pieces(document, number, row_tokens)


def chunks(size: int, length: int = 2**15) -> list[slice]:
  """Consecutive slices of an array, so that temporaries fit into a cache."""
  return [slice(a, min(a + length, size)) for a in range(0, size, length)]


def _counts(tokens: TokenStore, part: slice, row_tokens: int) -> np.ndarray:
  """How many pieces the documents of a slice give."""
  pairs = np.diff(tokens.start_N1[part.start : part.stop + 1]) - 1
  return -(-pairs // row_tokens)


def span(
  tokens: TokenStore, all_pieces: Pieces, order: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(position of the first input in `flat`, pairs) of the pieces in `order`."""
  document = all_pieces.document[order]
  start = tokens.start_N1[document] + (
    all_pieces.number[order].astype(np.int64) * all_pieces.row_tokens
  )
  left = tokens.start_N1[document + 1] - 1 - start
  return start, np.minimum(left, all_pieces.row_tokens)


def pack(
  tokens: TokenStore,
  all_pieces: Pieces,
  order: np.ndarray,
  *,
  num_rows: int,
  rows: np.ndarray | None = None,
  first_pairs: int | None = None,
) -> Batch:
  """Rows made of the pieces in `order`: full pieces first, then the tails.

  Full pieces fill a row each; the tails are joined and cut at row ends, so no
  pair is padding as long as there are enough of them.

  Args:
    tokens: the store that the pieces were cut from.
    all_pieces: the pieces of that store.
    order: indices of pieces; may repeat. What exceeds the rows is cut off the
      last one, which is kept at the end.
    num_rows: how many rows are packed in all.
    rows: which of them to give, in this order; all as they are if None.
    first_pairs: the first piece ends after so many pairs; None: at its own end.
  Returns:
    A Batch [B, T]; padding (document -1) only after the last piece.
  """
  row_tokens, slots = all_pieces.row_tokens, num_rows * all_pieces.row_tokens
  start, length = span(tokens, all_pieces, order)
  if first_pairs is not None:
    length[0] = min(first_pairs, length[0])
  is_full = length == row_tokens
  is_full[-1:] = False
  full_first = np.argsort(~is_full, kind="stable")
  start, length = start[full_first], length[full_first]
  spelled = np.repeat(np.arange(len(order), dtype=np.int32), length)[:slots]
  draw = np.full(slots, -1, np.int32)
  draw[: len(spelled)] = spelled
  rows = np.arange(num_rows) if rows is None else rows
  draw_BT = draw.reshape(num_rows, row_tokens)[rows]
  # How far a piece's tokens in `flat` are ahead of its slot in the rows.
  ahead = start - (np.cumsum(length) - length)
  # `take` is faster than indexing; what it clips is padding, and overwritten.
  index_BT = ahead.take(draw_BT, mode="clip")
  index_BT += rows[:, None] * row_tokens + np.arange(row_tokens)
  document_BT = all_pieces.document[order[full_first]].take(
    draw_BT, mode="clip"
  )
  flat = np.asarray(tokens.flat)  # a memory map is slower to index
  batch = Batch(
    tokens_BT=flat.take(index_BT, mode="clip").astype(np.int32),
    label_BT=flat[1:].take(index_BT, mode="clip").astype(np.int32),
    segment_BT=draw_BT,
    document_BT=document_BT,
  )
  if draw[-1] < 0:
    padding = draw_BT < 0
    batch.tokens_BT[padding] = batch.label_BT[padding] = 0
    batch.document_BT[padding] = -1
  return batch


def lay(
  tokens: TokenStore,
  all_pieces: Pieces,
  order: np.ndarray,
  end: np.ndarray,
  *,
  rows: np.ndarray,
) -> Batch:
  """Rows of pieces that are laid end to end and cut at row ends.

  A row is one segment: its tokens see all earlier ones, whatever documents they are of.

  Args:
    tokens: the store that the pieces were cut from.
    all_pieces: the pieces of that store.
    order: indices of pieces; may repeat.
    end: pairs up to the end of each of them, all of it or its beginning.
    rows: which rows to give; the pieces fill them all.
  """
  start, _ = span(tokens, all_pieces, order)
  begin = np.concatenate([[0], end[:-1]])
  row_tokens = all_pieces.row_tokens
  slot_BT = rows[:, None] * row_tokens + np.arange(row_tokens)
  piece_BT = np.searchsorted(end, slot_BT, side="right")
  index_BT = slot_BT + (start - begin)[piece_BT]
  flat = np.asarray(tokens.flat)  # a memory map is slower to index
  return Batch(
    tokens_BT=flat.take(index_BT).astype(np.int32),
    label_BT=flat[1:].take(index_BT).astype(np.int32),
    segment_BT=np.zeros(slot_BT.shape, np.int32),
    document_BT=all_pieces.document[order].take(piece_BT),
  )


def pack_whole(
  tokens: TokenStore, all_pieces: Pieces, order: np.ndarray
) -> Batch:
  """Rows in which no piece is cut: what is read of one does not depend on others.

  `pack` cuts pieces at row ends, which is nothing to training but moves the loss of
  a document by its neighbours'. Here a piece that does not fit begins the next row.

  Args:
    tokens: the store that the pieces were cut from.
    all_pieces: the pieces of that store.
    order: indices of pieces.
  Returns:
    A Batch [B, T] of as many rows as are needed; padding has document -1.
  """
  row_tokens = all_pieces.row_tokens
  start, length = span(tokens, all_pieces, order)
  slot, end = np.empty(len(order), np.int64), 0
  for piece, size in enumerate(length.tolist()):
    if end % row_tokens + size > row_tokens:
      end += -end % row_tokens
    slot[piece] = end
    end += size
  num_rows = max(-(-end // row_tokens), 1)
  within = np.arange(length.sum()) - np.repeat(
    np.cumsum(length) - length, length
  )
  here, there = (
    np.repeat(slot, length) + within,
    np.repeat(start, length) + within,
  )

  def spread(values: np.ndarray, padding: int) -> np.ndarray:
    flat = np.full(num_rows * row_tokens, padding, np.int32)
    flat[here] = values
    return flat.reshape(num_rows, row_tokens)

  flat = np.asarray(tokens.flat)
  return Batch(
    tokens_BT=spread(flat[there], 0),
    label_BT=spread(flat[there + 1], 0),
    segment_BT=spread(np.repeat(np.arange(len(order)), length), -1),
    document_BT=spread(np.repeat(all_pieces.document[order], length), -1),
  )
