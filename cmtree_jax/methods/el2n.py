"""EL2N: documents by how far an early model's predictions are from their tokens."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import Facts, Look, Method, Planted, Small

# Measure -> where it is read from.
MEASURES = {"error": "error_ON", "margin": "margin_ON"}
KEEP = ("hard", "easy")

SMALL = Small(options={"seeds": 2})
PLANTED = Planted(
  options={"seeds": 1},
  more=(("noise", "learnable"),),
  documents=(
    ("random", "plain"),
    ("shuffled", "plain"),
    ("rare", "plain"),
    ("plain", "copies"),
  ),
)


def make(
  *,
  share: float = 0.5,
  keep: str = "hard",
  measure: str = "error",
  seeds: int = 10,
) -> Method:
  r"""Keeps the documents that proxies early in their training are most wrong about.

  .. math:: s_i = \frac{1}{M} \sum_{m=1}^{M} \frac{1}{|x_i|} \sum_{\tau \in x_i}
            \lVert p_m(\cdot \mid x_{<\tau}) - y_\tau \rVert_2

  the length of the error vector, the prediction less the one-hot token, mean over the
  tokens of a document and over proxies that start from different parameters. The
  margin, which the authors compare it with, is the largest probability of another
  token less that of the token itself.

  What cannot be learned has large errors too, so "hard" keeps noise: of text that is
  not clean (Marion et al., 2023, found the middle of the perplexities better), keep
  what is "easy".

  Departures: an error vector has as many entries as the vocabulary and one for each
  token, where the paper has one for each image; shares are of tokens. "Early" is
  what `config.look.steps` makes of it: short beside the training that the recipe is
  for.

  Cost:
    `seeds` proxies of `config.look.steps` steps, and a forward pass of each over
    the pool; 4 bytes a document for each of them, and 90 while they are ranked.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    keep: "hard" keeps the largest errors, "easy" the smallest.
    measure: "error" or "margin".
    seeds: M, proxies that the error is the mean of.
  Returns:
    A Method that reads the documents' errors; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Paul et al., `Deep Learning on a Data Diet <https://arxiv.org/abs/2107.07075>`_,
    2021, definition 2.2; mansheej/data_diet at aee462e.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.one_of("keep", keep, KEEP)
  checks.one_of("measure", measure, tuple(MEASURES))
  checks.at_least(1, seeds=seeds)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    value_ON = getattr(pool, MEASURES[measure])
    score_N = np.asarray(np.mean(value_ON, axis=0, dtype=np.float64))
    if keep == "easy":
      score_N = -score_N
    return scoring.top(score_N, pool, share=share, max_weight=facts.max_weight)

  return scoring.method(
    init,
    features=frozenset({MEASURES[measure]}),
    look=Look(seeds=seeds),
    targeted=False,
  )
