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
    size: documents kept; those of one round are some thousands.
    decay: factor on the weight of older values per round.
    clip: standard deviations at which a centered value is clipped.
    shuffle: a control that must not gain: the values of a round are dealt out
      anew among its documents, at random.
  Raises:
    ValueError: a number out of its range.
  """

  size: int = 12_288
  decay: float = 0.7
  clip: float = 3.0
  shuffle: bool = False

  def __post_init__(self):
    # One document of each of four proxies (`split`).
    checks.at_least(4, size=self.size)
    checks.share(decay=self.decay)
    checks.above_zero(clip=self.clip)


class Round(NamedTuple):
  """The documents of one round, and what each was found to be worth."""

  features: shapes.Array  # [B, ...]: embeddings, or numbers of domains
  value_BT: shapes.Array  # fall of every target's loss per unit of weight
  proxy_B: shapes.Array  # int, which proxy says so
  mass_B: shapes.Array  # natural; zero for what does not count
  log_proposal_B: shapes.Array  # log density that they were drawn with


class Buffer(NamedTuple):
  """Documents of past rounds, newest first."""

  features: shapes.Array  # [R, ...]
  value_RT: shapes.Array  # centered for its proxy, in units of the outer loss
  proxy_R: shapes.Array  # int
  age_R: shapes.Array  # int, rounds since; 0: of the newest
  measured_R: shapes.Array  # the weight that a document had then
  weight_R: shapes.Array  # natural mass over proposal; 0 where empty


def empty(size: int, features: shapes.Array, *, targets: int) -> Buffer:
  """A buffer without documents, for features like those given."""
  nothing_R = jnp.zeros(size)
  return Buffer(
    features=jnp.zeros((size, *features.shape[1:]), features.dtype),
    value_RT=jnp.zeros((size, targets)),
    proxy_R=jnp.zeros(size, jnp.int32),
    age_R=jnp.zeros(size, jnp.int32),
    measured_R=nothing_R,
    weight_R=nothing_R,
  )


def remember(
  buffer: Buffer,
  new: Round,
  log_w_B: shapes.Array,
  options: Replay,
  *,
  proxies: int,
) -> Buffer:
  """The buffer with a round's values in front, centered and clipped.

  The baseline is the mean value under the weights that were trained on, for each
  proxy and target: what a proxy adds to all of its values is noise, and without it
  the gain of leaving the weights as they are is zero.

  Args:
    buffer: of the rounds before.
    new: the round.
    log_w_B: of its documents, before the round's step.
    options: decay and clip.
    proxies: how many there are.
  """
  weight_B = new.mass_B * jnp.exp(-new.log_proposal_B)
  current_B = weight_B * jnp.exp(log_w_B)
  own_BP = new.proxy_B[:, None] == jnp.arange(proxies)
  current_BP = own_BP * current_B[:, None]
  total_P = jnp.maximum(jnp.sum(current_BP, axis=0), 1e-30)
  baseline_PT = (current_BP.T @ new.value_BT) / total_P[:, None]
  value_BT = new.value_BT - own_BP @ baseline_PT
  # The spread of what is trained on: documents far from it have heavy tails.
  spread_T = jnp.sqrt(current_B @ value_BT**2 / jnp.sum(current_B))
  bound_T = options.clip * spread_T
  # A round weighs the same however many documents it brings, and so does each of
  # its proxies.
  weight_P = jnp.maximum(weight_B @ own_BP, 1e-30)
  joined = Buffer(
    features=new.features,
    value_RT=jnp.clip(value_BT, -bound_T, bound_T),
    proxy_R=jnp.asarray(new.proxy_B, jnp.int32),
    age_R=jnp.zeros(len(weight_B), jnp.int32),
    measured_R=jnp.exp(log_w_B),
    weight_R=weight_B / (own_BP @ weight_P) / proxies,
  )
  older = buffer._replace(
    age_R=buffer.age_R + 1, weight_R=options.decay * buffer.weight_R
  )
  size = len(buffer.weight_R)
  return jax.tree.map(
    lambda a, b: jnp.concatenate([a, b])[:size], joined, older
  )


def shuffled(new: Round, key: shapes.Key) -> Round:
  """The same values on other documents; what has no mass keeps its own."""
  real_B = new.mass_B > 0
  draw_B = jax.random.uniform(key, real_B.shape)
  from_B = jnp.argsort(jnp.where(real_B, draw_B, jnp.inf), stable=True)
  to_B = jnp.argsort(~real_B, stable=True)
  value_BT = jnp.asarray(new.value_BT)
  return new._replace(value_BT=value_BT.at[to_B].set(value_BT[from_B]))


def split(
  buffer: Buffer, number: shapes.Array
) -> tuple[shapes.Array, shapes.Array]:
  """(weights to fit with, weights to judge by) in round `number`, by proxies.

  Every second proxy is fitted to, in all rounds that are remembered, and the others
  judge by the newest round alone: in older ones they were fitted to themselves.
  Which half fits alternates. Documents of one proxy could not be held out: its
  noise is smooth over them, and what fits some of them fits the others.
  """
  judges_R = judges(buffer.proxy_R, number)
  fits_R, judges_R = ~judges_R, judges_R & (buffer.age_R == 0)
  return (
    jnp.where(fits_R, buffer.weight_R, 0.0),
    jnp.where(judges_R, buffer.weight_R, 0.0),
  )


def judges(proxy: shapes.Array, number: shapes.Array) -> shapes.Array:
  """Whether proxies of these numbers judge in round `number`: every second does."""
  return proxy % 2 != number % 2
