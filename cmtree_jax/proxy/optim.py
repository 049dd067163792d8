"""The optimizer of proxies and final models: AdamW that can be differentiated."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes

# Decay of Adam's moments, and what is added to the root of the second.
B1, B2, EPSILON = 0.9, 0.95, 1e-8


def adamw(
  learning_rate: float,
  *,
  warmup_steps: int,
  total_steps: int | None,
  weight_decay: float,
  eps_root: float,
) -> optax.GradientTransformation:
  """AdamW with clipping, a linear warm-up and, if it ends, a cosine decay.

  Args:
    learning_rate: peak.
    warmup_steps: steps from zero to the peak.
    total_steps: the rate falls to a tenth by then; None keeps it constant.
    weight_decay: decoupled, on every parameter.
    eps_root: added under the square root; above zero, since the square root has
      no derivative at zero. 1e-6 keeps derivatives through a fresh proxy exact
      to 1e-4 in float32.
  """
  rate = schedule(
    learning_rate, warmup_steps=warmup_steps, total_steps=total_steps
  )
  return optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      rate,
      b1=B1,
      b2=B2,
      eps=EPSILON,
      weight_decay=weight_decay,
      eps_root=eps_root,
    ),
  )


def schedule(
  learning_rate: float, *, warmup_steps: int, total_steps: int | None
) -> optax.Schedule:
  """The learning rate of every step; arguments as of `adamw`."""
  if total_steps is None:
    return optax.schedules.warmup_constant_schedule(
      0.0, learning_rate, warmup_steps
    )
  return optax.schedules.warmup_cosine_decay_schedule(
    0.0, learning_rate, warmup_steps, total_steps, 0.1 * learning_rate
  )


class CooldownState(NamedTuple):
  """An optimizer's state and the steps since the cooldown began."""

  inner: optax.OptState
  step: shapes.Scalar


def cooldown(
  optimizer: optax.GradientTransformation, num_steps: int
) -> optax.GradientTransformation:
  """The optimizer with its updates brought down linearly over `num_steps`.

  A proxy at a constant learning rate jitters about its path, and a derivative
  through a few such steps says how to undo the jitter. Cooled down, it says what
  the model would have learned: values of one document at three ages of a proxy
  correlate at .62 instead of .48.
  """

  def init(params):
    return start_cooldown(optimizer.init(params))

  def update(updates, state, params=None):
    updates, inner = optimizer.update(updates, state.inner, params)
    factor = 1.0 - state.step / num_steps
    scaled = jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)
    return scaled, CooldownState(inner, state.step + 1)

  return optax.GradientTransformation(init, update)


def start_cooldown(state: optax.OptState) -> CooldownState:
  """The state of `cooldown` at its first step, from that of its optimizer."""
  return CooldownState(state, jnp.zeros((), jnp.int32))
