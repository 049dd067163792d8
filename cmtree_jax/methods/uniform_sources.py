"""Uniform over the labelled sources, whatever partition is given."""

from cmtree_jax.methods import uniform_clusters
from cmtree_jax.methods.base import (
  Method,
  Planted,
  Small,
)

SMALL = Small(partition=dict(kind="sources"))
PLANTED = Planted()


def make() -> Method:
  """The same number of tokens from each labelled source, up to the repetition cap.

  Returns:
    A Method on the sources; see `uniform_clusters`.
  """
  return uniform_clusters.make()._replace(partition="sources")
