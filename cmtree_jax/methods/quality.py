"""Quality: documents by a score that is learned from texts with labels."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.methods.reasons import because
from cmtree_jax.selection import regression
from cmtree_jax.types import UserError

SMALL = Small()
# It finds what the labels say, whatever that is: in the test, the target's texts.
PLANTED = Planted(documents=TARGET_DOCUMENTS)


def make(
  *,
  labels: str = "",
  threshold: float | None = None,
  share: float = 0.1,
) -> Method:
  r"""Keeps documents that a linear head on their embedding scores high.

  .. math:: s_i = v \cdot e_i + b, \qquad
            w_i \propto [\, s_i \ge \tau \,]

  The head is fitted to labelled texts, of the pool or not, by ridge regression with a
  penalty that held-out ones choose; see `selection/regression.py`. Who labels says
  what quality is: FineWeb-Edu asked a language model how much a page teaches, from 0
  to 5. Trust the head as far as it ranks the held-out texts, the history's Spearman.

  Departures: FineWeb-Edu's embedding is a neural encoder's and its head is trained by
  gradient descent, here the embedding is the corpus's own and the head exact. It
  rounds scores to whole numbers before it compares them with 3: 2.5 does so here.

  Cost:
    The labelled texts are embedded, then one product with every document; 8 bytes
    of memory a document. No FLOPs of a model.

  Args:
    labels: a file of labelled texts, a line such as {"text": "...", "score": 3} for
      each; ten at least, thousands to be useful.
    threshold: least score that is kept, on the labels' scale, 3 in FineWeb-Edu;
      None: the best of them are kept, by `share`.
    share: of the pool's tokens that is kept where no threshold is given; more where
      documents may not be repeated so often.
  Returns:
    A Method that needs no target.
  Raises:
    ValueError: for an option that is out of its range.
    UserError: labels that nothing can be learned from, or a threshold that no
      document reaches.
  References:
    Penedo et al., `The FineWeb Datasets <https://arxiv.org/abs/2406.17557>`_, 2024,
    section 4.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  if threshold is not None:
    checks.finite(threshold=threshold)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool, labelled = facts.pool, facts.labelled
    assert pool is not None
    if labelled is None:
      raise UserError(
        "quality has no labelled texts; name a file of them, config.quality.labels."
      )
    head = regression.fit(
      labelled.embedding_ME,
      labelled.score_M,
      labelled.key_M,
      source="config.quality.labels",
    )
    score_N = head.score(pool.embedding_NE)
    if threshold is None:
      found = scoring.top(
        score_N, pool, share=share, max_weight=facts.max_weight
      )
    else:
      _check_reached(score_N, threshold)
      found = scoring.chosen(
        score_N >= threshold,
        pool,
        max_weight=facts.max_weight,
        score_N=score_N,
      )
    why = because("by the labels it scores {score:.3g}", score=score_N)
    return (
      found._replace(score_N=score_N)
      .telling(
        labels=[len(labelled.score_M)],
        spearman=[head.spearman],
        penalty=[head.penalty],
      )
      .saying(why)
    )

  return scoring.method(init, targeted=False)._replace(labels=labels)


def _check_reached(score_N: np.ndarray, threshold: float) -> None:
  if score_N.max() < threshold:
    middle, top = np.quantile(score_N, [0.5, 1.0])
    raise UserError(
      f"No document reaches quality.threshold = {threshold:g}: the head scores half "
      f"of them below {middle:.3g} and none above {top:.3g}; lower it, or leave "
      "it out to keep a share."
    )
