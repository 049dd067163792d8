"""Signals of single documents: what proxies make of each."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate import perplexity
from cmtree_jax.methods.base import Sketch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.signals import single
from cmtree_jax.signals.base import Observation, Signal, View
from cmtree_jax.signals.domains import eval_rows

_CHUNKS = 8  # batches that are scored in one call of the engine


class Seen(NamedTuple):
  """A model at a checkpoint, that documents are measured with."""

  engine: Engine
  phi: Inner  # of one member, [1, ...]
  row_tokens: int  # T
  batch_rows: int  # per batch; calls of equal shape are made of them
  flops_per_token: float  # of a forward pass
  # Only for what is read of gradients.
  longest: int = 0  # tokens from the beginning of a document; 0: all
  sketch: Sketch = Sketch()
  key: shapes.Key | None = None  # of the signs of a sketch
  # [C, B, T], and the weights of its losses: what a step on a document should lower.
  goal: tuple[Batch, np.ndarray] | None = None
  asked_N: np.ndarray | None = None  # documents that a step is taken on; bool


class Measured(NamedTuple):
  """What was found of documents."""

  values: dict[str, np.ndarray]  # by fields of `Documents`, [B, ...]
  cost: Cost


class Measure(NamedTuple):
  """One computation; fields that share it are entered as the same object.

  A new one is written in a file of this folder and entered in `MEASURES`.
  """

  # (model, tokens, numbers of documents) -> (fields [B, ...], cost)
  compute: Callable[
    [Seen, packing.TokenStore, np.ndarray], tuple[dict[str, np.ndarray], Cost]
  ]
  passes: int  # forward passes over the tokens that are read, for estimates


def measure(
  seen: Seen,
  tokens: packing.TokenStore,
  document_B: np.ndarray,
  wanted: frozenset[str],
) -> Measured:
  """The wanted fields of some documents.

  As in training, attention stays within a piece of `row_tokens`: the beginning of
  every piece is predicted from nothing.

  Args:
    seen: the model.
    tokens: the store.
    document_B: numbers of documents.
    wanted: names in `MEASURES`.
  """
  values: dict[str, np.ndarray] = {}
  cost = Cost()
  # What several fields share is computed and charged once.
  for one in dict.fromkeys(MEASURES[name] for name in sorted(wanted)):
    found, took = one.compute(seen, tokens, document_B)
    values |= {name: x for name, x in found.items() if name in wanted}
    cost = Cost(cost.tokens + took.tokens, cost.flops + took.flops)
  return Measured(values, cost)


def _statistics(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[dict[str, np.ndarray], Cost]:
  """Means over tokens of what the predictions are like."""
  some, blocks, rows = _blocks(seen, tokens, document_B)
  names = (*engines.Statistics._fields,)
  total = np.zeros((len(document_B), len(names)))
  for block in blocks:
    found = seen.engine.statistics(seen.phi.params, block)
    of_tokens = np.stack([x[0] for x in sharding.gather(tuple(found))], axis=-1)
    _add(total, block.document_BT, of_tokens)
  mean = (total / some.pairs_N[:, None]).astype(np.float32)
  return {
    f"{name.removesuffix('_BT')}_ON": mean[:, i] for i, name in enumerate(names)
  }, _passed(seen, rows)


def _hidden(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[dict[str, np.ndarray], Cost]:
  """Means of the hidden states, plain and weighted by position."""
  some, blocks, rows = _blocks(seen, tokens, document_B)
  width = seen.engine.hidden_width
  plain, late = np.zeros((2, len(document_B), width))
  counted_B = np.zeros(len(document_B), np.int64)
  for block in blocks:
    hidden = sharding.gather(seen.engine.hidden(seen.phi.params, block))[0]
    _add(plain, block.document_BT, hidden)
    position = _positions(block.document_BT, counted_B)
    _add(late, block.document_BT, hidden * position[..., None])
  pairs_B1 = some.pairs_N[:, None]
  return {
    "hidden_ONH": (plain / pairs_B1).astype(np.float32),
    # 1 + 2 + ... + n
    "late_hidden_ONH": (late / (pairs_B1 * (pairs_B1 + 1) / 2)).astype(
      np.float32
    ),
  }, _passed(seen, rows)


def _norms(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[dict[str, np.ndarray], Cost]:
  """Norms of gradients."""
  found_B, cost = single.norms(_source(seen, tokens), document_B)
  return {"gradient_norm_ON": found_B}, cost


def _sketches(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[dict[str, np.ndarray], Cost]:
  """Sketches of gradients."""
  assert seen.key is not None
  found_BP, cost = single.sketched(
    _source(seen, tokens),
    document_B,
    form=seen.sketch.form,
    size=seen.sketch.size,
    key=seen.key,
  )
  return {"sketch_ONP": found_BP}, cost


def _influences(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[dict[str, np.ndarray], Cost]:
  """What one step on each of the documents that are asked does for the goal."""
  found_B = np.full(len(document_B), np.nan, np.float32)
  if seen.asked_N is None or not (asked_B := seen.asked_N[document_B]).any():
    return {"influence_ON": found_B}, Cost()
  assert seen.goal is not None
  found_B[asked_B], cost = single.influences(
    _source(seen, tokens), document_B[asked_B], seen.goal
  )
  return {"influence_ON": found_B}, cost


def _source(seen: Seen, tokens: packing.TokenStore) -> single.Source:
  return single.Source(
    seen.engine,
    seen.phi,
    tokens,
    seen.row_tokens,
    seen.batch_rows,
    seen.flops_per_token,
    seen.longest,
  )


def _passed(seen: Seen, rows: int) -> Cost:
  """The cost of a forward pass over so many rows."""
  return Cost().plus(rows * seen.row_tokens, FORWARD, seen.flops_per_token)


_STATISTICS = Measure(_statistics, FORWARD)
_HIDDEN = Measure(_hidden, FORWARD)
MEASURES: dict[str, Measure] = {
  "loss_ON": _STATISTICS,
  "entropy_ON": _STATISTICS,
  "confidence_ON": _STATISTICS,
  "error_ON": _STATISTICS,
  "margin_ON": _STATISTICS,
  "correct_ON": _STATISTICS,
  "hidden_ONH": _HIDDEN,
  "late_hidden_ONH": _HIDDEN,
  "gradient_norm_ON": Measure(_norms, GRADIENT),
  "sketch_ONP": Measure(_sketches, GRADIENT),
  "influence_ON": Measure(_influences, GRADIENT),
}


def expected(
  seen: Seen,
  tokens: packing.TokenStore,
  wanted: frozenset[str],
  *,
  asked: int = 0,
  goal_tokens: int = 0,
) -> float:
  """FLOPs of the wanted fields of all documents, before anything is measured.

  Rows and lanes are taken for full, so it is somewhat less than will be charged.

  Args:
    seen: the model.
    tokens: the store.
    wanted: names in `MEASURES`.
    asked: documents that a step is taken on.
    goal_tokens: that each of these steps is judged by.
  """
  pairs_N = tokens.pairs_N
  short_N = np.minimum(pairs_N, seen.longest) if seen.longest else pairs_N
  total = 0.0
  for one in dict.fromkeys(MEASURES[name] for name in sorted(wanted)):
    read = float((pairs_N if one.passes == FORWARD else short_N).sum())
    if one is MEASURES["influence_ON"]:
      asked = min(asked, len(pairs_N))
      read *= asked / len(pairs_N)
      total += asked * goal_tokens * FORWARD * seen.flops_per_token
    total += read * one.passes * seen.flops_per_token
  if "sketch_ONP" in wanted:
    signs = 2.0 * seen.engine.proxy.num_parameters
    total += signs * len(pairs_N)
  return total


def _blocks(
  seen: Seen, tokens: packing.TokenStore, document_B: np.ndarray
) -> tuple[packing.TokenStore, Iterator[Batch], int]:
  """(store of these documents, their rows [C, B, T] block by block, rows)."""
  some = _only(tokens, document_B)
  pieces = packing.pieces(some, seen.row_tokens)
  rows = packing.pack_whole(some, pieces, np.arange(len(pieces.document)))
  num_rows, block = len(rows.tokens_BT), _CHUNKS * seen.batch_rows
  padding = [(0, -num_rows % block), (0, 0)]
  rows = Batch(
    *(
      np.pad(x, padding, constant_values=fill)
      for x, fill in zip(rows, (0, 0, -1, -1), strict=True)
    )
  )
  shape = _CHUNKS, seen.batch_rows, seen.row_tokens
  blocks = (
    Batch(*(x[start : start + block].reshape(shape) for x in rows))
    for start in range(0, num_rows, block)
  )
  return some, blocks, num_rows


def _add(total: np.ndarray, document: np.ndarray, value: np.ndarray) -> None:
  """Adds what is told of tokens [..., D] to their documents' sums [B, D]."""
  document = document.ravel()
  begin = np.flatnonzero(np.diff(document, prepend=-2))  # runs of one document
  part = np.add.reduceat(
    value.reshape(len(document), -1), begin, axis=0, dtype=np.float64
  )
  real = document[begin] >= 0  # the others are padding
  np.add.at(total, document[begin][real], part[real])


def _positions(document: np.ndarray, counted_B: np.ndarray) -> np.ndarray:
  """Each token's place in its document, from 1; 0 for padding.

  A document's tokens come in their order; `counted_B` knows how many came before,
  and is moved on.
  """
  flat = document.ravel()
  position = np.zeros(len(flat), np.int64)
  begin = np.flatnonzero(np.diff(flat, prepend=-2))
  for start, stop in zip(begin, [*begin[1:], len(flat)], strict=True):
    if flat[start] < 0:
      continue
    before = counted_B[flat[start]]
    position[start:stop] = before + 1 + np.arange(stop - start)
    counted_B[flat[start]] += stop - start
  return position.reshape(document.shape)


def document_nats(
  view: View, engine: Engine, params: shapes.Tree
) -> np.ndarray:
  """Nats of every document of the frozen sets, [P, M]; see `documents_of`."""
  columns = []
  for one in view.eval_sets:
    loss_P = sharding.gather(engine.losses(params, one.batches)).astype(
      np.float64
    )
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
