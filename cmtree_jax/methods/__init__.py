"""Every method under one name; the names are also the recipes' in all results."""

from collections.abc import Callable

from cmtree_jax.methods import cmtree, crisp, natural, uniform_clusters
from cmtree_jax.methods.base import Method

METHODS: dict[str, Callable[..., Method]] = {
  "cmtree": cmtree.make,
  "natural": natural.make,
  "uniform_clusters": uniform_clusters.make,
  "crisp": crisp.make,
}
