"""Temperature: the domains' shares of the corpus, flattened by a power."""

import jax.numpy as jnp

from cmtree_jax import checks
from cmtree_jax.methods.base import (
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
  domain_weights,
  from_facts,
)

SMALL = Small()
PLANTED = Planted()


def make(*, temperature: float = 2.0) -> Method:
  r"""Mixes between natural and uniform over domains.

  .. math:: p_k \propto q_k^{1 / \tau}

  Args:
    temperature: :math:`\tau`; one is natural, infinity is uniform.
  Returns:
    A Method that needs the domains' masses alone.
  Raises:
    ValueError: for a temperature that is not above zero.
  References:
    Conneau et al., `Unsupervised Cross-lingual Representation Learning at Scale
    <https://arxiv.org/abs/1911.02116>`_, 2020, section 3.1.
  """
  checks.above_zero(temperature=temperature)

  def weigh(facts: Facts) -> DomainWeights:
    q_K = jnp.asarray(facts.domain_mass_K, jnp.float32)
    # A domain without documents stays without, also at infinite temperature.
    share_K = jnp.where(q_K > 0, q_K ** (1 / temperature), 0.0)
    return domain_weights(share_K, q_K, max_weight=facts.max_weight)

  return from_facts(weigh)
