"""DataRater: a rater of documents learns by meta-gradients what lowers the loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  Conclusion,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.tree import mixture, replay

KINDS = ("hard", "accept")

SMALL = Small()
PLANTED = Planted(documents=(*TARGET_DOCUMENTS, ("plain", "random")))


class RatedWeights(NamedTuple):
  """Weights in proportion to the exponentials of ratings, as far as they may be."""

  eta_E: shapes.Array  # of the rater
  shift: shapes.Scalar  # minus the logarithm of the mean; and of the cap, R:
  log_most: shapes.Scalar

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The documents' ratings, scaled and capped."""
    rating_B = signals.embedding_BE @ self.eta_E
    return jnp.minimum(rating_B + self.shift, self.log_most)


class State(NamedTuple):
  """What the next round needs."""

  weights: RatedWeights
  moments_P: optax.OptState  # of Adam, for each proxy
  previous: tuple[RatedWeights, optax.OptState]  # both before the last step
  round: shapes.Scalar  # how many there were


class Info(NamedTuple):
  """What a person reads after a round; values in units of the outer loss."""

  rated_value: (
    shapes.Scalar
  )  # of the round's documents under the new ratings, and
  natural_value: shapes.Scalar  # under equal ones; means over proxies
  length: shapes.Scalar  # |eta|


def make(
  *,
  drop: float = 0.5,
  kind: str = "hard",
  batch: int = 32,
  rate: float = 0.03,
  meta_steps: int = 20,
  decay: float = 0.1,
) -> Method:
  r"""Learns a rater whose softmax weights make a batch lower the targets' loss most.

  .. math:: p_i(\eta) = \operatorname{softmax}_{i \in \mathrm{batch}}(r_\eta(x_i)),
            \qquad \nabla_\eta L = - \sum_i v_i\, \nabla_\eta p_i(\eta)

  where v is the value of a document, minus the derivative of the targets' loss after
  some steps of training by its weight: the meta-gradient goes through the steps and
  their optimizer. Each of the proxies' meta-gradients goes through an Adam of its own,
  and the mean of the updates is taken, of every second proxy in turn: the others judge
  the step. In the end documents are dropped by their
  ratings: the lowest of the whole pool, or as the filter of a batch would, which keeps
  K of B documents, with F the distribution of the ratings,

  .. math:: w_i \propto \sum_{s=0}^{K-1} \binom{B-1}{s}
            (1 - p)^s p^{B-1-s}, \qquad p = F(r_\eta(x_i))

  Departures: r is linear in the embedding, not a transformer. Values are measured
  anew a few times only, and between that the meta-gradient is followed through the
  softmax at fixed values, without the warm-up and the clipping of its norm; the batch
  is all that a proxy valued. While it learns,
  documents are drawn in proportion to :math:`e^r` and not weighed. The outer loss is
  that of the targets. Shares are of tokens; the paper's best `drop` was .1 for clean
  and .75 for mixed text.

  Cost:
    Per round, proxy and target, one hypergradient through `values.unroll` steps and
    `values.probe_rows` probed rows; `values.lookahead` steps twice of every second
    proxy. The rater itself is free.

  Args:
    drop: share of the pool's tokens that is dropped; less where documents may not be
      repeated so often.
    kind: "hard" drops the lowest ratings, "accept" is the filter of a batch.
    batch: B, "accept"; K is what `drop` leaves of it.
    rate: Adam's learning rate.
    meta_steps: steps of Adam in each round.
    decay: decoupled weight decay of the rater.
  Returns:
    A Method of the loop `values` that chooses documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Calian et al., `DataRater <https://arxiv.org/abs/2505.17895>`_, 2025, algorithm 1
    and section 3.
  """
  checks.one_of("kind", kind, KINDS)
  checks.share(drop=drop)
  checks.at_least(2, batch=batch)
  checks.at_least(1, meta_steps=meta_steps)
  checks.above_zero(rate=rate)
  checks.at_least(0, decay=decay)
  if drop == 1:
    raise ValueError("drop = 1 leaves nothing; it must be below 1.")
  optimizer = optax.adamw(rate, weight_decay=decay)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    eta_E = jnp.zeros(facts.sample_NE.shape[1])
    weights = RatedWeights(
      eta_E, jnp.zeros(()), jnp.log(jnp.float32(facts.max_weight))
    )
    moments = optimizer.init(eta_E)
    moments_P = jax.tree.map(
      lambda x: jnp.broadcast_to(x, (facts.num_proxies, *x.shape)), moments
    )
    return State(weights, moments_P, (weights, moments_P), jnp.int32(0))

  def step(state: State, signals: Signals) -> tuple[State, Info]:
    proxies = jax.tree.leaves(state.moments_P)[0].shape[0]
    value_B = signals.value_BT @ signals.target_weight_T
    log_q_PB = _log_q(signals, proxies)
    gain = jax.vmap(rated_value, in_axes=(None, None, None, 0))
    slopes = jax.vmap(jax.grad(rated_value), in_axes=(None, None, None, 0))
    fits_P = ~replay.judges(jnp.arange(proxies), state.round)

    def follow(carry, _):
      eta_E, moments_P = carry
      slope_PE = slopes(eta_E, signals.embedding_BE, value_B, log_q_PB)
      update_PE, new_P = jax.vmap(optimizer.update, in_axes=(0, 0, None))(
        -slope_PE, moments_P, eta_E
      )
      moments_P = jax.tree.map(
        lambda new, old: jnp.where(
          fits_P.reshape(-1, *[1] * (new.ndim - 1)), new, old
        ),
        new_P,
        moments_P,
      )
      return (eta_E + fits_P @ update_PE / fits_P.sum(), moments_P), None

    start = state.weights.eta_E, state.moments_P
    (eta_E, moments_P), _ = jax.lax.scan(follow, start, length=meta_steps)
    weights = _weights(eta_E, signals, state.weights.log_most)
    rated, natural = (
      jnp.mean(gain(one_E, signals.embedding_BE, value_B, log_q_PB))
      for one_E in (eta_E, jnp.zeros_like(eta_E))
    )
    before = state.weights, state.moments_P
    return State(weights, moments_P, before, state.round + 1), Info(
      rated, natural, jnp.linalg.norm(eta_E)
    )

  def conclude(
    state: State, key: shapes.Key, facts: Facts, value_N: np.ndarray
  ) -> Conclusion:
    del key, value_N
    pool = facts.pool
    assert pool is not None
    eta_E = np.asarray(state.weights.eta_E, np.float64)
    rating_N = np.concatenate(
      [
        np.asarray(pool.embedding_NE[rows], np.float64) @ eta_E
        for rows in packing.chunks(len(pool.key_N), scoring.CHUNK)
      ]
    )
    if np.ptp(rating_N) == 0:  # no step was kept: all are alike
      return scoring.chosen(
        np.ones(len(rating_N), bool), pool, max_weight=facts.max_weight
      ).conclusion
    if kind == "hard":
      return scoring.top(
        rating_N, pool, share=1 - drop, max_weight=facts.max_weight
      ).conclusion
    p_N = accepted(
      lower(rating_N, pool.tokens_N),
      batch=batch,
      kept=max(1, round((1 - drop) * batch)),
    )
    with np.errstate(divide="ignore"):
      return scoring.proportional(
        [np.log(p_N)], pool, num_targets=1, max_weight=facts.max_weight
      ).conclusion

  return Method(
    init,
    step,
    finalize=lambda state: state.weights,
    signals=frozenset(
      {
        *("mass_B", "embedding_BE", "value_BT", "proxy_B", "log_proposal_B"),
        *("target_weight_T", "sample_NE", "sample_mass_N"),
      }
    ),
    loop="values",
    undo=_undo,
    conclude=conclude,
    weighs="documents",
  )


def rated_value(
  eta_E: shapes.Array,
  x_BE: shapes.Array,
  value_B: shapes.Array,
  log_q_B: shapes.Array,
) -> shapes.Scalar:
  r"""The mean value of a batch under softmax weights, and so minus its outer loss.

  .. math:: \sum_i p_i v_i, \qquad p = \operatorname{softmax}(x \eta + \log q)

  Args:
    eta_E: the linear rater.
    x_BE: features of the documents.
    value_B: v, of one proxy.
    log_q_B: what a document stands for; minus infinity for one that is not in the
      batch.
  """
  p_B = jax.nn.softmax(x_BE @ eta_E + log_q_B)
  return jnp.sum(p_B * value_B)


def accepted(p_N: np.ndarray, *, batch: int, kept: int) -> np.ndarray:
  """Probabilities that a document is among the best of a batch.

  Args:
    p_N: share of all documents that are rated lower.
    batch: documents of a batch, itself among them.
    kept: how many of them are kept.

  >>> accepted(np.array([0.0, 0.5, 1.0]), batch=2, kept=1)
  array([0. , 0.5, 1. ])
  """
  import scipy.stats

  # Fewer than `kept` of the others are rated higher.
  return scipy.stats.binom.cdf(kept - 1, batch - 1, 1 - p_N)


def lower(rating_N: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
  """F: the share of the tokens that is rated lower; equal ones share theirs.

  >>> lower(np.array([3.0, 1.0, 1.0]), np.array([2, 1, 1]))
  array([0.75, 0.25, 0.25])
  """
  _, place_N = np.unique(rating_N, return_inverse=True)
  mass = np.bincount(place_N, tokens_N) / np.sum(tokens_N)
  return (np.cumsum(mass) - mass / 2)[place_N]


def _undo(state: State) -> State:
  weights, moments_P = state.previous
  return state._replace(weights=weights, moments_P=moments_P)


def _log_q(signals: Signals, proxies: int) -> shapes.Array:
  """What each document stands for in the batch of each proxy, [P, B]."""
  own_PB = signals.proxy_B == jnp.arange(proxies)[:, None]
  mass_B = jnp.asarray(signals.mass_B)
  log_q_B = jnp.log(jnp.maximum(mass_B, 1e-30)) - signals.log_proposal_B
  # A large number: what is no proxy's must give finite derivatives.
  return jnp.where(own_PB & (mass_B > 0), log_q_B, -1e9)


def _weights(
  eta_E: shapes.Array, signals: Signals, log_most: shapes.Scalar
) -> RatedWeights:
  """With the scale that the sample of the corpus asks for."""
  rating_N = signals.sample_NE @ eta_E
  log_w_N = mixture.leaf_log_w(
    rating_N,
    jnp.log(jnp.maximum(signals.sample_mass_N, 1e-30)),
    max_weight=jnp.exp(log_most),
  )
  # Those below the cap have it; the others less.
  return RatedWeights(eta_E, jnp.max(log_w_N - rating_N), log_most)
