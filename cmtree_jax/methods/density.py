"""Density-based pruning: fewer documents of clusters that are dense and near others."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import clustered, scoring
from cmtree_jax.methods.base import Documents, Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import because
from cmtree_jax.selection import bounded, duplicates, neighbors
from cmtree_jax.selection.kmeans import Clusters

SMALL = Small()
# What repeats itself is seen less. What cannot be learned repeats nothing, and stays.
PLANTED = Planted(
  more=(("noise", "target"), ("noise", "other")),
  documents=(("plain", "copies"),),
)


def make(
  *,
  share: float = 0.3,
  temperature: float = 0.1,
  balance: float = 0.5,
  keep: str = "hard",
  within: str = "clusters",
  clusters: int = 0,
) -> Method:
  r"""Gives each cluster a quota that grows with the complexity of its concept.

  .. math:: C_k = \underbrace{\mathrm{mean}_{i \in k}
            (1 - \langle e_i, c_k \rangle)}_{\text{within}} \cdot
            \underbrace{\mathrm{mean}_{m \in \text{20 nearest of } k}
            (1 - \langle c_k, c_m \rangle)}_{\text{to others}}, \qquad
            P_k = \frac{e^{C_k / \tau}}{\sum_m e^{C_m / \tau}}

  .. math:: \min_x \tfrac12 |x - N P|^2 \quad \text{such that} \quad
            \textstyle\sum_k x_k = N, \; \min(\beta N / K, n_k) \le x_k \le n_k

  for the N tokens that are kept of K clusters with n tokens each. Of its documents a
  cluster keeps the least typical ones up to its quota. Complexities are small numbers:
  what `clusters_of_equal_quota` tells, the exponential of the entropy of P, is how
  many clusters a temperature speaks for.

  Departures: quotas are tokens, not documents. The quadratic program has a closed form
  and is solved exactly; the authors' solver is stopped so early that it breaks bounds
  and sum. The least quota is that of `balance`, and not one document. The temperature
  is that of the paper, 0.1, not that of the code, 0.5. k-means has as many clusters as
  the square root of the documents, where the paper has 500. Duplicates make dense
  clusters: run it on a corpus without.

  Cost:
    k-means and K^2 products, no training. 24 bytes for each document.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be repeated
      so often.
    temperature: :math:`\tau`, larger ones make quotas more alike.
    balance: :math:`\beta`, the least quota of a cluster beside equal ones.
    keep: of a cluster, "hard" keeps what is farthest from the center, "easy" what is
      nearest, "random" any.
    within: documents of the same "clusters", which the method makes, or "domains" of
      `config.partition`.
    clusters: K, how many the method makes; 0: the square root of the documents.
  Returns:
    A Method that reads the embedding of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Abbas et al., `Effective pruning of web-scale datasets based on complexity of
    concept clusters <https://arxiv.org/abs/2401.04578>`_, 2024, section 3;
    amro-kamal/effective_pruning at 42c8e54.
  """
  checks.one_of("keep", keep, duplicates.KEEP)
  checks.share(share=share, balance=balance)
  checks.above_zero(share=share, temperature=temperature)
  clustered.check(within, clusters)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool, seed = facts.pool, clustered.seed_of(key)
    assert pool is not None
    found = clustered.of(pool, within=within, clusters=clusters, seed=seed)
    p_L = chances(complexity(found), temperature)
    size_L = np.bincount(found.of_N, pool.tokens_N, minlength=len(p_L))
    quota_L = quotas(p_L, size_L, total=share * size_L.sum(), balance=balance)
    groups = duplicates.in_order(found, pool.key_N, keep=keep, seed=seed)
    place_N = places(groups, pool, quota_L)
    weighed = scoring.top(
      -place_N, pool, share=share, max_weight=facts.max_weight
    )
    positive_L = p_L[p_L > 0]
    entropy = -np.sum(positive_L * np.log(positive_L))
    weighed = weighed.telling(
      clusters=[len(p_L)], clusters_of_equal_quota=[np.exp(entropy)]
    )
    why = because(
      "its cluster of {size:,} documents keeps {kept:.1%} of its tokens",
      size=found.size_L[found.of_N],
      kept=(quota_L / np.maximum(size_L, 1e-9))[found.of_N],
    )
    return weighed.saying(why)

  return scoring.method(init, targeted=False)


def complexity(clusters: Clusters, *, nearest: int = 20) -> np.ndarray:
  """C of each cluster, float64.

  Args:
    clusters: at least one document in each.
    nearest: centers that each is compared with; fewer where there are not so many.
  """
  count = len(clusters.center_LE)
  within_L = np.bincount(clusters.of_N, 1.0 - clusters.cosine_N)
  within_L /= clusters.size_L
  if count == 1:  # there is nothing to be far from, and nothing to choose
    return within_L
  # The nearest of all is the center itself, or one that is equal to it.
  _, cosine_LM = neighbors.top(
    clusters.center_LE, clusters.center_LE, k=min(nearest + 1, count)
  )
  return within_L * np.mean(1.0 - cosine_LM[:, 1:], axis=1)


def chances(complexity_L: np.ndarray, temperature: float) -> np.ndarray:
  """P: a softmax of complexities; sums to one."""
  logit_L = np.asarray(complexity_L, np.float64) / temperature
  p_L = np.exp(logit_L - logit_L.max())
  return p_L / p_L.sum()


def quotas(
  p_L: np.ndarray, size_L: np.ndarray, *, total: float, balance: float
) -> np.ndarray:
  """x: what each cluster keeps, nearest to shares P of the total.

  Args:
    p_L: P.
    size_L: n, what each cluster has.
    total: N, at most what all have.
    balance: beta.
  """
  return bounded.project(
    total * p_L,
    total=total,
    lower_K=np.minimum(balance * total / len(p_L), size_L),
    upper_K=size_L,
  )


def places(
  groups: list[np.ndarray], pool: Documents, quota_L: np.ndarray
) -> np.ndarray:
  """Where the middle of a document stands in its cluster, in quotas of it.

  The documents of places below one fill the quotas, as nearly as whole documents do;
  what a cluster has beyond its quota follows in equal steps.
  """
  place_N = np.empty(len(pool.key_N))
  for rows, quota in zip(groups, quota_L, strict=True):
    tokens_B = pool.tokens_N[rows].astype(np.float64)
    middle_B = np.cumsum(tokens_B) - tokens_B / 2
    # A quota of nothing: all of the cluster follows after everything else.
    place_N[rows] = middle_B / max(quota, 1e-9)
  return place_N
