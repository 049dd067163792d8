"""What a candidate for theta is measured on in a round, and what it would do."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree import mixture, model
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.replay import Buffer


class Leaves(NamedTuple):
  """How theta is read: as leaves that documents fall into, and their tilts."""

  # (theta, features, temperature, key) -> log_p_BL, where documents fall. Without a
  # key there is no noise, and the temperature is not read.
  log_p: Callable[..., shapes.FloatBL]
  # theta -> tilt_L, the leaves' log-weights before they are scaled and capped.
  tilt: Callable[..., shapes.FloatL]
  # theta -> how much alike the levels cut, which a step may be charged for.
  overlap: Callable[..., shapes.Scalar]


class Evidence(NamedTuple):
  """A sample of the corpus and the replayed documents, weighed before the step."""

  corpus: Sample
  before_N: shapes.Array  # log-weights of the sample's documents
  replay: Buffer
  before_R: shapes.Array  # log-weights of the replayed documents
  temperature: shapes.Scalar  # of noisy leaves
  max_weight: shapes.Scalar
  horizon: shapes.Scalar  # final training steps per step of a value's unroll


class Measure(NamedTuple):
  """What a theta would do."""

  gain: shapes.Scalar  # predicted fall of the outer loss at the end of training
  kl_step: shapes.Scalar  # nats from the weights before the step
  kl_natural: shapes.Scalar  # nats from the natural mixture
  effective_sample_size: shapes.Scalar


def with_fewer(evidence: Evidence, size: int, key: shapes.Key) -> Evidence:
  """With at most `size` of the corpus sample, drawn alike, with their masses."""
  corpus = evidence.corpus
  number = corpus.mass_N.shape[0]
  if number <= size:
    return evidence
  chosen = jax.random.choice(key, number, (size,), replace=False)
  mass_N = corpus.mass_N[chosen]
  return evidence._replace(
    corpus=Sample(corpus.features[chosen], mass_N / jnp.sum(mass_N)),
    before_N=evidence.before_N[chosen],
  )


def measure(
  theta: shapes.Tree,
  evidence: Evidence,
  weight_R: shapes.Array,
  leaves: Leaves,
  *,
  key: shapes.Key | None = None,
  hard: bool = False,
) -> Measure:
  """Gain and divergences of a theta's weights.

  The step's divergence is the mean of two estimates, from the corpus sample and
  from all valued documents. The second keeps a tree from carving out single
  documents that happened to be valued highly, which the sample would not see.

  Args:
    theta: the candidate.
    evidence: of the round.
    weight_R: what each replayed document counts for in the gain.
    leaves: of theta.
    key: draws noise in where documents fall; None: none.
    hard: straight-through leaves of the corpus sample.
  """
  corpus, buffer = evidence.corpus, evidence.replay
  keys = (None, None) if key is None else tuple(jax.random.split(key))
  temperature = evidence.temperature
  log_p_NL = leaves.log_p(theta, corpus.features, temperature, keys[0])
  if hard:
    log_p_NL = jnp.log(model.straight_through(log_p_NL) + 1e-9)
  log_w_L = mixture.weigh(
    leaves.tilt(theta),
    log_p_NL,
    corpus.mass_N,
    max_weight=evidence.max_weight,
  )
  log_w_N = mixture.document_log_w(log_p_NL, log_w_L)
  log_p_RL = leaves.log_p(theta, buffer.features, temperature, keys[1])
  log_w_R = mixture.document_log_w(log_p_RL, log_w_L)
  weight_R = weight_R / jnp.sum(weight_R)
  all_R = buffer.weight_R / jnp.sum(buffer.weight_R)
  natural_N = jnp.zeros_like(log_w_N)
  kl_corpus = mixture.kl_divergence(log_w_N, evidence.before_N, corpus.mass_N)
  kl_replay = mixture.kl_divergence(log_w_R, evidence.before_R, all_R)
  gain = jnp.sum(weight_R * buffer.value_R * jnp.exp(log_w_R))
  return Measure(
    gain=evidence.horizon * gain,
    kl_step=(kl_corpus + kl_replay) / 2,
    kl_natural=mixture.kl_divergence(log_w_N, natural_N, corpus.mass_N),
    effective_sample_size=mixture.effective_sample_size(log_w_N, corpus.mass_N),
  )
