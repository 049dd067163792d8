"""SSL prototypes: the documents that are least typical of their clusters."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import clustered, scoring
from cmtree_jax.methods.base import Documents, Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import Reasons, because
from cmtree_jax.selection.kmeans import Clusters

KEEP = ("hard", "easy")
TYPICAL = (
  "cosine {nearness:.3f} to the center of its cluster of {size:,} documents"
)

SMALL = Small()
# What repeats itself is seen less. What cannot be learned repeats nothing, and stays.
PLANTED = Planted(
  options={"share": 0.3},
  more=(("noise", "target"), ("noise", "other")),
  documents=(("random", "copies"), ("rare", "copies")),
)


def make(
  *,
  share: float = 0.8,
  keep: str = "hard",
  balance: float = 0.5,
  within: str = "clusters",
  clusters: int = 0,
) -> Method:
  r"""Ranks documents by their distance from the center of their cluster.

  .. math:: d_i = 1 - \langle e_i, c_{k(i)} \rangle

  The center is the prototype of its cluster. With abundant data what is far from all
  prototypes teaches most, with scarce data what is near; the paper leaves out a fifth
  of ImageNet without a loss. Each of the K clusters first keeps its own best up to
  balance / K of all that is kept, then the ranking of all documents decides.

  Departures: shares are of tokens, not of documents. k-means has as many clusters as
  the square root of the documents, where the paper has one for each class of ImageNet
  and finds that ten times as many or as few do as well. Ties are broken by ids.
  Clusters of duplicates have them for prototypes: run it on a corpus without, or
  choose `d4`.

  Cost:
    k-means, no training. 16 bytes for each document.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be repeated
      so often.
    keep: "hard", what is farthest from the center, or "easy", what is nearest.
    balance: share of what is kept that the clusters keep in equal parts, as far as they
      have so much.
    within: documents of the same "clusters", which the method makes, or "domains" of
      `config.partition`.
    clusters: how many the method makes; 0: the square root of the documents.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Sorscher et al., `Beyond neural scaling laws
    <https://arxiv.org/abs/2206.14486>`_, 2022, section 5.
  """
  checks.one_of("keep", keep, KEEP)
  checks.share(share=share, balance=balance)
  checks.above_zero(share=share)
  clustered.check(within, clusters)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None
    found = clustered.of(
      pool, within=within, clusters=clusters, seed=clustered.seed_of(key)
    )
    order_N = ranking(found, pool, keep=keep, reserved=balance * share)
    score_N = np.empty(len(order_N))
    score_N[order_N] = -np.arange(len(order_N))
    weighed = scoring.top(
      score_N, pool, share=share, max_weight=facts.max_weight
    )
    weighed = weighed.telling(clusters=[len(found.center_LE)])
    return weighed.saying(why(found))

  return scoring.method(init, targeted=False)


def ranking(
  clusters: Clusters, pool: Documents, *, keep: str, reserved: float = 0.0
) -> np.ndarray:
  """Numbers of all documents, those first that are kept first.

  Args:
    clusters: of the documents.
    pool: the documents.
    keep: of KEEP.
    reserved: share of the pool's tokens that the clusters' own best get in equal
      parts before all others.
  """
  near_N = clusters.cosine_N if keep == "hard" else -clusters.cosine_N
  order_N = np.lexsort((pool.key_N, near_N, clusters.of_N))
  tokens_N = pool.tokens_N[order_N].astype(np.float64)
  before_N = np.cumsum(tokens_N) - tokens_N
  starts_L = np.append(0, np.cumsum(clusters.size_L)[:-1])
  before_N -= np.repeat(before_N[starts_L], clusters.size_L)
  own = reserved * tokens_N.sum() / len(starts_L)
  later_N = np.empty(len(order_N), bool)
  later_N[order_N] = before_N >= own
  return np.lexsort((pool.key_N, near_N, later_N))


def why(clusters: Clusters) -> Reasons:
  """What a person reads of a document that is left out as a typical one, or as odd."""
  return because(
    TYPICAL, nearness=clusters.cosine_N, size=clusters.size_L[clusters.of_N]
  )
