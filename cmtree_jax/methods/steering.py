"""Shared by methods that steer the mixture of one proxy while it trains.

Their clock counts observations: a run has a number of them, and so has every phase.
In their papers most of these methods steer the training that they are for. Here all
hand over one static recipe, the mean of the mixtures on the way, so that all are
compared by one kind of final training. And their papers repeat a domain as often as
its share asks for; here a mixture is brought below the cap R q_k as soon as it is
recommended, and so the proxy trains on what a recipe may ask for, except where it
is trained on one domain to measure what that does.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import (
  Ask,
  DomainWeights,
  Facts,
  Signals,
  domain_weights,
)

EVALUATE = ("targets", "domains")
OUTPUT = ("mean", "last")


class Course(NamedTuple):
  """The clock of a run, its domains, and the mixtures recommended so far."""

  time: shapes.Array  # int, observations before this one
  length: shapes.Array  # int, observations in the whole run
  domain_mass_K: shapes.FloatK  # q
  max_weight: shapes.Scalar  # R
  mixture_K: shapes.FloatK  # recommended now; sums to one
  total_K: shapes.FloatK  # sum of the recommended mixtures that count

  @property
  def present_K(self) -> shapes.Array:
    """Which domains hold documents; the others are never asked for."""
    return self.domain_mass_K > 0

  @property
  def num_present(self) -> shapes.Array:
    """How many domains hold documents."""
    return jnp.sum(self.present_K, dtype=jnp.int32)

  @property
  def uniform_K(self) -> shapes.FloatK:
    """Equal shares of the domains that hold documents."""
    return jnp.asarray(self.present_K, self.domain_mass_K.dtype) / jnp.sum(
      self.present_K
    )

  def then(
    self, mixture_K: shapes.FloatK, counts: shapes.Array | bool = True
  ) -> "Course":
    """One observation later, with the mixture that is recommended now, capped."""
    mixture_K = self.capped(mixture_K)
    return self._replace(
      time=self.time + 1,
      mixture_K=mixture_K,
      total_K=jnp.where(counts, self.total_K + mixture_K, self.total_K),
    )

  def capped(self, mixture_K: shapes.FloatK) -> shapes.FloatK:
    """The mixture below the cap: the excess goes to the others in proportion.

    Of multiplicative updates this is the projection that belongs to them.
    """
    q_K = self.domain_mass_K
    weights = domain_weights(mixture_K, q_K, max_weight=self.max_weight)
    below_K = q_K * jnp.exp(weights.log_w_K)
    # What obeys the cap stays as it is, to the last bit; up to its rounding.
    is_above = jnp.any(mixture_K > self.max_weight * q_K * (1 + 1e-5))
    return jnp.where(is_above, below_K / jnp.sum(below_K), mixture_K)

  def recipe(self, output: str) -> DomainWeights:
    """Weights of the mean of the mixtures that count, or of the last mixture."""
    mixture_K = self.mixture_K
    if output == "mean":  # up to its scale, which weights do not have
      is_any = jnp.sum(self.total_K) > 0
      mixture_K = jnp.where(is_any, self.total_K, mixture_K)
    return domain_weights(
      mixture_K, self.domain_mass_K, max_weight=self.max_weight
    )


def start(facts: Facts, every: int = 1, *, uniform: bool = False) -> Course:
  """The course before the first observation.

  Args:
    facts: gives q, R and the steps of the run.
    every: training steps per observation.
    uniform: recommends equal shares of the domains that hold documents, not the
      natural ones.
  """
  q_K = jnp.asarray(facts.domain_mass_K, float)
  q_K = q_K / jnp.sum(q_K)
  course = Course(
    time=jnp.int32(0),
    length=jnp.int32(facts.steps // every),
    domain_mass_K=q_K,
    max_weight=jnp.asarray(facts.max_weight, float),
    mixture_K=q_K,
    total_K=jnp.zeros_like(q_K),
  )
  if not uniform:
    return course
  return course._replace(mixture_K=course.capped(course.uniform_K))


def multiply(
  share_K: shapes.Array, log_factor_K: shapes.FloatK
) -> shapes.FloatK:
  """Shares of any scale times factors, normalized; a share of zero stays zero."""
  return jax.nn.softmax(jnp.log(share_K) + log_factor_K)


def asking(
  mixture_K: shapes.FloatK,
  *,
  target_share: shapes.Array | float = 0.0,
  mark: shapes.Array | bool = False,
  back: shapes.Array | bool = False,
  fresh: shapes.Array | bool = False,
  valued: shapes.Array | bool = False,
) -> Ask:
  """An Ask of arrays, so that it can be kept in a state."""
  return Ask(
    mixture_K,
    jnp.asarray(target_share, float),
    jnp.asarray(mark),
    jnp.asarray(back),
    jnp.asarray(fresh),
    jnp.asarray(valued),
  )


def evaluation(signals: Signals, course: Course, evaluate: str) -> shapes.Array:
  """Losses of the targets (bits per byte) or of the domains (nats per token).

  A domain without documents has no loss; one stands in its place.
  """
  if evaluate == "targets":
    return jnp.asarray(signals.target_loss_T, float)
  loss_K = jnp.asarray(signals.loss_K, float)
  return jnp.where(course.present_K, loss_K, 1.0)


def evaluation_signals(evaluate: str) -> frozenset[str]:
  """The signals that `evaluation` reads, for a method to declare."""
  loss = "target_loss_T" if evaluate == "targets" else "loss_K"
  return frozenset({loss, "domain_B"})


def evaluation_size(facts: Facts, evaluate: str) -> int:
  """How many losses `evaluation` gives."""
  return facts.num_targets if evaluate == "targets" else facts.num_domains
