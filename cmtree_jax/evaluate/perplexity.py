"""Bits per byte on frozen evaluation sets, whatever the tokenizer."""

import math
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch


class EvalSet(NamedTuple):
  """A frozen set of rows with the number of bytes that they spell."""

  batches: Batch  # [C, B, T]
  weight_CBT: np.ndarray  # 1 for a token, 0 for padding
  num_bytes: int
  num_tokens: int


def eval_set(
  tokens: packing.TokenStore,
  key_N: np.ndarray,
  *,
  max_tokens: int,
  rows: int,
  row_tokens: int,
) -> EvalSet:
  """The first whole documents, in an order keyed by id, up to `max_tokens`.

  Args:
    tokens: the documents.
    key_N: hashes of their ids.
    max_tokens: limit; at least one document is taken.
    rows: rows per chunk, padded at the end of the last chunk.
    row_tokens: T.
  """
  order_N = np.argsort(key_N, kind="stable")
  within = np.cumsum(tokens.pairs_N[order_N]) <= max_tokens
  within[0] = True
  chosen = np.sort(order_N[within])
  pieces = packing.pieces(tokens, row_tokens)
  order = np.flatnonzero(np.isin(pieces.document, chosen))
  num_tokens = int(tokens.pairs_N[chosen].sum())
  num_rows = -(-num_tokens // row_tokens)
  chunks = -(-num_rows // rows)
  batch = packing.pack(tokens, pieces, order, num_rows=chunks * rows)
  batches = Batch(*(x.reshape(chunks, rows, row_tokens) for x in batch))
  weight = (batches.document_BT >= 0).astype(np.float32)
  num_bytes = int(tokens.bytes_N[chosen].sum())
  return EvalSet(batches, weight, num_bytes, num_tokens)


def bits_per_byte(nats: float, num_bytes: int) -> float:
  """Bits per byte of a text that costs so many nats."""
  return nats / (math.log(2) * num_bytes)
