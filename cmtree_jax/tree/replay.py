"""Values of past rounds; evidence outlives the partition that it was found on."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import checks, shapes


@dataclasses.dataclass(frozen=True)
class Replay:
  """Which values a round learns from.

  Args:
    size: documents kept.
    decay: factor on the weight of older values per round.
    clip: standard deviations at which a centered value is clipped.
    shuffle: a control that must not gain: the values of a round are dealt out
      anew among its documents, at random.
  Raises:
    ValueError: a number out of its range.
  """

  size: int = 6144
  decay: float = 0.7
  clip: float = 3.0
  shuffle: bool = False

  def __post_init__(self):
    # The first is held out (`split`); one more is to learn from.
    checks.at_least(2, size=self.size)
    checks.share(decay=self.decay)
    checks.above_zero(clip=self.clip)


class Round(NamedTuple):
  """The documents of one round, and what each was found to be worth."""

  features: shapes.Array  # [B, ...]: embeddings, or numbers of domains
  value_B: shapes.Array  # fall of the outer loss per unit of weight
  mass_B: shapes.Array  # natural; zero for what does not count
  log_proposal_B: shapes.Array  # log density that they were drawn with


class Buffer(NamedTuple):
  """Documents of past rounds, newest first."""

  features: shapes.Array  # [R, ...]
  value_R: shapes.Array  # centered in its round, in units of the outer loss
  weight_R: shapes.Array  # natural mass over proposal; 0 where empty


def empty(size: int, features: shapes.Array) -> Buffer:
  """A buffer without documents, for features like those given."""
  nothing_R = jnp.zeros(size)
  shape = (size, *features.shape[1:])
  return Buffer(jnp.zeros(shape, features.dtype), nothing_R, nothing_R)


def remember(
  buffer: Buffer, new: Round, log_w_B: shapes.Array, options: Replay
) -> Buffer:
  """The buffer with a round's values in front, centered and clipped.

  The baseline is the mean value under the weights that were trained on; with it
  the gain of leaving the weights as they are is zero.

  Args:
    buffer: of the rounds before.
    new: the round.
    log_w_B: of its documents, before the round's step.
    options: decay and clip.
  """
  weight_B = new.mass_B * jnp.exp(-new.log_proposal_B)
  current_B = weight_B * jnp.exp(log_w_B)
  baseline = jnp.sum(current_B * new.value_B) / jnp.sum(current_B)
  value_B = new.value_B - baseline
  # The spread of what is trained on: documents far from it have heavy tails.
  spread = jnp.sqrt(jnp.sum(current_B * value_B**2) / jnp.sum(current_B))
  value_B = jnp.clip(value_B, -options.clip * spread, options.clip * spread)
  # A round weighs the same however many documents it brings.
  weight_B /= jnp.sum(weight_B)
  size = buffer.value_R.shape[0]

  def join(newer, older):
    return jnp.concatenate([newer, older])[:size]

  return Buffer(
    join(new.features, buffer.features),
    join(value_B, buffer.value_R),
    join(weight_B, options.decay * buffer.weight_R),
  )


def shuffled(new: Round, key: shapes.Key) -> Round:
  """The same values on other documents; what has no mass keeps its own."""
  real_B = new.mass_B > 0
  draw_B = jax.random.uniform(key, real_B.shape)
  from_B = jnp.argsort(jnp.where(real_B, draw_B, jnp.inf), stable=True)
  to_B = jnp.argsort(~real_B, stable=True)
  value_B = jnp.asarray(new.value_B)
  return new._replace(value_B=value_B.at[to_B].set(value_B[from_B]))


def split(weight_R: shapes.Array) -> tuple[shapes.Array, shapes.Array]:
  """A buffer's weights with every fifth document held out, and those of the fifth."""
  held_R = jnp.arange(weight_R.shape[0]) % 5 == 0
  return jnp.where(held_R, 0.0, weight_R), jnp.where(held_R, weight_R, 0.0)
