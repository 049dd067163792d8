"""How well proxies do on domains and targets: mean losses, excess losses, tokens."""

import math

import numpy as np

from cmtree_jax import shapes, sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, Cost
from cmtree_jax.signals.base import Observation, Signal, View, token_weights


def domain_losses(
  view: View, engine: Engine, params: shapes.Tree
) -> np.ndarray:
  """Mean loss of frozen rows of every domain, [P, K]; 0 for an empty one."""
  loss_PKBT = _token_losses(view, engine, params, view.frozen)
  return np.stack([_mean_by_part(loss, view.frozen) for loss in loss_PKBT])


def target_losses(
  view: View, engine: Engine, params: shapes.Tree
) -> np.ndarray:
  """Bits per byte of the frozen sets, [P, T]."""
  columns = []
  for one in view.eval_sets:
    nats_P = engine.weighted_nats(params, (one.batches, one.weight_CBT))
    columns.append(
      sharding.gather(nats_P).astype(np.float64) / (math.log(2) * one.num_bytes)
    )
  return np.stack(columns, axis=1)


def eval_rows(view: View) -> int:
  """Rows of the frozen sets of all targets."""
  return sum(one.weight_CBT[..., 0].size for one in view.eval_sets)


def _losses(seen: Observation) -> dict[str, np.ndarray]:
  return {"loss_K": domain_losses(seen.view, seen.engine, seen.params)}


def _excess(seen: Observation) -> dict[str, np.ndarray]:
  assert seen.reference is not None
  loss_PKBT, reference_PKBT = (
    _token_losses(seen.view, seen.engine, params, seen.batch)
    for params in (seen.params, seen.reference)
  )
  # Clipped token by token, before the mean (DoReMi, Algorithm 1).
  excess_PKBT = np.maximum(loss_PKBT - reference_PKBT, 0.0)
  found = [_mean_by_part(excess, seen.batch) for excess in excess_PKBT]
  return {"excess_K": np.stack(found)}


def _tokens(seen: Observation) -> dict[str, np.ndarray]:
  tokens_K = token_weights(seen.batch).sum(axis=(1, 2))
  return {"tokens_K": np.stack([tokens_K] * seen.num_members)}


def _targets(seen: Observation) -> dict[str, np.ndarray]:
  return {"target_loss_T": target_losses(seen.view, seen.engine, seen.params)}


LOSSES = Signal(
  _losses,
  cost=lambda seen, flops: seen.view.cost(
    seen.view.frozen.tokens_BT[..., 0].size, FORWARD, flops
  ),
)
EXCESS = Signal(
  _excess,
  # The reference reads the rows too.
  cost=lambda seen, flops: seen.view.cost(
    2 * seen.view.fresh_rows, FORWARD, flops
  ),
  reads_reference=True,
)
TOKENS = Signal(_tokens, cost=lambda seen, flops: Cost())
TARGETS = Signal(
  _targets,
  cost=lambda seen, flops: seen.view.cost(eval_rows(seen.view), FORWARD, flops),
)


def _mean_by_part(value: np.ndarray, batch: Batch) -> np.ndarray:
  """Means over the tokens of each part [G]; 0 for a part without."""
  weight = token_weights(batch)
  total = np.maximum(weight.sum(axis=(1, 2)), 1.0)
  return (value * weight).sum(axis=(1, 2)) / total


def _token_losses(
  view: View, engine: Engine, params: shapes.Tree, batch: Batch
) -> np.ndarray:
  """Losses of every token, [P, G, rows, T], computed in chunks of equal shape."""
  shape = batch.tokens_BT.shape
  rows = shape[0] * shape[1]
  chunks = -(-rows // view.chunk_rows)
  padding = [(0, chunks * view.chunk_rows - rows), (0, 0)]
  stacked = Batch(
    *(
      np.pad(x.reshape(rows, -1), padding).reshape(
        chunks, view.chunk_rows, shape[2]
      )
      for x in batch
    )
  )
  loss = sharding.gather(engine.losses(params, stacked)).astype(np.float64)
  return loss.reshape(len(loss), -1, shape[2])[:, :rows].reshape(-1, *shape)
