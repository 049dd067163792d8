"""CRISP: train on each cluster as often as the target falls into it."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import DomainWeights, Facts, Method, Signals
from cmtree_jax.methods.uniform_clusters import log_share
from cmtree_jax.tree import mixture


class State(NamedTuple):
  """Masses seen so far."""

  mass_K: shapes.FloatK  # of the corpus
  target_mass_K: shapes.FloatK  # of the targets, each counting the same
  max_weight: shapes.Scalar


def make(*, smoothing: float = 1e-3) -> Method:
  r"""Importance weights of the clusters by similarity to the target.

  .. math:: w_k = \min\Big(R,\, c\,
            \frac{P(k \mid \mathrm{target})}{P(k \mid \mathrm{corpus})}\Big)

  Args:
    smoothing: natural mixture mixed into the target's histogram, so that a
      cluster without target documents keeps a little weight.
  Returns:
    A Method that reads mass, target mass and cluster in one pass over pool and
    target documents.
  References:
    Grangier et al., `Task-Adaptive Pretrained Language Models via
    Clustered-Importance Sampling <https://arxiv.org/abs/2410.03735>`_, 2024, eq. 3.
  """

  def init(key, facts: Facts) -> State:
    del key
    zeros_K = jnp.zeros(facts.num_clusters)
    return State(zeros_K, zeros_K, jnp.float32(facts.max_weight))

  def step(state: State, signals: Signals):
    cluster_B = signals.cluster_B
    return State(
      state.mass_K.at[cluster_B].add(signals.mass_B),
      state.target_mass_K.at[cluster_B].add(signals.target_mass_B),
      state.max_weight,
    ), None

  def finalize(state: State) -> DomainWeights:
    log_q_K = log_share(state.mass_K)
    target_K = state.target_mass_K / jnp.maximum(
      jnp.sum(state.target_mass_K), 1e-9
    )
    ratio_K = (1 - smoothing) * target_K / jnp.exp(log_q_K) + smoothing
    return DomainWeights(
      mixture.leaf_log_w(jnp.log(ratio_K), log_q_K, max_weight=state.max_weight)
    )

  signals = frozenset({"mass_B", "target_mass_B", "cluster_B"})
  return Method(init, step, finalize, signals, "pass")
