"""PDS: documents whose value along a training a head on the embedding predicts."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  Conclusion,
  EqualWeights,
  Facts,
  Method,
  Planted,
  Signals,
  Small,
)
from cmtree_jax.selection import regression

SMALL = Small()
PLANTED = Planted(options={"temperature": 0.01}, documents=TARGET_DOCUMENTS)


class Info(NamedTuple):
  """What a person reads after a round."""

  mean_value: shapes.Scalar  # of the round's documents, mean over targets
  deviation: shapes.Scalar  # its standard deviation over documents


def make(
  *,
  share: float = 0.4,
  temperature: float = 0.1,
  clip: float = 3.0,
  area: bool = True,
) -> Method:
  r"""Keeps documents that are predicted to lower the targets' loss along a training.

  .. math:: Q_i = \sum_t \langle \lambda_{t+1}, \nabla \ell_i(\phi_t) \rangle, \qquad
            s_i = f(x_i) / \tau + G_i

  The co-states :math:`\lambda` solve the backward equation of Pontryagin's principle.
  Q is exactly minus the derivative of the area under the targets' loss by a document's
  weight, and so is the value that the loop measures, by the hypergradient through an
  unroll. A head f on the embedding is fitted to the z-scores of Q, clipped at
  :math:`\pm 3`, and predicts that of all documents. The Gumbel noise G makes the first
  of the ranking a sample without replacement in proportion to :math:`e^{f / \tau}`.

  As in the authors' code, and not in the paper's algorithm, the weights never move
  while documents are valued, and are not projected. What is spelled or labelled wrong
  has long gradients and may have a large Q.

  Departures: the unrolls are a few steps of AdamW, cooled down, from proxies of
  several ages, where the paper takes 100 steps of SGD from one; documents of the unroll
  and others are valued where it begins. f is a ridge regression on the embedding, not a
  language model. Shares are of tokens.

  Cost:
    Per round, proxy and target, one hypergradient through `values.unroll` steps, with
    a gradient of the targets' loss at each of them, and `values.probe_rows` probed
    rows; no change of the weights is measured. One solution of E x E equations.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    temperature: :math:`\tau`.
    clip: largest z-score, on either side.
    area: whether the targets' loss counts after every step of an unroll, or at its
      end alone.
  Returns:
    A Method of the loop `values` that chooses documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Gu et al., `Data Selection via Optimal Control
    <https://arxiv.org/abs/2410.07064>`_, 2024, eqs. 5 to 8 and section 2.3;
    microsoft/LMOps at 4f2a9de, data_selection.
  """
  checks.share(share=share)
  checks.above_zero(share=share, temperature=temperature, clip=clip)

  def conclude(
    state: Any, key: shapes.Key, facts: Facts, value_N: np.ndarray
  ) -> Conclusion:
    del state
    pool = facts.pool
    assert pool is not None
    valued = np.flatnonzero(np.isfinite(value_N))
    head = regression.fit(
      np.asarray(pool.embedding_NE[valued]),
      regression.standardized(value_N[valued], clip),
      pool.key_N[valued],
      source="config.values.rounds and config.values.probe_rows",
    )
    score_N = head.score(pool.embedding_NE) / temperature
    score_N = score_N + scoring.gumbel(pool.key_N, key)
    found = scoring.top(score_N, pool, share=share, max_weight=facts.max_weight)
    return found.telling(
      valued=[len(valued)], spearman=[head.spearman]
    ).conclusion

  return Method(
    init=lambda key, facts: jnp.zeros((), jnp.int32),  # rounds
    step=_step,
    finalize=lambda state: EqualWeights(),
    signals=frozenset({"mass_B", "value_BT", "target_weight_T"}),
    loop="values",
    conclude=conclude,
    along_path=area,
    weighs="documents",
  )


def _step(state: shapes.Array, signals: Signals) -> tuple[Any, Info]:
  """The loop keeps the values; here they are only told."""
  value_B = signals.value_BT @ signals.target_weight_T
  share_B = signals.mass_B / jnp.maximum(jnp.sum(signals.mass_B), 1e-9)
  mean = jnp.sum(share_B * value_B)
  spread = jnp.sum(share_B * (value_B - mean) ** 2)
  return state + 1, Info(mean, jnp.sqrt(spread))
