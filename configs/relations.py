"""What papers report of single choices, each as comparisons of our own recipes.

python -m experiments.relations --config relations:cpu --workdir runs/relations

The argument is a scale of configs/claims.py. Every part is a comparison on a corpus of
its own, in WORKDIR/PART; `experiments/published.py` says which of its recipes a relation
sets against each other. A quarter of an epoch, at matched repetition.

Some minutes a part on two quiet cores with models of .3M, 300 steps and three searches of
one final each. Then a rule is worth -.067 ±.004 in cells of 2,590 documents, -.067 ±.026
in those of 324 and -.029 ±.044 in those of 40; cells of topic times form are +.021 ±.040
to as many topics and -.045 ±.023 to as many forms.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import claims


class Sizes(NamedTuple):
  """Numbers of domains."""

  cells: int = 64  # of topics times forms, and of each alone
  coarse: int = 8  # topics and forms that make so many cells
  # What a rule chooses in, of the default corpus: cells of 2,590 documents, of 324 and
  # of 40; those of the paper have 2,271 and 429.
  large: int = 8
  middle: int = 64
  small: int = 512
  steered: int = 32  # that similarity, GRAPE and DGA weigh


SIZES = {
  "toy": Sizes(16, 4, large=2, middle=4, small=16, steered=8),
  "cpu": Sizes(),
  "gpu": Sizes(steered=64),
}


def get_config(argument: str = "cpu"):
  """The parts, and the recipes that are compared in them."""
  config = claims.get_config(argument)
  scale = argument.partition(",")[0]
  config.compare.effective_sample_sizes = ()
  config.compare.noise_repeats = 0  # every difference is a paired one
  config.budget.epochs = 0.25
  config.variants.update(_variants(SIZES[scale]))
  config.relations = ConfigDict()
  # In this order; each is told as soon as it is known.
  config.relations.wanted = ("weborganizer", "hermes", "grape", "dga")
  # Name -> overrides. A set of targets after ">" is tested and does not drive a search.
  config.relations.parts = ConfigDict(_parts(scale == "toy"))
  return config


def _variants(sizes: Sizes) -> dict[str, tuple[str, ...]]:
  """Recipes by the part that they have in a relation."""
  found: dict[str, tuple[str, ...]] = {}
  for name, views, number in (
    ("topics_and_forms", "topic,form", sizes.cells),
    ("topics", "topic", sizes.cells),
    ("forms", "form", sizes.cells),
    ("few_topics", "topic", sizes.coarse),
    ("few_forms", "form", sizes.coarse),
  ):
    found[name] = (
      *("crisp", "partition.kind=product", f"partition.views={views}"),
      f"partition.num_clusters={number}",
    )
  # As in the paper every cell keeps its share of the corpus, and three tenths of its
  # documents. With quotas by similarity the cells that are wanted keep all they have.
  for size in ("large", "middle", "small"):
    for name, scorer in (("rule", "classifier"), ("blind", "random_documents")):
      found[f"{name}_in_{size}"] = (
        *("quota", f"quota.scorer={scorer}", "quota.mixture=natural"),
        *("quota.share=0.3", f"partition.num_clusters={getattr(sizes, size)}"),
      )
  domains = f"partition.num_clusters={sizes.steered}"
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
      "compare.methods=rule_in_large,blind_in_large,rule_in_middle,"
      "blind_in_middle,rule_in_small,blind_in_small",
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
