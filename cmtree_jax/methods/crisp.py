"""CRISP: each domain gets the share that it has in the target."""

import jax.numpy as jnp

from cmtree_jax.methods.base import (
  TARGET_FIRST,
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
  domain_weights,
  from_facts,
)

SMALL = Small()
PLANTED = Planted(more=TARGET_FIRST)


def make(*, smoothing: float = 1e-3) -> Method:
  r"""Weighs each domain by how much denser the target is in it than the corpus.

  .. math:: w_k = \min\Big(R,\, c\,
            \frac{P(k \mid \mathrm{target})}{P(k \mid \mathrm{corpus})}\Big)

  Args:
    smoothing: share of the natural mixture that is mixed into the target's
      histogram, so that a domain without target documents keeps a little weight.
  Returns:
    A Method that needs the histograms of corpus and targets alone.
  Raises:
    ValueError: for a smoothing that is not from 0 to 1.
  References:
    Grangier et al., `Task-Adaptive Pretrained Language Models via
    Clustered-Importance Sampling <https://arxiv.org/abs/2410.03735>`_, 2024, eq. 3.
  """

  if not 0 <= smoothing <= 1:
    raise ValueError(f"smoothing {smoothing} must be from 0 to 1.")

  def weigh(facts: Facts) -> DomainWeights:
    q_K = jnp.asarray(facts.domain_mass_K, jnp.float32)
    target_K = jnp.mean(jnp.asarray(facts.target_domain_TK), axis=0)
    return domain_weights(
      (1 - smoothing) * target_K + smoothing * q_K,
      q_K,
      max_weight=facts.max_weight,
    )

  return from_facts(weigh, targeted=True)
