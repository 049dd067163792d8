"""Perplexity: a band of the documents by their loss under a proxy."""

from typing import NamedTuple

import jax.numpy as jnp

from cmtree_jax import checks, shapes
from cmtree_jax.methods import subsets
from cmtree_jax.methods.base import (
  DocumentWeights,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)

BANDS = ("low", "mid", "high")


class State(NamedTuple):
  """What is known of the pool's documents so far."""

  loss_N: shapes.FloatN  # mean nats per token; NaN: not seen
  mass_N: shapes.FloatN
  max_weight: shapes.Scalar  # R


SMALL = Small()
PLANTED = Planted()


def make(*, share: float = 0.5, band: str = "mid") -> Method:
  r"""Keeps the documents whose loss lies in one band of the corpus's tokens.

  .. math:: u_i = \sum_{\ell_j < \ell_i} q_j + \tfrac12 q_i, \qquad
            \text{low: } u_i < s, \quad
            \text{mid: } |u_i - \tfrac12| < \tfrac s2, \quad
            \text{high: } u_i > 1 - s

  with the mean loss of each document under a proxy that was trained on the natural
  mixture and then held. Ties are broken by the documents' order.

  Departures: shares are of tokens, not of documents, since budgets are; the proxy is
  as small as the config's and has seen a part of the pool, where the paper trains
  a reference model of its own on other text.

  Cost:
    A proxy of `config.look.steps` steps, and one forward pass over pool and targets.

  Args:
    share: s, the share of the tokens that is kept.
    band: "low", "mid" or "high" losses.
  Returns:
    A Method that looks once; before it has seen all, the band is that of what it
    has seen.
  Raises:
    ValueError: for a share that is not in (0, 1], or an unknown band.
  References:
    Marion et al., `When Less is More <https://arxiv.org/abs/2309.04564>`_, 2023,
    section 3: the middle half was best of the three.
  """
  checks.one_of("band", band, BANDS)
  if not 0 < share <= 1:
    raise ValueError(f"share {share} must be above 0 and at most 1.")

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    return State(
      subsets.unseen(facts),
      jnp.zeros(facts.num_documents),
      jnp.float32(facts.max_weight),
    )

  def step(state: State, signals: Signals):
    return State(
      subsets.note(state.loss_N, signals, signals.loss_B),
      subsets.note(state.mass_N, signals, signals.mass_B),
      state.max_weight,
    ), None

  def finalize(state: State) -> DocumentWeights:
    order_N = jnp.argsort(state.loss_N, stable=True)  # NaN last
    q_N = state.mass_N[order_N] / jnp.maximum(jnp.sum(state.mass_N), 1e-30)
    sorted_N = jnp.cumsum(q_N) - q_N / 2
    u_N = jnp.zeros_like(sorted_N).at[order_N].set(sorted_N)
    kept_N = {
      "low": u_N < share,
      "mid": jnp.abs(u_N - 0.5) < share / 2,
      "high": u_N > 1 - share,
    }[band]
    kept_N &= jnp.isfinite(state.loss_N)
    return subsets.weigh_seen(kept_N, state.mass_N, max_weight=state.max_weight)

  return Method(
    init,
    step,
    finalize,
    frozenset({"mass_B", "index_B", "loss_B"}),
    "look",
    weighs="documents",
    targeted=False,
  )
