"""What the hypergradient estimators differentiate, and what an estimator is.

Weights do not depend on phi. So every estimator is two parts: theta to weights and
back, done once here for all inner steps together, and the derivative with respect
to the weights, which is what distinguishes estimators.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel.cost import UnrollCost


class InnerLoss(NamedTuple):
  """The inner objective of step t, `sum(weights_S[t] * losses(params, batch_t))`.

  Losses have any shape (one per document or per token) and each has its weight,
  so that one pass gives the derivative with respect to every weight.
  """

  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array]
  # (theta, all inner batches) -> weights of all steps, [S, shape of the losses]
  weights: Callable[[shapes.Tree, shapes.Tree], shapes.Array]


class Inner(NamedTuple):
  """phi: a proxy in training."""

  params: shapes.Tree
  opt_state: optax.OptState


# (params, outer batch) -> scalar
OuterLoss = Callable[[shapes.Tree, shapes.Tree], shapes.Scalar]


class Problem(NamedTuple):
  """The outer loss after training on the inner one, a function of theta.

  It holds functions beside arrays, so make it inside the function that is jitted.
  """

  outer_loss: OuterLoss
  inner_loss: InnerLoss
  theta: shapes.Tree  # enters through the weights
  phi: Inner  # the proxy before the first step
  inner_batches: shapes.Tree  # leading axes [S, B, ...]: steps, documents
  outer_batch: shapes.Tree  # documents on the leading axis


class Hypergradient(NamedTuple):
  """What an estimator hands back."""

  loss: shapes.Scalar  # the outer loss after the last inner step
  grad_theta: shapes.Tree  # its derivative with respect to theta
  phi_next: Inner  # the proxy after the inner steps
  adjoint: shapes.Tree  # sum over steps of d loss / d (inner gradient)
  inner_loss_S: shapes.Array  # losses of every step, as its weights


class Estimator(NamedTuple):
  """One way to a hypergradient, with what it takes."""

  # (problem, *, optimizer, mesh=None, **options) -> Hypergradient
  run: Callable[..., Hypergradient]
  # (number of inner steps, **the same options) -> UnrollCost; refuses what `run`
  # refuses, so a plan is checked before anything is compiled.
  cost: Callable[..., UnrollCost]
  stores: bool  # a trajectory, so that it takes a `policy` (see `memory`)
  follows: bool = False  # the outer loss along the path, where it is asked to
  reverse_only: bool = False  # it takes no tangent of the losses


# (weight_S, phi, inner batches, outer batch, axis) -> (loss, its derivative with
# respect to weight_S, phi_next, adjoint, inner losses); with an axis, on one device's
# documents.
Trajectory = Callable[
  ..., tuple[shapes.Scalar, shapes.Array, Inner, shapes.Tree, shapes.Array]
]


def init_inner(
  params: shapes.Tree, optimizer: optax.GradientTransformation
) -> Inner:
  """phi at the start of its training."""
  return Inner(params, optimizer.init(params))


def differentiate(
  trajectory: Trajectory, problem: Problem, *, mesh: Mesh | None
) -> Hypergradient:
  """A hypergradient from a derivative with respect to the weights.

  Args:
    trajectory: the derivative.
    problem: whose weights are taken of all steps at once.
    mesh: its axis `data` divides the documents of every batch, inner and outer
      (their numbers must be multiples of its size); the outer loss must then be
      a sum over documents. None: one device.
  """
  weight_S, pullback = jax.vjp(
    lambda theta: problem.inner_loss.weights(theta, problem.inner_batches),
    problem.theta,
  )
  if mesh is None:
    run = functools.partial(trajectory, axis=None)
  else:
    run = _over_documents(trajectory, mesh)
  loss, grad_weight_S, phi_next, adjoint, inner_loss_S = run(
    weight_S, problem.phi, problem.inner_batches, problem.outer_batch
  )
  return Hypergradient(
    loss, pullback(grad_weight_S)[0], phi_next, adjoint, inner_loss_S
  )


def _over_documents(trajectory, mesh):
  whole, steps = PartitionSpec(), PartitionSpec(None, sharding.DATA)
  return sharding.shard_map(
    functools.partial(trajectory, axis=sharding.DATA),
    mesh,
    axis=sharding.DATA,
    in_specs=(steps, whole, steps, PartitionSpec(sharding.DATA)),
    out_specs=(whole, steps, whole, whole, steps),
  )


def check_optimizer(optimizer: optax.GradientTransformation) -> None:
  """Refuses an optimizer without a derivative where a gradient is zero.

  Adam divides by the square root of a running mean of squares, which has no
  derivative at zero: one parameter whose gradient is exactly zero (the embedding
  of a token not seen yet) makes the whole hypergradient NaN. `eps_root`, added
  under the root, bounds that derivative by 1 / (2 sqrt(eps_root)); 1e-8 is safe
  for a proxy past its warm-up, 1e-6 for a fresh one.

  Raises:
    ValueError: the derivative is not finite.
  """
  # A second parameter is in use: clipping divides by the norm of all.
  params = {"unseen": jnp.zeros(()), "used": jnp.zeros(())}
  state = optimizer.init(params)

  def updated(gradient):
    gradients = {"unseen": gradient, "used": jnp.ones(())}
    # Twice, since a schedule may start at zero.
    _, after = optimizer.update(gradients, state, params)
    update: Any = optimizer.update(gradients, after, params)[0]
    return update["unseen"]

  slope = jax.grad(updated)(jnp.zeros(()))
  if not jnp.isfinite(slope):
    raise ValueError(
      "The inner optimizer has no derivative where a gradient is zero; Adam-like "
      "ones need eps_root above 0 (such as 1e-8)."
    )
