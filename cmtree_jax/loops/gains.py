"""What a domain's share of the training steps is worth to the targets.

The hypergradient goes through the very steps that train, so only its own work is paid
for beside them.
"""

import numpy as np

from cmtree_jax import sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import Fleet, World
from cmtree_jax.proxy.ledger import GRADIENT
from cmtree_jax.signals import gradients, observe


def train(
  fleet: Fleet, world: World, batches: Batch, number: int
) -> tuple[Fleet, np.ndarray]:
  """Trains on rows that were drawn by shares: (fleet, `Signals.share_gain_K`).

  A row was drawn as often as its domain's share asks for, so the derivative by the
  logarithm of the share is the sum of those by the weights of its tokens.

  Args:
    fleet: one proxy; must not be used again.
    world: its engine differentiates.
    batches: [1, S, B, T].
    number: of the observation; equal numbers show equal rows of the targets.
  """
  outer = _targets(fleet, world, number)
  weight = fleets.ones(batches)
  steps, rows = batches.tokens_BT.shape[1:3]
  cost = world.model.unroll_cost
  phi, _, unroll = world.model.engine.valued(fleet.phi, batches, weight, outer)
  fleet = fleet._replace(phi=phi, age=fleet.age + steps)
  fleet = fleet.charge(world, steps * rows, cost.inner_passes)
  fleet = fleet.charge(world, outer_rows(world), GRADIENT)
  assert world.view is not None
  domain = np.asarray(world.domain_N)[batches.document_BT]
  # Of a unit of density of all these tokens: the mean over them is the sum of the
  # derivatives. Padding has no weight.
  gain_K = np.bincount(
    domain.ravel(),
    (sharding.gather(unroll.value).astype(np.float64) * weight).ravel(),
    minlength=world.view.num_domains,
  )
  return fleet, gain_K / weight.size


def outer_rows(world: World) -> int:
  """Rows of all targets, in full batches, as often as they are differentiated."""
  assert world.view is not None
  rows = len(world.view.bits_T) * world.view.target_rows
  batches = -(-rows // world.rows)
  return batches * world.rows * world.model.unroll_cost.outer_gradients


def _targets(
  fleet: Fleet, world: World, number: int
) -> tuple[Batch, np.ndarray]:
  """Fresh rows of all targets as batches [1, C, B, T], and what tokens count."""
  assert world.view is not None
  seen = observe(
    world.view, world.model.engine, fleet.phi.params, number=number
  )
  batch, weight = gradients.weighted_targets(seen)

  def in_batches(x):
    rows = x.reshape(-1, x.shape[-1])
    # Devices share a batch: rows of weight zero fill the last one.
    missing = -len(rows) % world.rows
    padded = np.pad(rows, [(0, missing), (0, 0)])
    return padded.reshape(1, -1, world.rows, x.shape[-1])

  return Batch(*map(in_batches, batch)), in_batches(weight).astype(np.float32)
