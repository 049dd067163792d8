"""Signals of single documents: what a proxy that does not change says of each."""

from typing import NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy.engine import Engine

_CHUNKS = 8  # batches that are scored in one call of the engine


class Scored(NamedTuple):
  """Losses of documents, and the rows that they took."""

  loss_B: np.ndarray  # float32, mean nats per token
  rows: int


def mean_losses(
  engine: Engine,
  params: shapes.Tree,
  tokens: packing.TokenStore,
  document_B: np.ndarray,
  *,
  row_tokens: int,
  batch_rows: int,
) -> Scored:
  """The mean loss of a document's tokens under the first proxy.

  As in training, attention stays within a piece of `row_tokens`: the beginning of
  every piece is predicted from nothing.

  Args:
    engine: computes losses.
    params: of the proxies, [P, ...].
    tokens: the store.
    document_B: numbers of documents.
    row_tokens: T.
    batch_rows: rows per batch; calls of equal shape are made of them.
  """
  some = _only(tokens, document_B)
  pieces = packing.pieces(some, row_tokens)
  rows = packing.pack_whole(some, pieces, np.arange(len(pieces.document)))
  num_rows, block = len(rows.tokens_BT), _CHUNKS * batch_rows
  padding = [(0, -num_rows % block), (0, 0)]
  rows = Batch(
    *(
      np.pad(x, padding, constant_values=fill)
      for x, fill in zip(rows, (0, 0, -1, -1), strict=True)
    )
  )
  total_B = np.zeros(len(document_B))
  for start in range(0, num_rows, block):
    part = Batch(
      *(
        x[start : start + block].reshape(_CHUNKS, batch_rows, row_tokens)
        for x in rows
      )
    )
    loss = np.asarray(engine.losses(params, part), np.float64)[0]
    inside = part.document_BT >= 0
    total_B += np.bincount(
      part.document_BT[inside], loss[inside], minlength=len(total_B)
    )
  return Scored((total_B / some.pairs_N).astype(np.float32), num_rows)


def _only(
  tokens: packing.TokenStore, document_B: np.ndarray
) -> packing.TokenStore:
  """A store of some documents alone."""
  start_B, stop_B = tokens.start_N1[document_B], tokens.start_N1[document_B + 1]
  length_B = stop_B - start_B
  start_B1 = np.concatenate([[0], np.cumsum(length_B)])
  place = np.arange(start_B1[-1]) + np.repeat(start_B - start_B1[:-1], length_B)
  return packing.TokenStore(
    np.asarray(tokens.flat[place]), start_B1, tokens.bytes_N[document_B]
  )
