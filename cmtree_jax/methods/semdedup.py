"""SemDeDup: one of every group of documents that nearly say the same."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import clustered, scoring
from cmtree_jax.methods.base import Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import Reasons, because
from cmtree_jax.selection import duplicates
from cmtree_jax.selection.duplicates import Likeness

AGAINST = ("all", "kept")

SMALL = Small()
# What repeats itself is seen less. What cannot be learned repeats nothing, and stays.
PLANTED = Planted(
  options={"epsilon": 0.1},
  more=(("noise", "target"), ("noise", "other")),
  documents=(("plain", "copies"), ("rare", "copies")),
  once=("exact", "near"),
)


def make(
  *,
  epsilon: float = 0.01,
  share: float = 0.0,
  keep: str = "hard",
  against: str = "all",
  within: str = "clusters",
  clusters: int = 0,
) -> Method:
  r"""Leaves out a document that is nearly the same as an earlier one of its cluster.

  .. math:: M_j = \max_{i < j} \langle e_i, e_j \rangle, \qquad
            \text{left out where } M_j > 1 - \varepsilon

  Documents of a cluster are ordered by their distance from its center, the farthest
  first: of two that are alike, the one less typical of the cluster stays. Documents
  that are left out still count as earlier ones, as in the authors' code: of a chain
  in which neighbors alone are alike only the first stays. The paper's text keeps one
  of each group, which `against="kept"` comes nearer to.

  Departures: the paper tunes epsilon until a wanted share of the documents is left;
  `share` does so exactly, in tokens. The default is that of NeMo Curator. k-means has
  as many clusters as the square root of the documents, of the order of the paper's
  11,000 for C4. Ties are broken by ids. Where documents may not be repeated so often as
  the kept ones would be, those left out share the rest.

  Cost:
    k-means, and products of all pairs of features within a cluster; no training.
    20 bytes for each document.

  Args:
    epsilon: how far from equal (cosine one) two documents still count as the same;
      larger ones leave out more.
    share: of the pool's tokens that is kept, the least alike; 0: epsilon decides.
    keep: of those alike, "hard" keeps what is farthest from the center, "easy" what is
      nearest, "random" any.
    against: "all" earlier documents are compared with, or those "kept".
    within: documents of the same "clusters", which the method makes, or "domains" of
      `config.partition`.
    clusters: how many the method makes; 0: the square root of the documents.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Abbas et al., `SemDeDup <https://arxiv.org/abs/2303.09540>`_, 2023, section 3;
    facebookresearch/SemDeDup at 6b41945.
  """
  checks.one_of("keep", keep, duplicates.KEEP)
  checks.one_of("against", against, AGAINST)
  checks.share(share=share)
  clustered.check(within, clusters)
  if not 0 < epsilon < 1:
    raise ValueError(f"epsilon = {epsilon} must be between 0 and 1.")
  if share and against == "kept":
    raise ValueError(
      f"share = {share} ranks documents by their likeness to all earlier ones; "
      'set share = 0 or against = "all".'
    )

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool, seed = facts.pool, clustered.seed_of(key)
    assert pool is not None
    found = clustered.of(pool, within=within, clusters=clusters, seed=seed)
    groups = duplicates.in_order(found, pool.key_N, keep=keep, seed=seed)
    like = duplicates.likeness(pool.embedding_NE, groups)
    if share:
      weighed = scoring.top(
        -like.cosine_N, pool, share=share, max_weight=facts.max_weight
      )
    else:
      kept_N = like.cosine_N <= 1 - epsilon
      if against == "kept":
        kept_N = duplicates.kept(pool.embedding_NE, groups, epsilon=epsilon)
      weighed = scoring.chosen(
        kept_N,
        pool,
        max_weight=facts.max_weight,
        # What is kept ranks before what is not, though it may be liker to one left out.
        score_N=np.where(kept_N, 1.0, 0.0) - like.cosine_N,
      )
    weighed = weighed.telling(clusters=[len(found.center_LE)])
    return weighed.saying(why(like))

  return scoring.method(init, targeted=False)


def why(like: Likeness) -> Reasons:
  """What a person reads of a document that is left out as a duplicate."""
  return because(
    "cosine {cosine:.3f} to {other}, which comes before it in its cluster",
    other_N=like.other_N,
    cosine=like.cosine_N,
  )
