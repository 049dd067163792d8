"""Documents as flat token arrays, cut into pieces and packed into rows.

A document is stored as end-of-text, its tokens, end-of-text: n + 2 numbers that
give n + 1 (input, label) pairs, so that every token is predicted once and a row of
T pairs never waits for padding. Pairs are the unit of every token budget.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax.batch import Batch


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
  """Documents cut into pieces of at most T pairs; what the sampler draws."""

  document: np.ndarray  # int64, index of the document
  start: np.ndarray  # int64, position of the first input in `flat`
  length: np.ndarray  # int64, pairs


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
  count_N = -(-tokens.pairs_N // row_tokens)
  document = np.repeat(np.arange(len(count_N)), count_N)
  first = np.repeat(np.cumsum(count_N) - count_N, count_N)
  offset = (np.arange(len(document)) - first) * row_tokens
  length = np.minimum(tokens.pairs_N[document] - offset, row_tokens)
  return Pieces(document, tokens.start_N1[document] + offset, length)


def pack(
  tokens: TokenStore,
  all_pieces: Pieces,
  order: np.ndarray,
  *,
  num_rows: int,
  row_tokens: int,
) -> Batch:
  """Rows made of the pieces in `order`: full pieces first, then the tails.

  Full pieces fill a row each; the tails are joined and cut at row ends, so no
  pair is padding as long as there are enough of them.

  Args:
    tokens: the store that the pieces were cut from.
    all_pieces: the pieces of that store.
    order: indices of pieces; may repeat. What exceeds the rows is cut off the
      last one, which is kept at the end.
    num_rows: B.
    row_tokens: T.
  Returns:
    A Batch [B, T]; padding (document -1) only after the last piece.
  """
  is_full = all_pieces.length[order] == row_tokens
  is_full[-1:] = False
  order = np.concatenate([order[is_full], order[~is_full]])
  length = all_pieces.length[order]
  slots = num_rows * row_tokens
  draw = np.repeat(np.arange(len(order)), length)[:slots]
  first = np.repeat(np.cumsum(length) - length, length)[:slots]
  index = all_pieces.start[order][draw] + np.arange(len(draw)) - first
  pad = (0, slots - len(draw))

  def rows(values: np.ndarray, fill: int) -> np.ndarray:
    padded = np.pad(values.astype(np.int32), pad, constant_values=fill)
    return padded.reshape(num_rows, row_tokens)

  return Batch(
    tokens_BT=rows(tokens.flat[index], 0),
    label_BT=rows(tokens.flat[index + 1], 0),
    segment_BT=rows(draw, -1),
    document_BT=rows(all_pieces.document[order][draw], -1),
  )
