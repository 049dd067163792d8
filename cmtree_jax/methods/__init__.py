"""Every method under one name; the names are also the recipes' in all results."""

from collections.abc import Callable

from cmtree_jax.methods import (
  cmtree,
  crisp,
  natural,
  random_documents,
  temperature,
  uniform_clusters,
  uniform_sources,
  worst_mixture,
)
from cmtree_jax.methods.base import Method

METHODS: dict[str, Callable[..., Method]] = {
  "cmtree": cmtree.make,
  # Controls.
  "natural": natural.make,
  "uniform_sources": uniform_sources.make,
  "temperature": temperature.make,
  "uniform_clusters": uniform_clusters.make,
  "crisp": crisp.make,
  "random_documents": random_documents.make,
  "worst_mixture": worst_mixture.make,
}
