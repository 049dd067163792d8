"""A change of weights is measured: proxies are cooled down on the old and the new."""

from typing import NamedTuple

import jax
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import values_plan
from cmtree_jax.loops.fleet import Fleet, World
from cmtree_jax.loops.values_plan import Plan


class Gain(NamedTuple):
  """Fall of the validation loss by a change, in bits per byte."""

  mean: float = 0.0
  error: float = 0.0  # standard error over the proxies that measured it

  @classmethod
  def of(cls, fall_P: np.ndarray) -> "Gain":
    """Of what two or more proxies measured."""
    error = fall_P.std(ddof=1) / np.sqrt(len(fall_P))
    return cls(float(fall_P.mean()), float(error))

  @property
  def is_harm(self) -> bool:
    """Whether the change is worse beyond the noise."""
    return self.mean + self.error < 0


def measure(
  world: World,
  plan: Plan,
  fleet: Fleet,
  seen: list[Subpool],
  weight_2N: tuple[np.ndarray, np.ndarray],
  judges: np.ndarray,
) -> tuple[Fleet, np.ndarray]:
  """(fleet with the cost, falls of the targets' losses [P, T] by a change of weights).

  Some proxies are cooled down on the old and on the new weights, with the same draws
  where the weights are equal, and go on from where they were. They are those that
  the change was not fitted to: of the others each would confirm its own noise.

  Args:
    world: proxies and what they draw from.
    plan: how much of everything.
    fleet: the proxies; they stay as they are.
    seen: what each sees of the pool.
    weight_2N: of the recipe before and after.
    judges: numbers of the proxies that measure.
  """
  phi = jax.tree.map(lambda x: x[judges], fleet.phi)
  losses = []
  for weight_N in weight_2N:
    drawn = [
      fleets.take(
        fleet,
        world,
        seen[member].weights(weight_N),
        plan.lookahead * world.rows,
        stream=int(member),
      )[1]
      for member in judges
    ]
    batches = fleets.by_member(drawn, world.rows)
    params = world.model.engine.cooled(phi, batches, fleets.ones(batches))
    losses.append(_validation_loss(world, params))
  assert world.validation is not None
  held_rows = world.validation[0].document_BT[..., 0].size
  for rows, passes in values_plan.judged(
    plan, world.rows, judges=len(judges), held_rows=held_rows
  ):
    fleet = fleet.charge(world, rows, passes)
  return fleet, losses[0] - losses[1]


def _validation_loss(world: World, params) -> np.ndarray:
  """Losses [P, T] of proxies on every target's validation rows, bits per byte."""
  assert world.validation is not None
  batches, weight_TCBT = world.validation
  nats_PCBT = sharding.gather(world.model.engine.losses(params, batches))
  return np.einsum(
    "pcbs,tcbs->pt", nats_PCBT.astype(np.float64), weight_TCBT.astype(float)
  )
