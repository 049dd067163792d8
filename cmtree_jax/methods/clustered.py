"""What methods share that compare the documents of a cluster with each other."""

import jax

from cmtree_jax import checks, shapes
from cmtree_jax.methods.base import Documents
from cmtree_jax.selection import kmeans
from cmtree_jax.selection.kmeans import Clusters

WITHIN = ("clusters", "domains")


def check(within: str, clusters: int) -> None:
  """Raises ValueError for options out of their range."""
  checks.one_of("within", within, WITHIN)
  checks.at_least(0, clusters=clusters)


def of(pool: Documents, *, within: str, clusters: int, seed: int) -> Clusters:
  """Clusters of the method's own, or the domains of the partition that is given.

  Args:
    pool: the documents.
    within: of WITHIN.
    clusters: how many the method makes; 0: the square root of the documents.
    seed: of these.
  """
  if within == "domains":
    assert pool.domain_N is not None
    return kmeans.given(pool.embedding_NE, pool.domain_N)
  return kmeans.cluster(
    pool.embedding_NE, pool.key_N, num_clusters=clusters, seed=seed
  )


def seed_of(key: shapes.Key) -> int:
  """A seed for what is not drawn by JAX."""
  return int(jax.random.bits(key, (), "uint32"))
