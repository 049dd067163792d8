"""Uniform over sources: the same number of tokens from each labelled source."""

from cmtree_jax.methods import uniform_clusters
from cmtree_jax.methods.base import (
  Method,
  Planted,
  Small,
)

SMALL = Small(partition=dict(kind="sources"))
PLANTED = Planted()


def make() -> Method:
  """`uniform_clusters` on the labelled sources, whatever partition is given.

  Returns:
    A Method that needs the sources' masses alone.
  References:
    Stratified sampling; the baseline of Chen et al., `Aioli
    <https://arxiv.org/abs/2411.05735>`_, 2024.
  """
  return uniform_clusters.make()._replace(partition="sources")
