r"""The one primitive: a weighted gradient whose derivative costs one pass.

Given the cotangent u of the gradient, a single forward-over-reverse pass (a jvp
along u of phi -> (gradient, losses)) yields both the Hessian-vector product and
<grad loss_b, u>, the derivative with respect to every weight. Ordinary reverse
mode would differentiate the backward pass and keep all its activations.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from cmtree_jax import shapes

# Under this name the gradient is saved by checkpoint policies.
SAVED_NAME = "inner_gradient"


def weighted_gradient(
  losses: Callable[[shapes.Tree, shapes.Tree], shapes.Array],
  params: shapes.Tree,
  weight: shapes.Array,
  batch: shapes.Tree,
) -> tuple[shapes.Tree, shapes.Array]:
  r"""The gradient of :math:`\sum_b w_b \ell_b(\phi)` and the losses.

  With the cotangent u of the gradient, reverse mode gives

  .. math:: \bar\phi = \nabla^2 \Big(\sum_b w_b \ell_b\Big) u, \qquad
            \bar w_b = \langle \nabla \ell_b(\phi), u \rangle .

  Args:
    losses: (params, batch) -> losses of any shape; twice differentiable. It may
      close over nothing that is differentiated.
    params: phi, a pytree of float arrays.
    weight: the weights, of the shape of the losses.
    batch: data; no derivative is taken with respect to it.
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
  gradient, loss = _weighted_gradient(losses, params, weight, batch)
  return checkpoint_name(gradient, SAVED_NAME), jax.lax.stop_gradient(loss)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _weighted_gradient(losses, params, weight, batch):
  return _gradient_and_losses(losses, params, weight, batch)


def _gradient_and_losses(losses, params, weight, batch):
  loss, pullback = jax.vjp(lambda p: losses(p, batch), params)
  return pullback(weight.astype(loss.dtype))[0], loss


def _forward(losses, params, weight, batch):
  out = _gradient_and_losses(losses, params, weight, batch)
  return out, (params, weight, batch)


def _backward(losses, residual, cotangent):
  params, weight, batch = residual
  gradient_bar, _ = cotangent
  # The tangent is zero for everything but phi: only then is the tangent of the
  # losses the mixed term.
  _, (params_bar, weight_bar) = jax.jvp(
    lambda p: _gradient_and_losses(losses, p, weight, batch),
    (params,),
    (gradient_bar,),
  )
  return params_bar, weight_bar.astype(weight.dtype), _zero_like(batch)


def _zero_like(batch):
  def zero(x):
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jnp.floating):
      return jnp.zeros_like(x)
    return np.zeros(x.shape, jax.dtypes.float0)  # the cotangent of integers

  return jax.tree.map(zero, batch)


_weighted_gradient.defvjp(_forward, _backward)
