"""Perplexity: a band of the documents by their loss under a proxy."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  MODELS,
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.methods.reasons import because

BANDS = ("low", "mid", "high")

SMALL = Small()
PLANTED = Planted(
  options={"model": "target", "band": "low"},
  more=TARGET_FIRST,
  documents=TARGET_DOCUMENTS,
)


def make(
  *, share: float = 0.5, band: str = "mid", model: str = "proxy"
) -> Method:
  r"""Keeps the documents whose loss lies in one band of the corpus's tokens.

  .. math:: u_i = \sum_{\ell_j < \ell_i} q_j + \tfrac12 q_i, \qquad
            \text{low: } u_i < s, \quad
            \text{mid: } |u_i - \tfrac12| < \tfrac s2, \quad
            \text{high: } u_i > 1 - s

  with the mean loss of each document under a model that was trained and then held.
  Under one that knows the pool ("proxy", or the larger "teacher") the middle leaves
  out both what is repeated and what is noise. Under one that goes on with the targets'
  texts ("target") low losses are near to the targets, as CCNet's are to Wikipedia.
  Ties are broken by the documents' ids.

  Departures: shares are of tokens, not of documents, since budgets are; the proxy is
  as small as the config's and has seen a part of the pool, where the paper trains
  a reference model of its own on other text. CCNet's model has read its target alone.
  One model reads the texts of all targets, so several of them have one ranking.

  Cost:
    A model of `config.look.steps` steps, and one forward pass over pool and targets.
    4 bytes a document, and 90 while they are ranked.

  Args:
    share: s, the share of the tokens that is kept.
    band: "low", "mid" or "high" losses.
    model: "proxy", "teacher" or "target", whose losses they are.
  Returns:
    A Method that reads the documents' losses; it needs targets for "target" alone.
  Raises:
    ValueError: for a share that is not in (0, 1], an unknown band or model.
  References:
    Marion et al., `When Less is More <https://arxiv.org/abs/2309.04564>`_, 2023,
    section 3: the middle half was best of the three. Wenzek et al., `CCNet
    <https://arxiv.org/abs/1911.00359>`_, 2020.
  """
  checks.one_of("band", band, BANDS)
  checks.one_of("model", model, MODELS)
  if not 0 < share <= 1:
    raise ValueError(f"share {share} must be above 0 and at most 1.")

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    assert pool.loss_ON is not None
    q_N = pool.tokens_N / pool.tokens_N.sum()
    order_N = np.lexsort((pool.key_N, pool.loss_ON[-1]))
    u_N = np.empty(len(order_N))
    u_N[order_N] = np.cumsum(q_N[order_N]) - q_N[order_N] / 2
    score_N = {"low": -u_N, "mid": -np.abs(u_N - 0.5), "high": u_N}[band]
    kept_N = {
      "low": u_N < share,
      "mid": np.abs(u_N - 0.5) < share / 2,
      "high": u_N > 1 - share,
    }[band]
    # A document may be longer than the band; then the nearest stands for it.
    kept_N[np.lexsort((pool.key_N, -score_N))[0]] = True
    why = because(
      f"loss {{loss:.3f}}, outside of the {band} {share:.0%} of the tokens",
      loss=pool.loss_ON[-1],
    )
    return scoring.chosen(
      kept_N, pool, max_weight=facts.max_weight, score_N=score_N
    ).saying(why)

  return scoring.method(
    init,
    features=frozenset({"loss_ON"}),
    look=Look(models=(model,)),
    targeted=model == "target",
  )
