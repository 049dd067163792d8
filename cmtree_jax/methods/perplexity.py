"""Perplexity: a band of the documents by their loss under a proxy."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  MODELS,
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
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

  .. math:: u_i = \sum_{\ell_j < \ell_i} q_j + \tfrac12 q_i

  A share s of the tokens is kept: the lowest u, those nearest to one half, or the
  highest, with the mean loss of each document under a model that was trained and then
  held. Under one that knows the pool ("proxy", or the larger "teacher") the middle leaves
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
    share: s, the share of the tokens that is kept; more where documents may not be
      repeated so often.
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
    score_N = _places(pool, pool.loss_ON[-1])
    if band != "high":
      score_N = -score_N if band == "low" else -np.abs(score_N - 0.5)
    why = because(
      f"loss {{loss:.3f}}, outside of the band of {band} ones that is kept",
      loss=pool.loss_ON[-1],
    )
    return scoring.top(
      score_N, pool, share=share, max_weight=facts.max_weight
    ).saying(why)

  return scoring.method(
    init,
    features=frozenset({"loss_ON"}),
    look=Look(models=(model,)),
    targeted=model == "target",
  )


def _places(pool: Documents, loss_N: np.ndarray) -> np.ndarray:
  """u: the tokens of lower loss than each document's, and half of its own."""
  q_N = pool.tokens_N / pool.tokens_N.sum()
  order_N = np.lexsort((pool.key_N, loss_N))
  u_N = np.empty(len(order_N))
  u_N[order_N] = np.cumsum(q_N[order_N]) - q_N[order_N] / 2
  return u_N
