"""Every method under one name; the names are also the recipes' in all results."""

from collections.abc import Callable

from cmtree_jax.methods import (
  aioli,
  climb,
  cmtree,
  crisp,
  dga,
  doge,
  doremi,
  mixing_laws,
  mixmin,
  natural,
  olmix,
  random_documents,
  regmix,
  rnb,
  skill_it,
  tandem,
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
  # One proxy on a mixture that the method steers.
  "doremi": doremi.make,
  "doge": doge.make,
  "dga": dga.make,
  "rnb": rnb.make,
  "skill_it": skill_it.make,
  "aioli": aioli.make,
  "tandem": tandem.make,
  # Whole runs on mixtures that the method asks for.
  "climb": climb.make,
  "regmix": regmix.make,
  "mixmin": mixmin.make,
  "mixing_laws": mixing_laws.make,
  "olmix": olmix.make,
}
