"""What methods share that score every document of the pool for each target."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget, shapes
from cmtree_jax.methods.base import (
  Documents,
  DocumentWeights,
  Facts,
  Method,
)

CHUNK = 32_768  # documents that are scored at a time; bounds memory

_LEAST = 1e-6  # weight of what is left out: a logarithm must be finite


class Weighed(NamedTuple):
  """The state of a method that scores documents."""

  log_w_N: shapes.FloatN  # float32; the corpus mean of the weights is one
  # What a person reads of each target: "tokens" of the pool that its own weights hold.
  told_T: dict[str, np.ndarray]

  @property
  def weights(self) -> DocumentWeights:
    """What the method hands over."""
    return DocumentWeights(self.log_w_N)

  @property
  def history(self) -> tuple[dict[str, Any], ...]:
    """One row for each target, in their order."""
    return tuple(
      {
        "target": t,
        **{name: float(x_T[t]) for name, x_T in self.told_T.items()},
      }
      for t in range(len(self.told_T["tokens"]))
    )

  def telling(self, **told_T: Sequence[Any]) -> "Weighed":
    """The same, with more to read of each target."""
    more = {name: np.asarray(x, np.float64) for name, x in told_T.items()}
    return Weighed(self.log_w_N, {**self.told_T, **more})


def method(
  weigh: Callable[[shapes.Key, Facts], Weighed], *, features: frozenset[str]
) -> Method:
  """A method of the loop `none` that weighs documents by their scores.

  Args:
    weigh: does its whole work.
    features: as in `Method`.
  """
  return Method(
    init=weigh,
    step=lambda state, signals: (state, None),
    finalize=lambda state: state.weights,
    signals=frozenset({"index_B"}),
    loop="none",
    features=features,
    history=lambda state: state.history,
    weighs="documents",
  )


def best(
  score_TN: Iterable[np.ndarray],
  pool: Documents,
  *,
  share: float,
  max_weight: float,
) -> Weighed:
  r"""Equal weights for the documents that some target ranks among its best.

  .. math:: u_i = \min_t \sum_{j \text{ before } i} q_j, \qquad
            w_i = 1 / m \text{ if } u_i < s, \qquad m = \sum_{u_i < s} q_i

  where a target's documents are in the order of their scores. Where a document may
  not be repeated 1 / m times, s grows until it may.

  Args:
    score_TN: for each target the scores of all documents.
    pool: the documents.
    share: s, of the pool's tokens.
    max_weight: R.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> found = best([np.array([3.0, 0.0, 2.0, 1.0])], pool, share=0.3, max_weight=4)
  >>> np.exp(found.log_w_N).round(4)
  array([2., 0., 2., 0.], dtype=float32)
  >>> found.history  # of the two documents
  ({'target': 0, 'tokens': 18.0},)
  """
  q_N = pool.tokens_N / pool.tokens_N.sum()
  before_TN = [
    _before(_order(score_N, pool.key_N), q_N) for score_N in score_TN
  ]
  u_N = np.min(before_TN, axis=0)
  # The last ones may make the rounded sum fall short of the whole: then all stay.
  order_N = _order(-u_N, pool.key_N)
  held_N = np.cumsum(q_N[order_N])
  enough = np.searchsorted(held_N, (1 - 1e-9) / max_weight)
  enough = min(enough, len(order_N) - 1)
  last = max(float(u_N[order_N[enough]]), np.nextafter(share, 0))
  kept_N = u_N <= last
  tokens_T = [pool.tokens_N[before_N <= last].sum() for before_N in before_TN]
  return _weighed(kept_N / q_N[kept_N].sum(), tokens_T)


def proportional(
  score_TN: Iterable[np.ndarray],
  pool: Documents,
  *,
  num_targets: int,
  max_weight: float,
) -> Weighed:
  r"""Weights that grow with the score, the mean over targets.

  .. math:: w_i = \min\Big(R,\, c \sum_t v_{ti}\Big), \qquad
            v_{ti} = \min(T R,\, c_t e^{s_{ti}}), \qquad \sum_i q_i v_{ti} = 1

  Each target gives as many tokens, however much of them the cap takes from its best
  documents; only what several targets want of one document goes to all others. The
  inner cap is T times the outer one, as a document that one target wants gets a T-th
  of what it gives it.

  Args:
    score_TN: for each target the scores of all documents, s.
    pool: the documents.
    num_targets: T.
    max_weight: R.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> score_N = np.log([6.0, 1.0, 1.0, 0.5])
  >>> found = proportional([score_N], pool, num_targets=1, max_weight=2)
  >>> np.exp(found.log_w_N).round(4)
  array([2. , 0.8, 0.8, 0.4], dtype=float32)
  """
  q_N = pool.tokens_N / pool.tokens_N.sum()
  total_N, tokens_T = np.zeros(len(q_N)), []
  for score_N in score_TN:
    v_N = budget.capped(
      np.exp(score_N - np.max(score_N)),
      q_N,
      max_weight=num_targets * max_weight,
    )
    total_N += v_N
    # As many tokens as equal weights would hold that are as uneven.
    tokens_T.append(pool.tokens_N.sum() / (q_N @ v_N**2))
  w_N = budget.capped(total_N, q_N, max_weight=max_weight)
  return _weighed(w_N, tokens_T)


def _order(score_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
  """Documents from the highest score to the lowest; equal ones by their ids."""
  return np.lexsort((key_N, -score_N))


def _before(order_N: np.ndarray, q_N: np.ndarray) -> np.ndarray:
  """The share of the tokens that stands before each document."""
  before_N = np.empty(len(order_N))
  before_N[order_N] = np.cumsum(q_N[order_N]) - q_N[order_N]
  return before_N


def _weighed(w_N: np.ndarray, tokens_T: Sequence[Any]) -> Weighed:
  log_w_N = np.log(np.maximum(w_N, _LEAST)).astype(np.float32)
  return Weighed(log_w_N, {}).telling(tokens=tokens_T)
