"""Every method under one name; the names are also the recipes' in all results.

A method's file holds all that is known of it: `make`, `SMALL` and `PLANTED` (see
`base`). A new one is named here once; configs, docs and tests pick it up.
"""

import importlib
from types import ModuleType

METHODS: dict[str, ModuleType] = {
  name: importlib.import_module(f"{__name__}.{name}")
  for name in (
    "cmtree",
    "tilts",
    # Values of documents, and what predicts them.
    "pds",
    "datarater",
    # Controls.
    "natural",
    "uniform_sources",
    "temperature",
    "uniform_clusters",
    "crisp",
    "random_documents",
    "worst_mixture",
    # Scores of documents for each target.
    "dsir",
    "classifier",
    "betr",
    "zip_fit",
    "metaclip",
    "quality",
    # Where documents lie, whatever the targets are.
    "semdedup",
    "ssl_prototypes",
    "d4",
    "density",
    "facility_location",
    # What models in training make of every document.
    "perplexity",
    "el2n",
    "forgetting",
    "miniplm",
    "s2l",
    "svp",
    "rds_plus",
    "cit",
    "preselect",
    "grand",
    "less",
    "mates",
    # What is read together.
    "associated",
    # Any of these scores, a mixture as quota.
    "quota",
    # One proxy on a mixture that the method steers.
    "doremi",
    "doge",
    "dga",
    "grape",
    "head_alignment",
    "rnb",
    "skill_it",
    "aioli",
    "ado",
    "ordered",
    "attention",
    "hierarchical",
    "meta_scheduler",
    "tandem",
    # Whole runs on mixtures that the method asks for.
    "climb",
    "regmix",
    "perplexity_correlations",
    "mixmin",
    "mixing_laws",
    "olmix",
  )
}
