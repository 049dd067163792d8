"""S2L: as much of every kind of document, kinds told by how their losses fall."""

import jax
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)
from cmtree_jax.types import UserError

_FITTED = 2**16  # documents that the clusters are fitted to; bounds memory

SMALL = Small(options={"clusters": 16, "checkpoints": 4})
PLANTED = Planted(
  options={"clusters": 2},
  more=(("noise", "learnable"),),
  documents=(("rare", "natural"),),
)


def make(
  *, share: float = 0.5, clusters: int = 100, checkpoints: int = 6
) -> Method:
  r"""Clusters of loss trajectories, and equal draws from each of them.

  .. math:: x_k = \min(n_k, c), \qquad \sum_k x_k = s \sum_k n_k

  are the tokens that are drawn from cluster k of n_k tokens, small clusters whole.
  Clusters are those of k-means on :math:`(\ell_1(x), \dots, \ell_C(x))`, the losses
  of a document at C checkpoints of a small proxy: documents whose losses fall alike
  have like gradients, so that a few of each stand for all (theorem of the paper).

  Departures: draws are equal in tokens, not in documents. Within a cluster they are
  random by the documents' ids, so that a larger share holds a smaller one.

  Cost:
    A proxy of `config.look.steps` steps, and `checkpoints` forward passes over the
    pool; 4 bytes a document for each of them, and 90 while they are ranked. Clusters
    are fitted to 65,536 documents at most.

  Args:
    share: s, of the pool's tokens that is kept; more where documents may not be
      repeated so often.
    clusters: of the trajectories.
    checkpoints: C, evenly spaced over the training.
  Returns:
    A Method that reads the documents' losses; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Yang et al., `SmallToLarge (S2L) <https://arxiv.org/abs/2403.07384>`_, 2024,
    algorithm 1.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(1, clusters=clusters, checkpoints=checkpoints)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None and pool.loss_ON is not None
    seed_clusters, seed_draws = jax.random.split(key)
    cluster_N = alike(
      pool,
      clusters=clusters,
      seed=int(jax.random.bits(seed_clusters)),
    )
    noise_N = scoring.gumbel(pool.key_N, seed_draws)
    score_N = -drawn_before(cluster_N, noise_N, pool.tokens_N)
    return scoring.top(score_N, pool, share=share, max_weight=facts.max_weight)

  return scoring.method(
    init,
    features=frozenset({"loss_ON"}),
    look=Look(checkpoints=checkpoints),
    targeted=False,
  )


def alike(pool: Documents, *, clusters: int, seed: int) -> np.ndarray:
  """The cluster of each document, int; their order changes nothing.

  Args:
    pool: the documents, measured.
    clusters: how many.
    seed: chooses the starting centers.
  """
  import threadpoolctl
  from sklearn.cluster import KMeans

  assert pool.loss_ON is not None
  size = len(pool.key_N)
  if clusters > size:
    raise UserError(
      f"Cannot make {clusters} clusters of {size} documents; lower s2l.clusters."
    )
  # A random part, in an order that is its own.
  some = np.argsort(pool.key_N, kind="stable")[:_FITTED]
  model = KMeans(clusters, n_init=1, random_state=seed)
  with threadpoolctl.threadpool_limits(1):  # more would round differently
    model.fit(np.ascontiguousarray(pool.loss_ON[:, some].T, np.float64))
    return np.concatenate(
      [
        model.predict(np.ascontiguousarray(pool.loss_ON[:, part].T, np.float64))
        for part in packing.chunks(size, scoring.CHUNK)
      ]
    )


def drawn_before(
  cluster_N: np.ndarray, noise_N: np.ndarray, tokens_N: np.ndarray
) -> np.ndarray:
  """The tokens that a document's cluster draws before it.

  In ascending order of these, every prefix has drawn equally much from all clusters
  that have more to give.

  Args:
    cluster_N: int, the cluster of each.
    noise_N: the greatest of a cluster is drawn first.
    tokens_N: length of each.

  >>> drawn_before(np.array([0, 0, 1]), np.array([0.1, 0.2, 0.3]), np.array([5, 7, 9]))
  array([7, 0, 0])
  """
  order_N = np.lexsort((-noise_N, cluster_N))
  size_N = np.asarray(tokens_N)[order_N]
  before_N = np.cumsum(size_N) - size_N
  first_N = np.append(True, np.diff(cluster_N[order_N]) != 0)
  start_N = before_N[first_N][np.cumsum(first_N) - 1]
  found_N = np.empty_like(before_N)
  found_N[order_N] = before_N - start_N
  return found_N
