"""Worst mixture: only what is least like the target, a negative control."""

import jax.numpy as jnp

from cmtree_jax.methods.base import (
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
  from_facts,
)

SMALL = Small()
PLANTED = Planted(nothing=("text", "copy"))


def make() -> Method:
  r"""Takes the mixture of least similarity to the target that the cap allows.

  .. math:: \min_w \sum_k q_k w_k \frac{P(k \mid \mathrm{target})}{q_k}
            \quad \text{with } 0 \le w_k \le R, \; \sum_k q_k w_k = 1

  Domains in the order of the ratio, the least similar first, get the weight R until
  the tokens are spent. An evaluation in which this is not worse than natural cannot
  tell mixtures apart.

  Returns:
    A Method that needs the histograms of corpus and targets alone.
  References:
    The control `make_worst_mix` of `Olmix <https://arxiv.org/abs/2602.12237>`_.
  """

  def weigh(facts: Facts) -> DomainWeights:
    q_K = jnp.asarray(facts.domain_mass_K, jnp.float32)
    target_K = jnp.mean(jnp.asarray(facts.target_domain_TK), axis=0)
    order_K = jnp.argsort(target_K / jnp.maximum(q_K, 1e-9), stable=True)
    most_K = jnp.minimum(q_K[order_K] * facts.max_weight, 1.0)
    before_K = jnp.cumsum(most_K) - most_K
    share_K = jnp.clip(1.0 - before_K, 0.0, most_K)
    p_K = jnp.zeros_like(q_K).at[order_K].set(share_K)
    ratio_K = p_K / jnp.maximum(q_K, 1e-9)  # a domain may be empty
    return DomainWeights(jnp.log(jnp.maximum(ratio_K, 1e-6)))

  return from_facts(weigh, targeted=True)
