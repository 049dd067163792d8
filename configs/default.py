"""Every default of the package, with its unit. Other configs start from here.

Fields are overridden on the command line, `--config.batch.rows=32`; a name that is
not here is refused. What a method takes has its default in the signature of its
factory, and what a stage or a loop does in its `Plan`.
"""

import os
from typing import Any

from ml_collections import ConfigDict

from cmtree_jax import budget, embed
from cmtree_jax.config import factory_defaults
from cmtree_jax.data import plan as data_plan
from cmtree_jax.data.build import tokenizer, workers
from cmtree_jax.embed import grams
from cmtree_jax.jobs import guard
from cmtree_jax.jobs.build import Plans
from cmtree_jax.methods import METHODS
from cmtree_jax.recipe import domains


def get_config() -> ConfigDict:
  """The defaults: three targets of the default corpus, a proxy of 0.3M parameters."""
  config = ConfigDict()
  config.seed = 0  # seed of the searches; final trainings use 0, 1, ...
  config.cache_dir = os.environ.get("CMTREE_CACHE", "~/.cache/cmtree_jax")

  # The training that the recipe is for; caps and repeats follow from it.
  config.budget = _block(budget.Plan())

  # Which method makes the recipe, and which recipes it is compared with.
  config.method = "cmtree"
  config.baselines = ("natural", "crisp_64")
  # Name -> (method, "block.field=value", ...): one method under other settings of
  # its search. A name stands wherever a method's does.
  config.variants = ConfigDict()
  config.variants.classifier_soft = ("classifier", "classifier.kind=soft")
  config.variants.classifier_embedding = (
    "classifier",
    "classifier.kind=soft",
    "classifier.features=embedding",
  )
  for clusters in (16, 64, 256):
    config.variants[f"crisp_{clusters}"] = (
      "crisp",
      # Also where other methods weigh other domains: these are rivals of them all.
      "partition.kind=kmeans",
      f"partition.num_clusters={clusters}",
    )
  # Whether the method's recipe is handed over only if it beats what costs nothing.
  config.guard = _block(guard.Plan())

  # Their fields, with units, are in the records that they are filled from.
  config.data = _block(data_plan.Plan())
  config.workers = _block(workers.Plan())  # where work on documents is done
  config.tokenizer = _block(tokenizer.Plan())
  config.embedding = _block(embed.Plan())
  config.grams = _block(
    grams.Plan()
  )  # runs of words, for methods that read them

  # Frozen domains, for methods that weigh them.
  config.partition = _block(domains.Plan())

  config.proxy = ConfigDict()
  config.proxy.preset = "0.3m"
  config.proxy.dtype = "float32"  # what matrices are multiplied in; or bfloat16
  # How tokens attend; on TPUs also by a fused kernel, "splash". Of the estimators
  # below `difference` alone can take it.
  config.proxy.attention = "einsum"

  config.batch = ConfigDict()
  config.batch.rows = 16  # per training step, global
  config.batch.row_tokens = 64  # (input, label) pairs

  config.optimizer = ConfigDict()  # AdamW, of proxies and final models alike
  config.optimizer.learning_rate = 1e-2  # peak
  config.optimizer.warmup_steps = 30
  config.optimizer.weight_decay = 0.01
  # It must be above zero, or AdamW has no derivative. 1e-6 is smoother for fresh
  # proxies but trains worse (5.0 and not 4.8 nats after 300 steps of the quickstart).
  config.optimizer.eps_root = 1e-8

  # How much the loops do; `Plans` says what each block is, its plan what the
  # fields mean. In Python it is config["values"], for `config.values` is a method
  # of every ConfigDict; on the command line --config.values.rounds=3 like any other.
  for name, plan in Plans()._asdict().items():
    config[name] = _block(plan)

  config.hypergradient = ConfigDict()
  config.hypergradient.estimator = "unrolled"  # a name in bilevel.HYPERGRADS
  # Bytes for the stored steps of an unroll; bilevel/memory.py chooses what is
  # stored.
  config.hypergradient.memory_bytes = 2e9

  config.mesh = ConfigDict()  # the product is the number of devices
  config.mesh.population = 1  # groups that train different proxies
  config.mesh.data = -1  # devices that share a batch; -1: all the others
  config.mesh.model = 1  # devices that share a copy of the parameters

  config.recipe = ConfigDict()
  # documents.parquet has the weight of the likeliest leaf, not the leaves' mean.
  config.recipe.harden = False
  # Workdir of a recipe to apply to `data.source`, instead of learning one.
  config.recipe.apply = ""

  config.export = ConfigDict()  # a recipe for other trainers, WORKDIR/export
  config.export.formats = ("",)[:0]  # names in recipe.export.EXPORTERS
  # Tokens of the training that is exported for; 0: as many epochs of the corpus as
  # the budget has of its pool.
  config.export.tokens = 0
  config.export.tokenizer = ""  # a path or name for trainers; "": the recipe's
  # A step of those trainers, which stages of a schedule are counted in; 0: of `batch`.
  config.export.rows = 0
  config.export.row_tokens = 0  # of each row
  config.export.root = ""  # where trainers find WORKDIR/export, as gs://...

  config.evaluate = ConfigDict()
  # Tokens of each target's test split; prompts and choices count where it has
  # questions.
  config.evaluate.max_tokens = 40_000
  config.evaluate.rows = 32  # rows that are scored together

  for method in METHODS:  # a block of options for each
    if options := factory_defaults(method):
      config[method] = options
  return config


def _block(plan: Any) -> ConfigDict:
  """The fields of a plan, with its defaults."""
  return ConfigDict(plan._asdict())
