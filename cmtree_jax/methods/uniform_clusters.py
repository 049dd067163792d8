"""Uniform over clusters: the same number of tokens from each part."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.methods.base import DomainWeights, Facts, Method, Signals
from cmtree_jax.tree import mixture


class State(NamedTuple):
  """Corpus mass seen so far."""

  mass_K: shapes.FloatK
  max_weight: shapes.Scalar


def make() -> Method:
  r"""Each of K clusters gets 1/K of the tokens, up to the repetition cap.

  .. math:: w_k = \min(R,\, c / q_k), \qquad \sum_k q_k w_k = 1

  Returns:
    A Method that reads the mass and the cluster of every document in one pass.
  References:
    Stratified sampling; the baseline of Chen et al., `Aioli
    <https://arxiv.org/abs/2411.05735>`_, 2024.
  """

  def init(key, facts: Facts) -> State:
    del key
    return State(jnp.zeros(facts.num_clusters), jnp.float32(facts.max_weight))

  def step(state: State, signals: Signals):
    mass_K = state.mass_K.at[signals.cluster_B].add(signals.mass_B)
    return State(mass_K, state.max_weight), None

  def finalize(state: State) -> DomainWeights:
    log_q_K = log_share(state.mass_K)
    return DomainWeights(
      mixture.leaf_log_w(-log_q_K, log_q_K, max_weight=state.max_weight)
    )

  signals = frozenset({"mass_B", "cluster_B"})
  return Method(init, step, finalize, signals, "pass")


def log_share(mass_K: shapes.FloatK) -> shapes.FloatK:
  """Logarithm of the normalized masses; an empty cluster counts as 1e-9."""
  mass_K = jnp.maximum(mass_K, 1e-9)
  return jnp.log(mass_K / jnp.sum(mass_K))
