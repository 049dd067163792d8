"""BETR: documents that some example of the target ranks high, and those like them."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import log_odds
from cmtree_jax.methods import classifier, scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.selection import neighbors
from cmtree_jax.types import UserError

FEATURES = (*classifier.FEATURES, "ranks")
_HELD_OUT = 10  # every tenth document of the sample judges the classifier

SMALL = Small()
PLANTED = Planted(
  options={"positive": 0.25}, more=TARGET_FIRST, documents=TARGET_DOCUMENTS
)


def make(
  *,
  share: float = 0.1,
  positive: float = 0.1,
  features: str = "grams",
  documents: int = 16_384,
) -> Method:
  r"""Every example of a target ranks a sample of the pool; its best rank is a score.

  .. math:: S_j = \min_m \mathrm{rank}_m(j), \qquad
            \mathrm{rank}_m(j) = |\{i : \langle x_m, e_i \rangle >
            \langle x_m, e_j \rangle\}|

  for the examples m of a target and the documents j of the sample. So each example has
  its own nearest documents among the best, however few resemble most examples; the
  paper finds that better than mean ranks or centers of the examples. The best tenth
  of the sample are then told from its rest by a plain classifier, which scores the
  whole pool.

  Departures: every target has a ranking and a classifier of its own, and keeps its
  share, where the paper pools the examples of all benchmarks. The classifier is the
  logistic regression of `classifier`, where the paper has fastText; a tenth of the
  sample chooses its penalty. The sample is not a tenth of the pool, ten million at
  most, but so many documents. Equal ranks are told apart by ids. The paper's best
  share grows with compute, from 3 % below 1e21 FLOPs to 30 % beyond 1e23.

  Cost:
    Products of all examples with the sample and a sort of it for each example, and
    three fits for each target; no FLOPs of a model. 8 bytes for each document, and
    4 E more for each of the sample.

  Args:
    share: of the pool's tokens that each target keeps; more where documents may not
      be repeated so often.
    positive: of the sample's documents, those that the classifier is to find.
    features: what the classifier reads: "grams", logarithms of the counts of one and
      two words in a row, or "embedding"; "ranks": there is none, the sample is the
      whole pool.
    documents: of the sample, at most.
  Returns:
    A Method that reads the embedding of all documents, and the counts of words if a
    classifier reads them.
  Raises:
    ValueError: for an option that is out of its range, or a target without examples.
  References:
    Mizrahi et al., `Language Models Improve When Pretraining Data Matches Target Tasks
    <https://arxiv.org/abs/2507.12466>`_, 2025, section 3.
  """
  checks.one_of("features", features, FEATURES)
  checks.share(share=share, positive=positive)
  checks.above_zero(share=share, positive=positive)
  checks.at_least(4 * _HELD_OUT, documents=documents)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    size = len(pool.key_N) if features == "ranks" else documents
    sample = np.argsort(pool.key_N, kind="stable")[:size]
    sample_SE = np.asarray(pool.embedding_NE[sample])
    score_TN, strengths = [], []
    for number, train in enumerate(facts.train):
      rank_S = best_ranks(train, sample_SE, number)
      score_N, strength = -rank_S[np.argsort(sample)], np.nan
      if features != "ranks":
        score_N, strength = extend(
          pool, sample, rank_S, positive=positive, features=features
        )
      score_TN.append(score_N)
      strengths.append(strength)
    found = scoring.best(
      score_TN, pool, share=share, max_weight=facts.max_weight
    )
    return found if features == "ranks" else found.telling(strength=strengths)

  return scoring.method(init, features=frozenset({features} & {"grams"}))


def best_ranks(
  train: Documents, sample_SE: np.ndarray, number: int
) -> np.ndarray:
  """S: of the sample's documents, for the examples of one target.

  Args:
    train: the examples.
    sample_SE: features of the sample, in the order of ids.
    number: of the target, for the message.
  """
  if not len(train.key_N):
    raise ValueError(
      f"Target {number} has no documents for training that could rank the pool; "
      "give it some, or choose a method that needs no target."
    )
  return neighbors.best_rank(train.embedding_NE, sample_SE)


def extend(
  pool: Documents,
  sample: np.ndarray,
  rank_S: np.ndarray,
  *,
  positive: float,
  features: str,
) -> tuple[np.ndarray, float]:
  """(scores of all documents, strength) by a classifier of the sample's best.

  Args:
    pool: all documents.
    sample: numbers of the sample's, in the order of ids.
    rank_S: their best ranks.
    positive: share of the sample that is to be found.
    features: of `classifier.FEATURES`.
  Raises:
    UserError: the sample is too small to be told apart.
  """
  rows = classifier.ROWS[features]
  count = round(positive * len(sample))
  positive_S = np.zeros(len(sample), bool)
  positive_S[np.argsort(rank_S, kind="stable")[:count]] = True
  shown_S = np.arange(len(sample)) % _HELD_OUT == 0
  fitted_S = ~shown_S
  ends = [positive_S & fitted_S, ~positive_S & fitted_S]
  if not all(one.any() for one in ends):
    few = count < len(sample) / 2
    raise UserError(
      "A classifier wants documents that are near to the target and others, came "
      f"{count} near ones of {len(sample)}; {'raise' if few else 'lower'} "
      f"config.betr.positive = {positive}, or take config.betr.features = ranks."
    )
  best, rest = (rows(pool, sample[one]) for one in ends)
  held_out, sign_H = rows(pool, sample[shown_S]), np.where(positive_S, 1, -1)
  fits = []
  for strength in classifier.STRENGTHS:
    model = log_odds.logistic(best, rest, strength)
    f_H = model.decision_function(held_out)
    loss_H = np.logaddexp(0, -sign_H[shown_S] * f_H)
    # Both kinds count alike, as in the fit.
    kinds = [positive_S[shown_S], ~positive_S[shown_S]]
    loss = np.mean([loss_H[kind].mean() for kind in kinds if kind.any()])
    fits.append((loss, strength, model))
  _, strength, model = min(fits, key=lambda fit: fit[0])
  score_N = np.concatenate(
    [
      model.decision_function(rows(pool, part))
      for part in packing.chunks(len(pool.key_N), scoring.CHUNK)
    ]
  )
  return score_N, strength
