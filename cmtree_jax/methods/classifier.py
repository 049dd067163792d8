"""Classifier: documents by how well a plain classifier takes them for the target's."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import log_odds
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.types import UserError

FEATURES = ("grams", "embedding")
KINDS = ("hard", "soft")
# Weight of one of the target's documents beside the penalty; the pool's weigh as
# much together as the target's.
STRENGTHS = (10.0, 100.0, 1000.0)

SMALL = Small()
PLANTED = Planted(more=TARGET_FIRST, documents=TARGET_DOCUMENTS)


def make(
  *,
  kind: str = "hard",
  share: float = 0.1,
  features: str = "grams",
  documents: int = 8192,
) -> Method:
  r"""Logistic regression of each target's documents against the pool's.

  .. math:: \min_v \tfrac12 |v|^2 + C \Big(
            \sum_{j \in \text{target}} \log(1 + e^{-f(x_j)})
            + \tfrac{n_t}{n} \sum_{i \in \text{pool}} \log(1 + e^{f(x_i)}) \Big),
            \qquad f(x) = v \cdot x + b

  f is the logarithm of the target's density over the pool's. It is fitted twice, each
  time without half of the pool, and scores the half that it was not fitted on: what a
  fit has seen as not the target's would rank behind what it has not seen. The loss of
  the target's held-out documents, and of the pool's, chooses C.

  Departures: DCLM trains fastText, with texts of its own choice as the positive ones,
  and keeps one tenth of the documents, not of the tokens.

  Cost:
    Six fits for each target by scikit-learn, two and a half seconds of one core for
    three targets and 20,000 documents; no FLOPs of a model.

  Args:
    kind: "hard" keeps each target's best documents, "soft" weighs all by e^f.
    share: of the pool's tokens that each target keeps, "hard"; more where documents
      may not be repeated so often.
    features: x, rows of length one: "grams", logarithms of the counts of one and two
      words in a row, or "embedding", for languages without blanks too.
    documents: most of each class that are fitted on.
  Returns:
    A Method that reads the counts of words, or the embedding, of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Li et al., `DataComp-LM <https://arxiv.org/abs/2406.11794>`_, 2024, section 4.4.
  """
  checks.one_of("kind", kind, KINDS)
  checks.one_of("features", features, FEATURES)
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(2, documents=documents)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    fits = [
      fit(pool, train, held_out, rows=ROWS[features], documents=documents)
      for train, held_out in zip(facts.train, facts.validation, strict=True)
    ]
    score_TN = (one.score(pool, ROWS[features]) for one in fits)
    if kind == "soft":
      found = scoring.proportional(
        score_TN, pool, num_targets=len(fits), max_weight=facts.max_weight
      )
    else:
      found = scoring.best(
        score_TN, pool, share=share, max_weight=facts.max_weight
      )
    return found.telling(
      strength=[one.strength for one in fits],
      held_out_loss=[one.loss for one in fits],
    )

  return scoring.method(init, features=frozenset({features} & {"grams"}))


Rows = Callable[[Documents, Any], Any]  # numbers of documents, or a slice -> x


class Fit(NamedTuple):
  """Two fits of one target, each of them for the half that it has not seen."""

  models: tuple[Any, Any]  # scikit-learn's
  middle: int  # between the halves, a key
  strength: float  # C
  loss: float  # held out, the mean of both classes

  def score(self, pool: Documents, rows: Rows) -> np.ndarray:
    """f of every document."""
    return np.concatenate(
      [
        np.where(
          pool.key_N[part] <= self.middle,
          *(_f(model, rows(pool, part)) for model in self.models),
        )
        for part in packing.chunks(len(pool.key_N), scoring.CHUNK)
      ]
    )


def fit(
  pool: Documents,
  train: Documents,
  held_out: Documents,
  *,
  rows: Rows,
  documents: int,
) -> Fit:
  """The best fits for one target; of equal ones the most regular.

  Raises:
    UserError: the pool has no two halves.
  """
  if len(pool.key_N) < 2:
    raise UserError(
      "A classifier that scores each half of the documents by the other wants at least "
      f"2, came {len(pool.key_N)}; give config.data.source more."
    )
  middle = middle_of(pool.key_N)
  halves = [
    rows(pool, _first(pool.key_N, half_N, documents // 2))
    for half_N in (pool.key_N <= middle, pool.key_N > middle)
  ]
  every_M = np.ones(len(train.key_N), bool)
  positive = rows(train, _first(train.key_N, every_M, documents))
  shown, strengths = [], STRENGTHS[1:2]  # without held-out ones none chooses
  if len(held_out.key_N):
    shown = [rows(held_out, slice(0, len(held_out.key_N)))]
    strengths = STRENGTHS
  found = []
  for strength in strengths:
    models, losses = [], []
    for own, other in zip(halves, reversed(halves), strict=True):
      models.append(log_odds.logistic(positive, other, strength))
      losses += [np.logaddexp(0, -_f(models[-1], x)).mean() for x in shown]
      losses.append(np.logaddexp(0, _f(models[-1], own)).mean())
    found.append(Fit(tuple(models), middle, strength, np.mean(losses)))
  return min(found, key=lambda one: one.loss)


def middle_of(key_N: np.ndarray) -> int:
  """The largest key of the first half."""
  half = (len(key_N) - 1) // 2
  return int(np.partition(key_N, half)[half])


def _first(key_N: np.ndarray, among_N: np.ndarray, most: int) -> np.ndarray:
  """Some documents, as good as random: those with the smallest keys."""
  number = np.flatnonzero(among_N)
  return np.sort(number[np.argsort(key_N[number], kind="stable")[:most]])


def _f(model: Any, x: Any) -> np.ndarray:
  return model.decision_function(x)


def word_rows(documents: Documents, which: Any) -> Any:
  """Logarithms of the counts of words of some documents, rows of length one."""
  assert documents.grams is not None
  return log_odds.unit_rows(documents.grams.rows(which))


def _embedding_rows(documents: Documents, which: Any) -> np.ndarray:
  return np.asarray(documents.embedding_NE[which])


ROWS: dict[str, Rows] = {"grams": word_rows, "embedding": _embedding_rows}
