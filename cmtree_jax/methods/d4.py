"""D4: near duplicates are left out, then what is typical of new clusters."""

import functools
from collections.abc import Callable

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import (
  clustered,
  reasons,
  scoring,
  semdedup,
  ssl_prototypes,
)
from cmtree_jax.methods.base import Documents, Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.selection import duplicates, kmeans
from cmtree_jax.selection.kmeans import Clusters

SMALL = Small()
# What repeats itself is seen less. What cannot be learned repeats nothing, and stays.
PLANTED = Planted(
  more=(("noise", "target"), ("noise", "other")),
  documents=(("plain", "copies"),),
  once=("exact", "near"),
)


def make(
  *,
  share: float = 0.25,
  dedup_share: float = 0.75,
  clusters: int = 0,
) -> Method:
  r"""SemDeDup, k-means of what is left, and SSL prototypes of that.

  .. math:: R = R_\text{dedup} \cdot R_\text{proto}

  Duplicates make clusters of their own, whose centers say nothing of the corpus: they
  are left out first, and what is left is clustered anew. Of these documents the ones
  that are farthest from their centers stay. Each step is the method of that name,
  `semdedup` with a share and `ssl_prototypes` without a balance.

  Departures: shares are of tokens, not of documents. There is no public code. k-means
  has as many clusters as the square root of the documents, where the paper has 11,000.

  Cost:
    k-means twice, and products of all pairs of features within a cluster; no training.
    40 bytes for each document.

  Args:
    share: R, of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    dedup_share: :math:`R_\text{dedup}`, that the first step leaves.
    clusters: how many are made each time; 0: the square root of the documents.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Tirumala et al., `D4 <https://arxiv.org/abs/2308.12284>`_, 2023, section 3.4.
  """
  checks.share(share=share, dedup_share=dedup_share)
  checks.above_zero(share=share)
  checks.at_least(0, clusters=clusters)
  if share > dedup_share:
    raise ValueError(
      f"share = {share} of the tokens cannot be kept of the dedup_share = "
      f"{dedup_share} that is left of them; lower the first or raise the second."
    )

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool, seed = facts.pool, clustered.seed_of(key)
    assert pool is not None
    score_N, why = scores(
      pool,
      functools.partial(kmeans.cluster, num_clusters=clusters, seed=seed),
      dedup_share=dedup_share,
    )
    weighed = scoring.top(
      score_N, pool, share=share, max_weight=facts.max_weight
    )
    return weighed.saying(why)

  return scoring.method(init, targeted=False)


def scores(
  pool: Documents,
  cluster: Callable[..., Clusters],
  *,
  dedup_share: float,
) -> tuple[np.ndarray, Reasons]:
  """The ranking of all documents, and why each stands where it does.

  First those that stay in the first step, the least typical ahead; then the others,
  the least alike ahead.

  Args:
    pool: the documents.
    cluster: (embeddings, keys) -> clusters.
    dedup_share: of the pool's tokens that the first step leaves.
  """
  first = cluster(pool.embedding_NE, pool.key_N)
  groups = duplicates.in_order(first, pool.key_N, keep="hard", seed=0)
  like = duplicates.likeness(pool.embedding_NE, groups)
  stays_N = scoring.first(-like.cosine_N, pool, share=dedup_share)
  rows = np.flatnonzero(stays_N)
  some = kmeans.Rows(pool.embedding_NE, rows)
  second = cluster(some, pool.key_N[rows])
  score_N = -1.0 - like.cosine_N
  score_N[rows] = 1 - second.cosine_N
  nearness_N = np.ones(len(score_N), np.float32)
  nearness_N[rows] = second.cosine_N
  size_N = np.zeros(len(score_N), int)
  size_N[rows] = second.size_L[second.of_N]
  typical = reasons.because(
    ssl_prototypes.TYPICAL, nearness=nearness_N, size=size_N
  )
  why = reasons.first([(~stays_N, semdedup.why(like)), (stays_N, typical)])
  return score_N, why
