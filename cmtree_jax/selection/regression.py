"""A linear head on embeddings: it spreads what some documents score to all others."""

from typing import NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.types import UserError

# Penalties that are tried, in units of the mean variance of a feature; the most
# regular first, so that it wins among equals.
PENALTIES = tuple(10.0**power for power in range(2, -6, -1))
LEAST = 10  # scored documents; one in ten is held out
_HELD_OUT = 0.1
_CHUNK = 32_768  # documents that are read at a time; bounds memory


class Ridge(NamedTuple):
  """A fitted head, and how well it ranks documents that it was not fitted on."""

  slope_E: np.ndarray  # float64
  intercept: float
  penalty: float  # one of PENALTIES
  spearman: float  # rank correlation on the held-out documents

  def score(self, embedding_NE: np.ndarray) -> np.ndarray:
    """What the head says of documents, float64; they may lie on disk."""
    parts = packing.chunks(len(embedding_NE), _CHUNK)
    found = [
      np.asarray(embedding_NE[x], np.float64) @ self.slope_E for x in parts
    ]
    return np.concatenate([np.zeros(0), *found]) + self.intercept


def fit(
  embedding_ME: shapes.FloatNE,
  score_M: shapes.FloatN,
  key_M: np.ndarray,
  *,
  source: str,
) -> Ridge:
  r"""Ridge regression of scores on embeddings.

  .. math:: \min_{v, b} \frac1M \sum_i (y_i - v \cdot x_i - b)^2
            + \lambda \sigma^2 |v|^2

  with the mean variance of a feature, :math:`\sigma^2`, so that the scale of the
  embedding does not matter. The documents with the smallest keys, one in ten, choose
  :math:`\lambda` by their squared error; then all are fitted on.

  Cost:
    One pass over the scored documents and eight solutions of E x E equations; memory
    for a chunk of documents, for such matrices, and 8 E + 64 bytes for every
    document that is held out.

  Args:
    embedding_ME: x, of the scored documents; may lie on disk.
    score_M: y.
    key_M: a hash of every document's id: which are held out depends on no order.
    source: where the scores come from, the setting that a person can change.
  Raises:
    UserError: there are fewer than `LEAST` documents, all scores are equal, or one is
      not finite.

  >>> rng = np.random.default_rng(0)
  >>> x_ME = rng.normal(size=(200, 3))
  >>> y_M, key_M = x_ME @ [1.0, -2.0, 0.0] + 5, np.arange(200, dtype=np.uint64)
  >>> found = fit(x_ME, y_M, key_M, source="")
  >>> found.slope_E.round(2) + 0.0, round(found.intercept, 2), round(found.spearman, 2)
  (array([ 1., -2.,  0.]), 5.0, 1.0)
  """
  score_M = np.asarray(score_M, np.float64)
  _check(score_M, source)
  order_M = np.argsort(key_M, kind="stable")
  size = max(3, round(_HELD_OUT * len(order_M)))
  held, fitted = np.sort(order_M[:size]), np.sort(order_M[size:])
  known = _moments(embedding_ME, score_M, fitted)
  heads = [_solved(known, penalty) for penalty in PENALTIES]
  held_HE = np.asarray(embedding_ME[held], np.float64)
  said_PH = np.stack([held_HE @ slope_E + b for slope_E, b in heads])
  error_P = np.mean((said_PH - score_M[held]) ** 2, axis=1)
  best = int(np.argmin(error_P))
  every = known + _moments(embedding_ME, score_M, held)
  slope_E, intercept = _solved(every, PENALTIES[best])
  return Ridge(
    slope_E,
    intercept,
    PENALTIES[best],
    spearman(said_PH[best], score_M[held]),
  )


def standardized(score_M: shapes.FloatN, clip: float = np.inf) -> shapes.FloatN:
  """Z-scores, none beyond `clip`; equal scores stay as they are, for `fit` to tell.

  >>> standardized(np.array([0.0, 0.0, 0.0, 8.0]), 1.5).round(3)
  array([-0.577, -0.577, -0.577,  1.5  ])
  """
  score_M = np.asarray(score_M, np.float64)
  if not len(score_M) or np.ptp(score_M) == 0:
    return score_M
  z_M = (score_M - score_M.mean()) / score_M.std()
  return np.clip(z_M, -clip, clip)


def spearman(one_N: np.ndarray, other_N: np.ndarray) -> float:
  """Rank correlation, equal values sharing a rank; 0 where one has equal values only.

  >>> round(spearman(np.array([1, 2, 3, 3]), np.array([0, 10, 20, 20])), 6)
  1.0
  """
  import scipy.stats

  rank_2N = [scipy.stats.rankdata(x) for x in (one_N, other_N)]
  if min(np.ptp(rank_N) for rank_N in rank_2N) == 0:
    return 0.0
  return float(np.corrcoef(*rank_2N)[0, 1])


def _check(score_M: np.ndarray, source: str) -> None:
  if len(score_M) < LEAST:
    raise UserError(
      f"A head on embeddings wants at least {LEAST} scored documents, came "
      f"{len(score_M)} of {source}; score more."
    )
  bad = np.flatnonzero(~np.isfinite(score_M))
  if len(bad):
    raise UserError(
      f"A head on embeddings wants finite scores, came {score_M[bad[0]]} as number "
      f"{bad[0] + 1} of {len(score_M)} of {source}, and {len(bad)} such in all; leave "
      "them out."
    )
  if np.ptp(score_M) == 0:
    raise UserError(
      f"All {len(score_M)} scores of {source} are {score_M[0]:g}: nothing to fit a head "
      "to; score documents that differ."
    )


def _moments(x_ME, y_M: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Sums of the products of features, one and score: all that a fit needs."""
  total = 0.0
  for part in packing.chunks(len(rows), _CHUNK):
    x_BE = np.asarray(x_ME[rows[part]], np.float64)
    every = np.column_stack([x_BE, np.ones(len(x_BE)), y_M[rows[part]]])
    total = total + every.T @ every
  return np.asarray(total)


def _solved(moments: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
  """Slope and intercept."""
  means = moments / moments[-2, -2]
  mean_E, mean = means[:-2, -2], means[-1, -2]
  cov_EE = means[:-2, :-2] - np.outer(mean_E, mean_E)
  # The floor is for features that never vary: their variance is a rounding error.
  floor = 1e-12 * np.trace(means[:-2, :-2]) + np.finfo(np.float64).tiny
  scale = max(np.trace(cov_EE), floor) / len(mean_E)
  slope_E = np.linalg.solve(
    cov_EE + penalty * scale * np.eye(len(mean_E)),
    means[:-2, -1] - mean * mean_E,
  )
  return slope_E, float(mean - slope_E @ mean_E)
