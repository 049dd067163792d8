"""What papers report of single choices, each as comparisons of our own recipes.

python -m experiments.relations --config relations:cpu --workdir runs/relations

The argument is a scale of configs/claims.py. Every part is a comparison on a corpus of
its own, in WORKDIR/PART; `experiments/relations.py` says which of its recipes a relation
sets against each other. A quarter of an epoch, at matched repetition.
"""

from ml_collections import ConfigDict

from configs import claims

# Cells of topics times forms, and clusters of each alone beside them; cells that are
# large and small, which a rule chooses in; domains that steering weighs.
SIZES = {
  "toy": dict(cells=16, coarse=4, large=4, small=16, steered=8),
  "cpu": dict(cells=64, coarse=8, large=64, small=512, steered=32),
  "gpu": dict(cells=64, coarse=8, large=64, small=512, steered=64),
}


def get_config(argument: str = "cpu"):
  """The parts, and the recipes that are compared in them."""
  config = claims.get_config(argument)
  scale = argument.partition(",")[0]
  config.compare.effective_sample_sizes = ()
  config.compare.noise_repeats = 0  # every difference is a paired one
  config.budget.epochs = 0.25
  config.variants.update(_variants(**SIZES[scale]))
  config.relations = ConfigDict()
  # In this order; each is told as soon as it is known.
  config.relations.wanted = ("weborganizer", "hermes", "grape", "dga")
  # Name -> overrides. A set of targets after ">" is tested and does not drive a search.
  config.relations.parts = ConfigDict(_parts(scale == "toy"))
  return config


def _variants(
  *, cells: int, coarse: int, large: int, small: int, steered: int
) -> dict[str, tuple[str, ...]]:
  """Recipes by the part that they have in a relation."""
  found: dict[str, tuple[str, ...]] = {}
  for name, views, number in (
    ("topics_and_forms", "topic,form", cells),
    ("topics", "topic", cells),
    ("forms", "form", cells),
    ("few_topics", "topic", coarse),
    ("few_forms", "form", coarse),
  ):
    found[name] = (
      *("crisp", "partition.kind=product", f"partition.views={views}"),
      f"partition.num_clusters={number}",
    )
  for size, number in (("large", large), ("small", small)):
    for name, scorer in (("rule", "classifier"), ("blind", "random_documents")):
      found[f"{name}_in_{size}"] = (
        *("quota", f"quota.scorer={scorer}", "quota.mixture=crisp"),
        # Both keep the paper's share of every cell.
        *("quota.share=0.3", f"partition.num_clusters={number}"),
      )
  domains = f"partition.num_clusters={steered}"
  found["by_similarity"] = ("crisp", domains)
  found["by_grape"] = ("grape", "online.on=true", domains)
  found["by_dga"] = ("dga", "online.on=true", domains)
  return found


def _parts(toy: bool) -> dict[str, tuple[str, ...]]:
  """The comparisons, on the standard library's text or on the default corpus."""
  union = "python_topics" if toy else "film_reviews+humaneval+news"
  one = "python_topics" if toy else "film_reviews"
  absent, given, unnamed = (
    ("readmes", "python_topics", "python_modules")
    if toy
    else ("de", "film_reviews+humaneval", "scripture")
  )
  first, *others = given.split("+")
  named = ",".join([first, *others, absent, unnamed])
  texts = (
    f"compare.targets={one}",
    "compare.methods=by_similarity,by_dga",
  )
  return {
    "views": (
      *("embedding.views=topic,form", f"compare.targets={union}"),
      "compare.methods=topics_and_forms,topics,forms,few_topics,few_forms",
    ),
    "cells": (
      f"compare.targets={union}",
      "compare.methods=rule_in_large,blind_in_large,rule_in_small,blind_in_small",
    ),
    "absent": (
      *(f"data.bed=absent:{absent}", f"data.targets={named}"),
      f"compare.targets={given}+{absent}+{first}>{unnamed}",
      "compare.methods=by_similarity,by_grape",
    ),
    "few_texts": ("data.bed=tiny:8", *texts),
    "some_texts": ("data.bed=tiny:32", *texts),
    "all_texts": texts,
  }
