"""Two published ways to divide a corpus before mixing: CLIMB's and R&B's.

Both stand on k-means on the unit sphere (`embed/kmeans.py`). CLIMB makes many fine
clusters and merges their centers; R&B tries several numbers of clusters and keeps
the one whose clusters are best apart. CLIMB also drops fine clusters whose mean
score by quality classifiers is low. That is left out: it needs a score of every
document, which a corpus here does not have, and a score made up from the embedding
would only repeat the clusters.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cmtree_jax.embed import kmeans
from cmtree_jax.shapes import FloatN, FloatNE, IntN
from cmtree_jax.types import UserError


class Regrouped(NamedTuple):
  """Fine clusters and the groups that they were merged into, heaviest first."""

  center_FE: Float[np.ndarray, "F E"]  # unit length, float32
  group_F: Int[np.ndarray, " F"]  # int32; groups are numbered by falling mass


def fit(
  embedding_NE: FloatNE,
  *,
  num_fine: int,
  num_groups: int,
  seed: int,
  mass_N: FloatN | None = None,
) -> Regrouped:
  r"""CLIMB's regrouping: fine k-means, then Ward's merging of the centers.

  .. math:: d^2(A, B) = \frac{2\, m_A m_B}{m_A + m_B}\, \| c_A - c_B \|^2

  Again and again the two groups of least d become one, whose center c is the mean
  of the fine centers weighted by mass m (in units of a fine cluster's mean mass).
  This d^2 is twice the rise of the weighted sum of squares, so merging continues
  what k-means minimizes. With equal masses d is that of
  `scipy.cluster.hierarchy.linkage(method="ward")`, which knows no masses and is
  what CLIMB's recipe calls; pass the centers of `kmeans.fit` to `merge` for that.

  Args:
    embedding_NE: rows of any length above zero.
    num_fine: F, fine clusters (the paper's are 1000).
    num_groups: groups that are left. (CLIMB's recipe stops at a distance of 1.5
      instead, which leaves a number of groups that depends on the corpus.)
    seed: chooses the starting centers of k-means.
    mass_N: what each row counts for; equal by default.
  References:
    Diao et al., `CLIMB <https://arxiv.org/abs/2504.13161>`_, 2025, section 3.
  """
  fine = kmeans.fit(
    embedding_NE, num_clusters=num_fine, seed=seed, mass_N=mass_N
  )
  group_F = merge(fine.center_LE, fine.mass_L, num_groups=num_groups)
  return Regrouped(fine.center_LE, group_F)


def assign(embedding_NE: FloatNE, regrouped: Regrouped) -> IntN:
  """The group of each row's nearest fine center, int32."""
  return regrouped.group_F[kmeans.assign(embedding_NE, regrouped.center_FE)]


def merge(
  center_FE: Float[np.ndarray, "F E"],
  mass_F: Float[np.ndarray, " F"] | None = None,
  *,
  num_groups: int,
) -> Int[np.ndarray, " F"]:
  """The group of each center by Ward's method; see `fit`.

  Args:
    center_FE: centers of the fine clusters.
    mass_F: mass of each fine cluster; equal by default, as in CLIMB's recipe.
    num_groups: as in `fit`.
  """
  fine = len(center_FE)
  if not 1 <= num_groups <= fine:
    raise UserError(
      f"Cannot merge {fine} fine clusters into {num_groups}; ask for 1 to {fine}."
    )
  mass_F = np.ones(fine) if mass_F is None else np.asarray(mass_F, np.float64)
  mass_G = np.maximum(mass_F / mass_F.mean(), 1e-12)
  center_GE = np.asarray(center_FE, np.float64).copy()
  group_F = np.arange(fine)
  gap_GG = (center_GE**2).sum(1)[:, None] + (center_GE**2).sum(1)
  gap_GG = np.maximum(gap_GG - 2 * center_GE @ center_GE.T, 0)
  gap_GG *= 2 * mass_G[:, None] * mass_G / (mass_G[:, None] + mass_G)
  np.fill_diagonal(gap_GG, np.inf)
  for _ in range(fine - num_groups):
    one, two = sorted(np.unravel_index(gap_GG.argmin(), gap_GG.shape))
    group_F[group_F == two] = one
    total = mass_G[one] + mass_G[two]
    center_GE[one] += (center_GE[two] - center_GE[one]) * mass_G[two] / total
    mass_G[one] = total
    square_G = ((center_GE - center_GE[one]) ** 2).sum(axis=1)
    new_G = 2 * mass_G * total / (mass_G + total) * square_G
    new_G[np.isinf(gap_GG[one])] = np.inf  # itself, and what is merged away
    gap_GG[one] = gap_GG[:, one] = new_G
    gap_GG[two] = gap_GG[:, two] = np.inf
  heaviest = np.argsort(-np.bincount(group_F, mass_F, fine), kind="stable")
  rank_G = np.empty(fine, np.int32)
  rank_G[heaviest] = np.arange(fine)
  return _dense(rank_G[group_F])


def choose_num_clusters(
  embedding_NE: FloatNE,
  candidates: Sequence[int],
  *,
  seed: int,
  mass_N: FloatN | None = None,
  sample: int = 5_000,
) -> int:
  """R&B's number of clusters: that of the best silhouette.

  Every number of clusters is fit to all rows and judged by the mean silhouette, by
  cosine, of one sample of them.

  Args:
    embedding_NE: rows of any length above zero.
    candidates: numbers to try, each above one; of equals the first is taken.
    seed: chooses the starting centers and the sample.
    mass_N: what each row counts for, also for its chance to be sampled; equal by
      default.
    sample: rows; the cost grows with its square.
  References:
    Ge et al., `R&B <https://arxiv.org/abs/2505.00358>`_, 2025.
  """
  import sklearn.metrics
  import threadpoolctl

  if not candidates or min(candidates) < 2:
    raise UserError(
      f"Numbers of clusters to choose from must be above 1, got {candidates}."
    )
  share_N = None if mass_N is None else np.asarray(mass_N, np.float64)
  if share_N is not None:
    share_N = share_N / share_N.sum()
    sample = min(sample, int(np.count_nonzero(share_N)))
  row_S = np.random.default_rng(seed).choice(
    len(embedding_NE),
    min(sample, len(embedding_NE)),
    replace=False,
    p=share_N,
  )
  score_C = []
  for num_clusters in candidates:
    found = kmeans.fit(
      embedding_NE, num_clusters=num_clusters, seed=seed, mass_N=mass_N
    )
    cluster_S = kmeans.assign(embedding_NE[row_S], found.center_LE)
    if not 1 < len(np.unique(cluster_S)) < len(row_S):
      score_C.append(-1.0)  # the silhouette is not defined
      continue
    with threadpoolctl.threadpool_limits(1):  # more would round differently
      score_C.append(
        sklearn.metrics.silhouette_score(
          embedding_NE[row_S], cluster_S, metric="cosine"
        )
      )
  return int(candidates[int(np.argmax(score_C))])


def _dense(label_F: np.ndarray) -> np.ndarray:
  """The same order without gaps."""
  return np.unique(label_F, return_inverse=True)[1].astype(np.int32)
