r"""Gradients of single documents, and what is read of each: never all are kept.

Documents take lanes, D at a time, and every lane goes through the pieces of its own
document, one a step: a document of several pieces has one gradient, and what is not
linear in it is read when it is whole. Lanes hold documents of like lengths, so that
few of them wait, and one compiled step serves documents of any length.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.proxy.model import Proxy
from cmtree_jax.signals import sketches

STEPS = 16  # of one call
NARROWEST = 16  # tokens; rows of short documents are cut to a power of two


class Source(NamedTuple):
  """Whose gradients of what."""

  engine: Engine
  phi: Inner  # [P, ...]; the first proxy is asked
  tokens: packing.TokenStore
  row_tokens: int  # T: attention stays within a piece, as in training
  lanes: int  # D; a multiple of the devices that divide a batch
  flops_per_token: float
  longest: int = 0  # tokens that are read from the beginning of each; 0: all

  def pairs(self, document_B: np.ndarray) -> np.ndarray:
    """How many tokens of each are read."""
    pairs_B = self.tokens.pairs_N[document_B]
    return np.minimum(pairs_B, self.longest) if self.longest else pairs_B


def norms(source: Source, document_B: np.ndarray) -> tuple[np.ndarray, Cost]:
  """Norms of the gradients of documents' mean losses, [B]: GraNd."""
  found_B, cost = _read(source, document_B, Norm())
  return found_B, cost


def sketched(
  source: Source,
  document_B: np.ndarray,
  *,
  form: str,
  size: int,
  key: shapes.Key,
) -> tuple[np.ndarray, Cost]:
  """Sketches [B, P] of the gradients of documents' mean losses.

  Args:
    source: the proxy and the documents.
    document_B: their numbers.
    form: see `sketches.formed`.
    size: P.
    key: of the signs; what is compared has the same.
  """
  found_BP, cost = _read(source, document_B, Sketch(form, size), key)
  signs = 2.0 * source.engine.proxy.num_parameters
  return found_BP, Cost(cost.tokens, cost.flops + len(document_B) * signs)


def influences(
  source: Source,
  document_B: np.ndarray,
  target: tuple[Batch, np.ndarray],
) -> tuple[np.ndarray, Cost]:
  r"""How much one step on each document lowers the targets' loss, [B].

  .. math:: L(\phi) - L\big(\mathrm{Opt}(\phi, \nabla \ell_i(\phi))\big)

  The optimizer has the state of the proxy's training, and takes the one document for
  a whole batch.

  Args:
    source: the proxy and the documents.
    document_B: their numbers.
    target: batches [C, b, T] and the weights of their losses in L.
  References:
    Yu et al., `MATES <https://arxiv.org/abs/2406.06046>`_, 2024, eq. 5.
  """
  reads = _Influence(source.engine.optimizer)
  found_B, cost = _read(source, document_B, reads, *target)
  # Once for each document, and once for all that are in the lanes of a device.
  groups = -(-len(document_B) // source.lanes)
  groups *= source.engine.mesh.shape[sharding.DATA]
  tokens = (len(document_B) + groups) * target[1].size
  return found_B, cost.plus(tokens, FORWARD, source.flops_per_token)


class Norm(NamedTuple):
  """Reads the norm."""

  @property
  def more(self):
    return 0

  def read(self, losses, phi, gradient):
    del losses, phi
    return sketches.norms(gradient)


class Sketch(NamedTuple):
  """Reads a sketch."""

  form: str
  size: int

  @property
  def more(self):
    return 1

  def read(self, losses, phi, gradient, key):
    del losses
    formed = sketches.formed(self.form, gradient, phi.opt_state)
    return sketches.project(formed, key, self.size)


class _Influence(NamedTuple):
  """Reads the fall of a loss after a step."""

  optimizer: optax.GradientTransformation

  @property
  def more(self):
    return 2

  def read(self, losses, phi, gradient, batches, weight_CBT):
    total = proxy_loss.sum_over_chunks(losses)
    before = total(phi.params, (batches, weight_CBT))

    def fall(gradient):
      update, _ = self.optimizer.update(gradient, phi.opt_state, phi.params)
      after = optax.apply_updates(phi.params, update)
      return before - total(after, (batches, weight_CBT))

    # In turns: every lane has parameters of its own.
    return jax.lax.map(fall, gradient)


class Call(NamedTuple):
  """What one call of the compiled function is given: S steps of D lanes."""

  batch: Batch  # [S, D, W]
  weight_SDW: np.ndarray  # 1 / tokens of the document; 0 for padding
  # 0: nothing is left to do; 1: there are pieces in the lanes; 2: the last ones, after
  # which the documents are whole
  stage_S: np.ndarray
  place_SD: np.ndarray  # number among the documents asked for; -1: none


def _read(source: Source, document_B: np.ndarray, reads: Any, *more: Any):
  """(what is read of each document, cost of the gradients)."""
  proxy: Any = (
    source.engine.proxy
  )  # flax gives modules a hash that types do not show
  start, go = _compiled(proxy, source.engine.mesh, source.lanes, reads)
  carry = start(source.phi)
  found, tokens = None, 0
  for call in calls(source, np.asarray(document_B)):
    carry, found_SD = go(
      source.phi, carry, call.batch, call.weight_SDW, call.stage_S, *more
    )
    value_SD = sharding.gather(found_SD)[0]
    if found is None:
      shape = (len(document_B), *value_SD.shape[2:])
      found = np.zeros(shape, np.float32)
    whole = call.place_SD >= 0
    found[call.place_SD[whole]] = value_SD[whole]
    tokens += (call.weight_SDW > 0).any(
      axis=2
    ).sum() * call.batch.tokens_BT.shape[2]
  assert found is not None, "no documents"
  return found, Cost().plus(float(tokens), GRADIENT, source.flops_per_token)


@functools.lru_cache(maxsize=4)  # searches of one comparison compile once
def _compiled(
  proxy: Proxy, mesh: Mesh, lanes: int, reads: Any
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """(phi -> empty lanes, (phi, lanes, a call's arrays, more) -> lanes, readings)."""
  losses = proxy_loss.token_losses(proxy)
  lane, chunks = PartitionSpec(sharding.DATA), engines.CHUNKS

  def start(phi):
    return jax.tree.map(lambda x: jnp.zeros((lanes, *x.shape)), phi.params)

  def go(phi, total, batch, weight_SDW, stage_S, *more):
    return sharding.shard_map(
      functools.partial(steps, losses, reads),
      mesh,
      axis=sharding.DATA,
      in_specs=(
        engines.WHOLE,
        lane,
        chunks,
        chunks,
        *(engines.WHOLE,) * (1 + len(more)),
      ),
      out_specs=(lane, chunks),
    )(phi, total, batch, weight_SDW, stage_S, *more)

  whole = [engines.WHOLE] * reads.more
  return (
    engines.members(mesh, start, [None]),
    engines.members(
      mesh, go, [None, None, chunks, chunks, engines.WHOLE, *whole], donate=[1]
    ),
  )


def steps(losses, reads, phi, total, batch, weight_SDW, stage_S, *more):
  """S steps of the lanes of one device: (lanes, readings [S, D, ...])."""

  def loss(params, rows, weight_W):
    one = jax.tree.map(lambda x: x[None], rows)
    return jnp.sum(weight_W * losses(params, one)[0])

  gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0, 0))

  def read(total):
    return reads.read(losses, phi, total, *more)

  blank = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(read, total)
  )

  def step(total, xs):
    rows, weight_DW, stage = xs

    def add(total):
      new = gradients(phi.params, rows, weight_DW)
      return jax.tree.map(jnp.add, total, new)

    total = jax.lax.cond(stage > 0, add, lambda total: total, total)
    found = jax.lax.cond(stage == 2, read, lambda _: blank, total)
    total = jax.tree.map(lambda x: jnp.where(stage == 2, 0, x), total)
    return total, found

  return jax.lax.scan(step, total, (batch, weight_SDW, stage_S))


def calls(source: Source, document_B: np.ndarray) -> Iterator[Call]:
  """Documents in lanes, the longest first; calls of equal widths."""
  order_B = np.argsort(-source.pairs(document_B), kind="stable")
  width, held = 0, []
  for start in range(0, len(order_B), source.lanes):
    place_D = order_B[start : start + source.lanes]
    group = list(_group(source, document_B, place_D))
    wide = group[0].weight_SDW.shape[1]
    if held and wide != width:
      yield _stacked(held)
      held = []
    width = wide
    for one in group:
      held.append(one)
      if len(held) == STEPS:
        yield _stacked(held)
        held = []
  if held:
    yield _stacked(held)


def _group(
  source: Source, document_B: np.ndarray, place_D: np.ndarray
) -> Iterator[Call]:
  """The steps of a document in each lane, [D, W]."""
  tokens, row_tokens = source.tokens, source.row_tokens
  start_D = tokens.start_N1[document_B[place_D]]
  pairs_D = source.pairs(document_B[place_D])
  most = int(pairs_D.max())
  steps, width = -(-most // row_tokens), row_tokens
  if steps == 1:
    width = min(row_tokens, max(NARROWEST, 1 << (most - 1).bit_length()))
  idle = (0, source.lanes - len(place_D))
  for number in range(steps):
    at_W = number * row_tokens + np.arange(width)
    real_DW = at_W < pairs_D[:, None]
    index_DW = np.where(real_DW, start_D[:, None] + at_W, 0)
    weight_DW = np.float32(real_DW / pairs_D[:, None])
    last = number == steps - 1

    def lanes(x_DW, fill=0):
      return np.pad(x_DW, (idle, (0, 0)), constant_values=fill)

    yield Call(
      Batch(
        lanes(np.int32(tokens.flat[index_DW])),
        lanes(np.int32(tokens.flat[index_DW + 1])),
        lanes(np.zeros_like(index_DW, np.int32)),
        lanes(np.where(real_DW, 0, -1).astype(np.int32), -1),
      ),
      lanes(weight_DW),
      np.array(2 if last else 1),
      np.pad(
        place_D if last else np.full_like(place_D, -1), idle, constant_values=-1
      ),
    )


def _stacked(steps: list[Call]) -> Call:
  """Steps as one call, filled up with steps in which nothing is done."""
  call = jax.tree.map(lambda *x: np.stack(x), *steps)
  missing = STEPS - len(steps)

  def fill(x, value=0):
    padding = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
    return np.pad(x, padding, constant_values=value)

  return Call(
    jax.tree.map(fill, call.batch),
    fill(call.weight_SDW),
    fill(call.stage_S),
    fill(call.place_SD, -1),
  )
