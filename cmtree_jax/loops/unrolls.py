"""Proxies are asked what documents are worth, to every target by itself.

Each proxy answers for what it sees of the pool: by the hypergradient through an unroll
of its training, and by probes of more documents along the same direction. Its stream
stays where it is, for documents are drawn from a copy of it.
"""

from typing import NamedTuple

import numpy as np

from cmtree_jax import sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.sampler import Cursor, SamplerState
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import values_plan
from cmtree_jax.loops.fleet import Fleet, World
from cmtree_jax.loops.values_plan import Plan

Streams = tuple[SamplerState | Cursor, ...]


class Valued(NamedTuple):
  """Pieces of documents that one proxy valued."""

  document: np.ndarray
  value_NT: np.ndarray  # fall of every target's loss per unit of density
  tokens: np.ndarray
  log_proposal: np.ndarray  # log of the density that they were drawn with


class Answers(NamedTuple):
  """What all proxies said in a round."""

  found: list[Valued]  # of each proxy
  loss_PT: np.ndarray  # of the targets after the unrolls, in bits per byte


class _Drawn(NamedTuple):
  """Rows of every proxy."""

  inner: Batch  # [P, S, B, T], of the unroll
  ratio: np.ndarray  # weight over proposal, of the tokens of these
  probes: Batch
  density: list[np.ndarray]  # that a proxy's documents were drawn with


def ask(
  world: World,
  plan: Plan,
  fleet: Fleet,
  seen: list[Subpool],
  weight_N: np.ndarray,
  outer: Streams,
) -> tuple[Fleet, Streams, Answers]:
  """(fleet with the cost, the targets' streams moved on, what was said).

  All targets are asked through the same steps, so that their values differ by the
  targets alone; every proxy sees other rows of a target.

  Args:
    world: proxies and what they draw from.
    plan: how much of everything.
    fleet: the proxies; they stay as they are.
    seen: what each sees of the pool.
    weight_N: of the recipe.
    outer: a stream of every target's documents.
  """
  drawn = _draw(world, plan, fleet, seen, weight_N)
  engine, streams = world.model.engine, []
  inner_values, probe_values, losses = [], [], []
  for target, stream in enumerate(outer):
    stream, batches, scale = _targets(world, plan, stream, target)
    streams.append(stream)
    unroll = engine.unroll(
      fleet.phi, drawn.inner, drawn.ratio, (batches, scale)
    )
    inner_values.append(sharding.gather(unroll.value))
    probed = engine.probe(fleet.phi.params, unroll.adjoint, drawn.probes)
    probe_values.append(sharding.gather(probed))
    losses.append(sharding.gather(unroll.outer_loss).astype(np.float64))
  found = [
    valued(
      drawn.density[member],
      *(
        (Batch(*(x[member] for x in batches)), [x[member] for x in each])
        for batches, each in (
          (drawn.inner, inner_values),
          (drawn.probes, probe_values),
        )
      ),
    )
    for member in range(plan.population)
  ]
  answers = Answers(found, np.stack(losses, axis=1))
  return _charge(world, plan, fleet), tuple(streams), answers


def _draw(world, plan, fleet, seen, weight_N) -> _Drawn:
  """What every proxy will see next, by the recipe's weights and some natural."""
  share = plan.natural_share
  inner, probes, ratio, density = [], [], [], []
  for member, subpool in enumerate(seen):
    own_N = subpool.weights(weight_N)
    proposal_N = (1 - share) * own_N + share * subpool.inside_N
    ahead, batch = fleets.take(
      fleet, world, proposal_N, plan.unroll * world.rows, stream=member
    )
    inner.append(batch)
    ratio.append((own_N / np.maximum(proposal_N, _TINY))[batch.document_BT])
    density.append(proposal_N)
    _, batch = fleets.take(
      ahead, world, proposal_N, plan.probe_rows, stream=member
    )
    probes.append(batch)
  steps = fleets.by_member(inner, world.rows)
  return _Drawn(
    steps,
    np.reshape(ratio, steps.document_BT.shape).astype(np.float32),
    fleets.by_member(probes, world.rows),
    density,
  )


_TINY = 1e-12  # of a density, of documents that are not drawn


def _targets(world, plan, stream, target):
  """(stream, a target's rows of every proxy, weights in bits per byte)."""
  rows, drawn = plan.outer_rows_of(len(world.target_names), world.rows), []
  weight_N = world.target_weight_N * (world.target_of_N == target)
  for _ in range(plan.population):
    stream, batch = fleets.draw(world.targets, stream, weight_N, rows)
    drawn.append(batch)
  batches = fleets.by_member(drawn, world.rows)
  scale = world.target_scale_N[batches.document_BT]
  scale = scale / batches.document_BT[0].size
  return stream, batches, scale.astype(np.float32)


def valued(
  proposal_N: np.ndarray,
  *parts: tuple[Batch, list[np.ndarray]],
) -> Valued:
  """Pieces of one proxy's draws.

  Args:
    proposal_N: density that all of them were drawn with.
    parts: batches, and values of their tokens to every target.
  """
  pieces = [_by_piece(batches, values) for batches, values in parts]
  document, value_NT, tokens = (
    np.concatenate(x) for x in zip(*pieces, strict=True)
  )
  return Valued(document, value_NT, tokens, np.log(proposal_N[document]))


def _by_piece(batches: Batch, values: list[np.ndarray]):
  """(document, mean value to every target, tokens) of every piece of a draw."""
  piece = batches.segment_BT.ravel()
  tokens = np.bincount(piece)
  totals = [np.bincount(piece, x.ravel().astype(np.float64)) for x in values]
  document = np.zeros(len(tokens), np.int64)
  document[piece] = batches.document_BT.ravel()
  seen = tokens > 0
  mean_NT = np.stack(totals, axis=1)[seen] / tokens[seen, None]
  return document[seen], mean_NT, tokens[seen]


def _charge(world: World, plan: Plan, fleet: Fleet) -> Fleet:
  cost, targets = world.model.unroll_cost, len(world.target_names)
  for rows, passes in values_plan.asked(
    plan, world.rows, cost, targets=targets
  ):
    fleet = fleet.charge(world, rows, passes)
  return fleet
