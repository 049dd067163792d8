"""A mixture that a method changes while it trains a proxy, and the mean of all."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import Ask, DomainWeights, Facts, domain_weights


class Averaged(NamedTuple):
  """The mixture now and those before it."""

  mixture_K: shapes.Array  # that the proxy trains on; sums to one
  mean_K: shapes.Array  # of the mixtures that count
  count: shapes.Array  # int32, how many those are
  domain_mass_K: shapes.Array  # q
  max_weight: shapes.Array  # R

  @property
  def exists_K(self) -> shapes.Array:
    """Domains that have documents; the others never get a share."""
    return self.domain_mass_K > 0

  @property
  def uniform_K(self) -> shapes.Array:
    """Equal shares of the domains that exist."""
    return self.exists_K / jnp.sum(self.exists_K, dtype=jnp.float32)


def start(facts: Facts, *, count: int = 0) -> Averaged:
  """The uniform mixture of the domains that have documents.

  Args:
    facts: q and R.
    count: 1 if the mean is to count this mixture, else 0.
  """
  q_K = jnp.asarray(facts.domain_mass_K, jnp.float32)
  uniform_K = (q_K > 0) / jnp.sum(q_K > 0, dtype=jnp.float32)
  return Averaged(
    mixture_K=uniform_K,
    mean_K=uniform_K,
    count=jnp.int32(count),
    domain_mass_K=q_K,
    max_weight=jnp.float32(facts.max_weight),
  )


def move(before: Averaged, mixture_K: shapes.FloatK) -> Averaged:
  """The next mixture, counted in the mean."""
  count = before.count + 1
  mean_K = before.mean_K + (mixture_K - before.mean_K) / count
  return Averaged(
    mixture_K, mean_K, count, before.domain_mass_K, before.max_weight
  )


def multiply(
  mixture_K: shapes.FloatK, log_factor_K: shapes.FloatK
) -> shapes.FloatK:
  """The mixture times factors, normalized: a step of exponentiated gradient."""
  # A share of zero stays one, as that of a domain without documents.
  alive_K = mixture_K > 0
  log_K = jnp.log(jnp.where(alive_K, mixture_K, 1.0)) + log_factor_K
  return jax.nn.softmax(jnp.where(alive_K, log_K, -jnp.inf))


def ask(averaged: Averaged) -> Ask:
  """Trains on the mixture as it is."""
  return Ask(averaged.mixture_K)


def weights(averaged: Averaged, output: str) -> DomainWeights:
  """Of the mean or the last mixture, as far as documents may be repeated."""
  mixture_K = averaged.mean_K if output == "mean" else averaged.mixture_K
  return domain_weights(
    mixture_K, averaged.domain_mass_K, max_weight=averaged.max_weight
  )


def check(*, output: str, **positive: float) -> None:
  """Refuses what no method with such a mixture understands.

  Raises:
    ValueError: for an unknown output, or a number that is not above zero.
  """
  if output not in ("mean", "last"):
    raise ValueError(f"output {output!r} must be 'mean' or 'last'.")
  for name, value in positive.items():
    if not value > 0:
      raise ValueError(f"{name} {value} must be above 0.")
