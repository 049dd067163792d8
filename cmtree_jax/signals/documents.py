"""Signals of single documents: what proxies make of each."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate import perplexity
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD
from cmtree_jax.signals.base import Observation, Signal, View
from cmtree_jax.signals.domains import eval_rows

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


def document_nats(
  view: View, engine: Engine, params: shapes.Tree
) -> np.ndarray:
  """Nats of every document of the frozen sets, [P, M]; see `documents_of`."""
  columns = []
  for one in view.eval_sets:
    loss_P = np.asarray(engine.losses(params, one.batches), np.float64)
    inside = one.weight_CBT > 0
    document = one.batches.document_BT[inside]
    columns.append(
      np.stack([np.bincount(document, loss[inside]) for loss in loss_P])[
        :, np.unique(document)
      ]
    )
  return np.concatenate(columns, axis=1)


def documents_of(
  eval_sets: Sequence[perplexity.EvalSet],
) -> tuple[np.ndarray, np.ndarray]:
  """(tokens, target) of the documents of frozen sets, in their order."""
  tokens, target = [], []
  for number, one in enumerate(eval_sets):
    document = one.batches.document_BT[one.weight_CBT > 0]
    count = np.bincount(document)
    tokens.append(count[count > 0])
    target.append(np.full(len(tokens[-1]), number))
  return np.concatenate(tokens), np.concatenate(target)


def _nats(seen: Observation) -> dict[str, np.ndarray]:
  nats_PM = document_nats(seen.view, seen.engine, seen.params)
  return {"document_nats_M": nats_PM}


NATS = Signal(
  _nats,
  cost=lambda seen, flops: seen.view.cost(eval_rows(seen.view), FORWARD, flops),
)


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
