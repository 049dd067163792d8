r"""The one primitive: a weighted gradient whose derivative costs one pass.

Given the cotangent u of the gradient, a single forward-over-reverse pass (a jvp
along u of phi -> (gradient, losses)) yields both the Hessian-vector product and
<grad loss_b, u>, the derivative with respect to every weight. Ordinary reverse
mode would differentiate the backward pass and keep all its activations.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.ad_checkpoint import checkpoint_name

from cmtree_jax import shapes

# Under this name the gradient (and what the derivative by a difference needs
# beside it) is saved by checkpoint policies.
SAVED_NAME = "inner_gradient"

Curvature = Literal["exact", "difference", "none"]


@dataclasses.dataclass(frozen=True)
class InTurns:
  """Losses whose gradient takes the documents of a batch part by part.

  A gradient keeps what the forward pass computed; here of one part at a time, and
  nothing is computed twice: the weights are known, so that each part's gradient is
  taken right where its losses are.
  """

  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array]
  # batch -> into how many parts of as many documents; 1: as it is
  parts: Callable[[shapes.Tree], int]

  def __call__(self, params: shapes.Tree, batch: shapes.Tree) -> shapes.Array:
    """The losses, all at once."""
    return self.losses(params, batch)


# Relative step of the one-sided difference. Its error grows with the step, that of
# rounding with its inverse; in float32 they meet between 5e-5 and 3e-4.
RELATIVE_STEP = 1e-4


def weighted_gradient(
  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array],
  params: shapes.Tree,
  weight: shapes.Array,
  batch: shapes.Tree,
  *,
  curvature: Curvature = "exact",
  axis: str | None = None,
) -> tuple[shapes.Tree, shapes.Array]:
  r"""The gradient of :math:`\sum_b w_b \ell_b(\phi)` and the losses.

  With the cotangent u of the gradient, reverse mode gives

  .. math:: \bar\phi = \nabla^2 \Big(\sum_b w_b \ell_b\Big) u, \qquad
            \bar w_b = \langle \nabla \ell_b(\phi), u \rangle .

  Args:
    losses: (params, batch) -> losses of any shape; twice differentiable (once,
      unless curvature is exact). It may close over nothing that is
      differentiated.
    params: phi, a pytree of float arrays.
    weight: the weights, of the shape of the losses.
    batch: data; no derivative is taken with respect to it.
    curvature: how both derivatives are found. `exact`: by one jvp of the
      gradient, 8/9 of reverse-over-reverse. `difference`: by one more gradient,
      at phi + h u with :math:`h = 10^{-4} \|\phi\| / \|u\|`; relative error
      some 3e-3 in float32 from a warm proxy, useless in bfloat16. `none`:
      :math:`\bar\phi = 0`, weights exact, by the tangent of a forward pass.
    axis: manual mesh axis that divides the documents; the gradient is summed
      over it once, and so is :math:`\bar\phi`.
  Returns:
    (gradient like `params`, losses). The losses are for looking at: no
    derivative flows through them.
  References:
    Kemaev et al., `Scalable Meta-Learning via Mixed-Mode Differentiation
    <https://arxiv.org/abs/2505.00793>`_, 2025, section 3.

  >>> square = lambda p, batch: (p - batch) ** 2 / 2
  >>> f = lambda w: weighted_gradient(square, 1.0, w, jnp.array([0.0, 3.0]))[0]
  >>> print(f(jnp.array([1.0, 2.0])), jax.grad(f)(jnp.array([1.0, 2.0])))
  -3.0 [ 1. -2.]
  """
  gradient, loss = _weighted_gradient(
    losses, curvature, axis, params, weight, batch
  )
  return gradient, jax.lax.stop_gradient(loss)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _weighted_gradient(losses, curvature, axis, params, weight, batch):
  del curvature
  gradient, loss = gradient_here(losses, params, weight, batch)
  return sum_over(gradient, axis), loss


def gradient_here(
  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array],
  params: shapes.Tree,
  weight: shapes.Array,
  batch: shapes.Tree,
) -> tuple[shapes.Tree, shapes.Array]:
  """(gradient of the weighted losses of this device's documents, the losses)."""
  parts = losses.parts(batch) if isinstance(losses, InTurns) else 1
  if parts > 1:
    return _in_turns(losses, params, weight, batch, parts)
  loss, pullback = jax.vjp(lambda p: losses(p, batch), params)
  return pullback(weight.astype(loss.dtype))[0], loss


def _in_turns(losses, params, weight, batch, parts):
  def add(total, part):
    gradient, loss = gradient_here(losses.losses, params, *part)
    return jax.tree.map(jnp.add, total, gradient), loss

  split = jax.tree.map(
    lambda x: x.reshape(parts, -1, *x.shape[1:]), (weight, batch)
  )
  zeros = jax.tree.map(jnp.zeros_like, params)
  gradient, loss = jax.lax.scan(add, zeros, split)
  return gradient, loss.reshape(-1, *loss.shape[2:])


def sum_over(tree: shapes.Tree, axis: str | None) -> shapes.Tree:
  """The sum over a manual mesh axis, one all-reduce for the whole tree."""
  return tree if axis is None else jax.lax.psum(tree, axis)


def _forward(losses, curvature, axis, params, weight, batch):
  gradient, loss = gradient_here(losses, params, weight, batch)
  gradient = checkpoint_name(sum_over(gradient, axis), SAVED_NAME)
  residual = params, weight, batch
  if curvature == "difference":
    residual += (gradient, checkpoint_name(loss, SAVED_NAME))
  return (gradient, loss), residual


def _backward(losses, curvature, axis, residual, cotangent):
  params, weight, batch, *at_params = residual
  gradient_bar, _ = cotangent
  # The tangent is zero for everything but phi: only then is the tangent of the
  # losses the mixed term.
  if curvature == "exact":
    params_bar, weight_bar = _directional(
      losses, params, weight, batch, gradient_bar
    )
    params_bar = sum_over(params_bar, axis)
  elif curvature == "difference":
    step = _difference_step(params, gradient_bar)
    moved = jax.tree.map(
      lambda p, u: p + (step * u).astype(p.dtype), params, gradient_bar
    )
    gradient, loss = gradient_here(losses, moved, weight, batch)
    params_bar, weight_bar = jax.tree.map(
      lambda there, here: (there - here) / step.astype(here.dtype),
      (sum_over(gradient, axis), loss),
      tuple(at_params),
    )
  else:
    _, weight_bar = jax.jvp(
      lambda p: losses(p, batch), (params,), (gradient_bar,)
    )
    params_bar = jax.tree.map(jnp.zeros_like, params)
  return params_bar, weight_bar.astype(weight.dtype), zero_like(batch)


def hessian_product(
  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array],
  params: shapes.Tree,
  weight: shapes.Array,
  batch: shapes.Tree,
  direction: shapes.Tree,
  *,
  axis: str | None,
) -> shapes.Tree:
  """The Hessian of the weighted losses times a direction; as in the derivative."""
  curved, _ = _directional(losses, params, weight, batch, direction)
  return sum_over(curved, axis)


def _directional(losses, params, weight, batch, direction):
  """Derivatives of (gradient, losses) along a direction in phi."""
  _, found = jax.jvp(
    lambda p: gradient_here(losses, p, weight, batch), (params,), (direction,)
  )
  return found


def _difference_step(params, direction):
  size = optax.tree.norm(direction)
  return (
    RELATIVE_STEP * optax.tree.norm(params) / jnp.where(size > 0, size, 1.0)
  )


def zero_like(batch: shapes.Tree) -> shapes.Tree:
  """The cotangent of data: zeros."""

  def zero(x):
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)  # the cotangent of integers

  return jax.tree.map(zero, batch)


_weighted_gradient.defvjp(_forward, _backward)
