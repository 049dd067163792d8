"""Small laws fitted from many starts at once; the best one is kept."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes


class Fit(NamedTuple):
  """What a fit found."""

  params: shapes.Tree  # where the best start ended
  loss: shapes.Scalar  # the loss there; infinite if no start has a finite loss
  params_S: shapes.Tree  # where each start ended
  loss_S: shapes.Array  # the losses there; infinite where not finite


def fit(
  loss: Callable[[shapes.Tree], shapes.Scalar],
  starts: shapes.Tree,
  *,
  num_steps: int = 100,
) -> Fit:
  """Minimizes a smooth loss by L-BFGS from many starts.

  All starts run side by side for a fixed number of steps, each with a line search
  that obeys the strong Wolfe conditions, so the whole can be compiled and vmapped.
  A start that reaches a loss that is not finite stays where it was before; one that
  begins there is out of the choice.

  Args:
    loss: reads a pytree of parameters; any data is closed over.
    starts: parameters with a leading axis of starts.
    num_steps: L-BFGS steps from each start.
  Returns:
    The end of the start that ended lowest, and those of all starts.

  >>> loss = lambda x: (x**2 - 4) ** 2 + x
  >>> best = fit(loss, jnp.array([jnp.nan, 3.0, -3.0]), num_steps=20)
  >>> round(float(best.params), 2)
  -2.03
  """
  optimizer = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(loss)

  def step(carry, _):
    params, state = carry
    value, grad = value_and_grad(params, state=state)
    updates, next_state = optimizer.update(
      grad, state, params, value=value, grad=grad, value_fn=loss
    )
    next_params = optax.apply_updates(params, updates)
    # False for NaN too, so a start that leaves the finite stays where it was.
    falls = optax.tree.get(next_state, "value") <= value
    chosen = jax.tree.map(
      lambda new, old: jnp.where(falls, new, old),
      (next_params, next_state),
      carry,
    )
    return chosen, None

  def descend(params):
    carry = (params, optimizer.init(params))
    (params, _), _ = jax.lax.scan(step, carry, length=num_steps)
    return params, loss(params)

  starts = jax.tree.map(jnp.asarray, starts)
  params_S, loss_S = jax.vmap(descend)(starts)
  loss_S = jnp.where(jnp.isfinite(loss_S), loss_S, jnp.inf)
  best = jnp.argmin(loss_S)
  return Fit(
    jax.tree.map(lambda x: x[best], params_S), loss_S[best], params_S, loss_S
  )
