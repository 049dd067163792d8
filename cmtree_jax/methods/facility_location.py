"""Facility location: the documents that stand for all others best."""

from typing import NamedTuple

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import clustered, scoring
from cmtree_jax.methods.base import Documents, Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import because
from cmtree_jax.selection import greedy, kmeans, neighbors

SMALL = Small()
# One copy stands for all, and so weighs more; what is rare has to be stood for as well.
PLANTED = Planted(
  more=(("noise", "target"), ("noise", "other")),
  documents=(("rare", "plain"), ("copies", "plain")),
  once=("exact", "near"),
)


def make(*, share: float = 0.1, clusters: int = 1) -> Method:
  r"""Greedy maximization of how well every document is represented.

  .. math:: F(S) = \sum_i \max\big(0, \max_{j \in S} \langle e_i, e_j \rangle\big),
            \qquad j_b = \arg\max_j F(S \cup \{j\}) - F(S)

  What is frequent is represented first, by a document in its middle, and what is rare
  once that adds more than one more of the frequent; a duplicate adds nothing. F is
  submodular, so the greedy set is at least 63 % as good as the best one. (The
  "facility location" in the text of selection via proxy is another problem, k-center:
  `svp`.)

  Departures: documents are chosen until they hold a share of the tokens, whatever
  each of them costs. Where `clusters` are asked for, each is represented by documents
  of its own, by as large a share of its tokens. Ties are broken by ids.

  Cost:
    N^2 products of features for the first gains, some 60 N more for each document that
    is chosen; no training. 4 E + 40 bytes for each document, on the device. With K
    clusters a K-th of the products.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be repeated
      so often.
    clusters: that are represented each by itself, for pools of millions; 1: the pool
      as a whole; 0: the square root of the documents.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Wei et al., `Submodularity in Data Subset Selection and Active Learning
    <https://proceedings.mlr.press/v37/wei15.html>`_, 2015, section 3;
    PyPI apricot-select 0.6.1.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(0, clusters=clusters)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None
    if clusters == 1:
      groups = [np.argsort(pool.key_N, kind="stable")]
    else:
      groups = _by_key(pool, clusters, clustered.seed_of(key))
    # What the cap will ask for has to be in an order too.
    found = represent(
      pool, groups, share=min(1.0, max(share, 1 / facts.max_weight))
    )
    weighed = scoring.top(
      -found.place_N, pool, share=share, max_weight=facts.max_weight
    )
    weighed = weighed.telling(
      clusters=[len(groups)], represented=[found.represented]
    )
    # Where all are chosen, the weight one may be rounded to a little less.
    chosen = np.flatnonzero(weighed.log_w_N > -1)
    near = neighbors.nearest(pool.embedding_NE, pool.embedding_NE[chosen])
    why = because(
      "cosine {cosine:.3f} to {other}, which stands for it",
      other_N=chosen[near.index_N],
      cosine=near.cosine_N,
    )
    return weighed.saying(why)

  return scoring.method(init, targeted=False)


class Found(NamedTuple):
  """The order in which documents are chosen."""

  # Share of its group's tokens that was chosen before the middle of a document; 2: it
  # was not chosen at all.
  place_N: np.ndarray
  represented: (
    float  # mean cosine of all with the nearest chosen one, from 0 up
  )


def represent(
  pool: Documents, groups: list[np.ndarray], *, share: float
) -> Found:
  """Documents of each group that stand for it.

  Args:
    pool: the documents.
    groups: numbers of the documents of each; of equal ones the first is chosen.
    share: of the tokens of each group that is chosen.
  """
  place_N, gained = np.full(len(pool.key_N), 2.0), 0.0
  for rows in groups:
    embedding_BE = np.asarray(pool.embedding_NE[rows])
    tokens_B = pool.tokens_N[rows].astype(np.float64)
    # Rows of zeros add nothing and are not chosen. With them, clusters of many sizes
    # share a few programs; the pool as a whole needs none.
    padded = 2 ** max(6, (len(rows) - 1).bit_length())
    padding = 0 if len(groups) == 1 else padded - len(rows)
    found = greedy.facility_location(
      greedy.of_embedding(np.pad(embedding_BE, [(0, padding), (0, 0)])),
      cost_N=np.pad(tokens_B, (0, padding)),
      budget=share * tokens_B.sum(),
    )
    chosen_B = tokens_B[found.order]
    middle_B = np.cumsum(chosen_B) - chosen_B / 2
    place_N[rows[found.order]] = middle_B / tokens_B.sum()
    gained += float(found.gain.astype(np.float64).sum())
  return Found(place_N, gained / len(place_N))


def _by_key(pool: Documents, clusters: int, seed: int) -> list[np.ndarray]:
  """Numbers of the documents of each cluster, in the order of their ids."""
  found = kmeans.cluster(
    pool.embedding_NE, pool.key_N, num_clusters=clusters, seed=seed
  )
  order_N = np.lexsort((pool.key_N, found.of_N))
  return np.split(order_N, np.cumsum(found.size_L)[:-1])
