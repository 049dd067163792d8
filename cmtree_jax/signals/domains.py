"""Computes what a method declares to read of a proxy, and no more."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.strata import Strata
from cmtree_jax.evaluate import perplexity
from cmtree_jax.methods.base import Signals
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.signals import gradients

# Signals of the loops `steer` and `runs` that need the gradients of domains.
GRADIENTS = frozenset({"gram_KK", "target_dot_K"})


class View(NamedTuple):
  """What proxies are looked at with."""

  domains: Strata
  targets: Strata  # of the targets' training documents, a part for each target
  eval_sets: tuple[perplexity.EvalSet, ...]  # frozen, of the same documents
  bits_T: np.ndarray  # bits per byte of each target for one nat per token
  rows: int  # fresh rows of each domain
  target_rows: int  # fresh rows of each target
  frozen: Batch  # rows of each domain that stay the same, [K, rows, T]
  chunk_rows: int  # rows that are scored together


class Looked(NamedTuple):
  """What an observation found and took."""

  signals: Signals
  cost: Cost
  batch: Batch  # the fresh rows of the domains, [K, rows, T]


def look(
  view: View,
  engine: Engine,
  params: shapes.Tree,
  wanted: frozenset[str],
  *,
  number: int,
  reference: shapes.Tree | None,
  flops_per_token: float,
) -> Looked:
  """The declared signals of a proxy (the first member of `params`).

  Args:
    view: what to look with.
    engine: compiled functions.
    params: of the proxy, [P, ...].
    wanted: the method's signals.
    number: of the observation.
    reference: parameters of the reference model, for excess losses.
    flops_per_token: of a forward pass.
  """
  found: dict[str, Any] = {}
  cost = Cost()
  batch = view.domains.rows(1 + number, view.rows)
  row_tokens = batch.tokens_BT.shape[-1]

  def charge(rows: int, passes: int) -> None:
    nonlocal cost
    cost = cost.plus(rows * row_tokens, passes, flops_per_token)

  if "loss_K" in wanted:
    found["loss_K"] = domain_losses(view, engine, params)[0]
    charge(view.frozen.tokens_BT[..., 0].size, FORWARD)
  if "excess_K" in wanted:
    assert reference is not None
    excess = token_losses(view, engine, params, batch) - token_losses(
      view, engine, reference, batch
    )
    found["excess_K"] = mean_by_part(np.maximum(excess, 0.0), batch)
    charge(2 * batch.tokens_BT[..., 0].size, FORWARD)
  if "tokens_K" in wanted:
    found["tokens_K"] = _token_weights(batch).sum(axis=(1, 2))
  if "head_gram_KK" in wanted:
    found["head_gram_KK"] = np.asarray(
      gradients.compiled(engine.proxy, engine.mesh).head_gram(
        params, (batch, _token_weights(batch))
      )
    )[0]
    charge(batch.tokens_BT[..., 0].size, FORWARD)
    cost = _with_products(cost, len(batch.tokens_BT) ** 2, flops_per_token)
  if wanted & GRADIENTS:
    targets = view.targets.rows(1 + number, view.target_rows)
    weight = _token_weights(targets)
    per_target = np.maximum(weight.sum(axis=(1, 2), keepdims=True), 1.0)
    weight = weight / per_target * view.bits_T[:, None, None] / len(weight)
    found["gram_KK"], found["target_dot_K"] = (
      np.asarray(products)[0]
      for products in gradients.compiled(engine.proxy, engine.mesh).products(
        params, (batch, _token_weights(batch)), (targets, np.float32(weight))
      )
    )
    rows = batch.tokens_BT[..., 0].size + targets.tokens_BT[..., 0].size
    charge(rows, GRADIENT)
    domains = len(batch.tokens_BT)
    cost = _with_products(cost, domains * (domains + 1), flops_per_token)
  if "target_loss_T" in wanted:
    found["target_loss_T"] = target_losses(view, engine, params)[0]
    charge(eval_rows(view), FORWARD)
  kept = {
    name: value.astype(np.float32)
    for name, value in found.items()
    if name in wanted
  }
  return Looked(Signals(**kept), cost, batch)


def _with_products(cost: Cost, count: int, flops_per_token: float) -> Cost:
  """With so many inner products of gradients.

  One is two FLOPs a parameter, as a token's forward pass is; for the last layer
  alone that is an upper bound.
  """
  return cost._replace(flops=cost.flops + count * flops_per_token)


def target_losses(view: View, engine: Engine, params) -> np.ndarray:
  """Bits per byte of the frozen sets, [P, T]."""
  columns = []
  for one in view.eval_sets:
    nats_P = engine.weighted_nats(params, (one.batches, one.weight_CBT))
    columns.append(
      np.asarray(nats_P, np.float64) / (math.log(2) * one.num_bytes)
    )
  return np.stack(columns, axis=1)


def eval_rows(view: View) -> int:
  """Rows of the frozen sets of all targets."""
  return sum(one.weight_CBT[..., 0].size for one in view.eval_sets)


def domain_losses(view: View, engine: Engine, params) -> np.ndarray:
  """Mean loss of frozen rows of every domain, [P, K]; 0 for an empty one."""
  loss_PKBT = _all_token_losses(view, engine, params, view.frozen)
  return np.stack([mean_by_part(loss, view.frozen) for loss in loss_PKBT])


def document_nats(view: View, engine: Engine, params) -> np.ndarray:
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


def token_losses(view: View, engine: Engine, params, batch: Batch):
  """Losses of every token for the first member, [G, rows, T]."""
  return _all_token_losses(view, engine, params, batch)[0]


def mean_by_part(value: np.ndarray, batch: Batch) -> np.ndarray:
  """Means over the tokens of each part [G]; 0 for a part without."""
  weight = _token_weights(batch)
  total = np.maximum(weight.sum(axis=(1, 2)), 1.0)
  return (value * weight).sum(axis=(1, 2)) / total


def _all_token_losses(view, engine, params, batch):
  """[P, G, rows, T], computed in chunks of equal shape."""
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
  loss = np.asarray(engine.losses(params, stacked), np.float64)
  return loss.reshape(len(loss), -1, shape[2])[:, :rows].reshape(-1, *shape)


def _token_weights(batch: Batch) -> np.ndarray:
  """1 for a token, 0 for padding."""
  return (batch.document_BT >= 0).astype(np.float32)
