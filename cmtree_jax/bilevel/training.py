"""Ordinary training on weighted losses: the inner steps, without a derivative."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.bilevel.weighted_gradient import Curvature, weighted_gradient

Losses = Callable[[shapes.Tree, shapes.Tree], shapes.Array]


def train(
  losses: Losses,
  weight_S: shapes.Array,
  phi: Inner,
  inner_batches: shapes.Tree,
  *,
  optimizer: optax.GradientTransformation,
  mesh: Mesh | None = None,
) -> tuple[Inner, shapes.Array]:
  """All inner steps: (phi after them, losses of every step).

  Args:
    losses: (params, batch) -> losses of any shape.
    weight_S: of the losses, [S, B, ...].
    phi: the proxy.
    inner_batches: leading axes [S, B, ...].
    optimizer: the inner one.
    mesh: its axis `data` divides the documents; None: one device.
  """

  def steps(weight_S, phi, inner_batches, axis):
    def step(phi, xs):
      return inner_step(
        losses, xs[0], phi, xs[1], optimizer=optimizer, axis=axis
      )

    return jax.lax.scan(step, phi, (weight_S, inner_batches))

  if mesh is None:
    return steps(weight_S, phi, inner_batches, None)
  whole, documents = PartitionSpec(), PartitionSpec(None, sharding.DATA)
  return sharding.shard_map(
    lambda weight_S, phi, batches: steps(weight_S, phi, batches, sharding.DATA),
    mesh,
    axis=sharding.DATA,
    in_specs=(documents, whole, documents),
    out_specs=(whole, documents),
  )(weight_S, phi, inner_batches)


def inner_step(
  losses: Losses,
  weight: shapes.Array,
  phi: Inner,
  batch: shapes.Tree,
  *,
  optimizer: optax.GradientTransformation,
  offset: shapes.Tree | None = None,
  curvature: Curvature = "exact",
  axis: str | None = None,
) -> tuple[Inner, shapes.Array]:
  """One step of ordinary training on weighted losses: (phi, losses).

  Args:
    losses: (params, batch) -> losses of any shape.
    weight: of the losses.
    phi: the proxy.
    batch: one inner batch.
    optimizer: the inner optimizer.
    offset: added to the gradient; zeros, there to be differentiated.
    curvature: see `weighted_gradient`.
    axis: mesh axis that divides the documents, inside its shard_map.
  """
  gradient, loss = weighted_gradient(
    losses,
    phi.params,
    weight,
    batch,
    curvature=curvature,
    axis=axis,
  )
  if offset is not None:
    gradient = jax.tree.map(jnp.add, gradient, offset)
  update, opt_state = optimizer.update(gradient, phi.opt_state, phi.params)
  params = optax.apply_updates(phi.params, update)
  return Inner(params, opt_state), loss
