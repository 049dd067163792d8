"""GraNd: documents by how long an early model's gradients of their losses are."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)

KEEP = ("hard", "easy")

SMALL = Small(options={"seeds": 2, "longest": 128})
PLANTED = Planted(
  options={"seeds": 1},
  more=(("noise", "learnable"),),
  documents=(("shuffled", "plain"), ("rare", "plain"), ("plain", "copies")),
)


def make(
  *,
  share: float = 0.5,
  keep: str = "hard",
  seeds: int = 10,
  scaled: bool = True,
  longest: int = 2048,
) -> Method:
  r"""Keeps the documents that early proxies would move the furthest for.

  .. math:: s_i = \frac{\sqrt{|x_i|}}{M} \sum_{m=1}^{M}
            \Big\lVert \nabla_\phi \frac{1}{|x_i|} \sum_{\tau \in x_i}
            \ell_\tau(\phi_m) \Big\rVert_2

  over proxies that start from different parameters. What cannot be learned has long
  gradients too, so "hard" keeps noise; of text that is not clean keep what is "easy".

  Departures: the paper's examples have one label each. The mean of the gradients of
  n tokens is the shorter the more of them point in different directions, as
  :math:`1 / \sqrt n` where they are independent, so that short documents would come
  first; the factor :math:`\sqrt{|x_i|}` takes that out, `scaled=False` leaves it.
  Shares are of tokens. "Early" is what `config.look.steps` makes of it, never the
  parameters that a training begins with: there the score is the size of the input
  (Kirsch, 2023).

  Cost:
    `seeds` proxies of `config.look.steps` steps, and a gradient of each for every
    document of pool and targets, twice the time of the same documents' in a batch;
    4 bytes a document for each of them.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    keep: "hard" keeps the longest gradients, "easy" the shortest.
    seeds: M, proxies that the length is the mean of.
    scaled: whether lengths are multiplied by the root of the tokens.
    longest: tokens from the beginning of a document that its loss is of.
  Returns:
    A Method that reads the norms of the documents' gradients; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Paul et al., `Deep Learning on a Data Diet <https://arxiv.org/abs/2107.07075>`_,
    2021, definition 2.1; mansheej/data_diet at aee462e; Kirsch, `Does "Deep
    Learning on a Data Diet" reproduce? <https://arxiv.org/abs/2303.14753>`_, 2023.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.one_of("keep", keep, KEEP)
  checks.at_least(1, seeds=seeds, longest=longest)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    score_N = scores(pool, longest=longest if scaled else None)
    if keep == "easy":
      score_N = -score_N
    return scoring.top(score_N, pool, share=share, max_weight=facts.max_weight)

  return scoring.method(
    init,
    features=frozenset({"gradient_norm_ON"}),
    look=Look(seeds=seeds, longest=longest),
    targeted=False,
  )


def scores(pool: Documents, *, longest: int | None) -> np.ndarray:
  """s of every document, scaled by at most `longest` tokens; None: unscaled."""
  assert pool.gradient_norm_ON is not None
  score_N = pool.gradient_norm_ON.mean(axis=0, dtype=np.float64)
  if longest is None:
    return score_N
  return score_N * np.sqrt(np.minimum(pool.tokens_N, longest))
