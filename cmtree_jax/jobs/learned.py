"""A recipe as it is handed over: its parts of recipe.json and summary.json."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import cmtree_jax
from cmtree_jax import config as configs
from cmtree_jax.data.build import prepare
from cmtree_jax.embed import kmeans
from cmtree_jax.evaluate import angles
from cmtree_jax.jobs import build, cells, compare, hidden, known, variants
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe import scorer
from cmtree_jax.report import describe

SUMMARY_FILE = "summary.json"


class Learned(NamedTuple):
  """A recipe as it is handed over."""

  found: cells.Found  # of its search
  weights: partitions.Partition | DocumentWeights
  description: describe.Description
  value_N: np.ndarray  # measured values of the pool's documents
  # In a bed, what each level of a tree tells of the hidden labels.
  separations: tuple[dict[str, Any], ...] = ()

  def to_json(self, trials: Cost) -> dict[str, Any]:
    """Its part of recipe.json; `trials` is the cost of all trials of the job."""
    return {
      "partition": (
        recipes.OF_DOCUMENTS
        if isinstance(self.weights, DocumentWeights)
        else self.weights.to_json()
      ),
      **_path(self.weights),
      **self.description.to_json(),
      "ledger": {
        "search_tokens": self.found.cost.tokens,
        "search_flops": self.found.cost.flops,
        "trial_tokens": trials.tokens,
        "trial_flops": trials.flops,
      },
      "history": self.found.history,
      **({"separations": self.separations} if self.separations else {}),
    }


def _path(weights: partitions.Partition | DocumentWeights) -> dict[str, str]:
  """How the rows of its trainings were packed, where it was not document by document."""
  if not isinstance(weights, DocumentWeights) or weights.path is None:
    return {}
  return {"packing": weights.path.text()}


def save(
  job: Job, data: prepare.Prepared, made: Learned, recipe: dict[str, Any]
) -> list[Path]:
  """Writes a recipe; where it weighs documents, with a scorer of new ones, which is told.

  Args:
    job: whose workdir gets the files.
    data: the corpus.
    made: whose weights they are.
    recipe: what recipe.json holds.
  """
  for_new = None
  if isinstance(made.weights, DocumentWeights):
    log_w_N = made.weights.log_w_N
    for_new = job.described(
      "scorer of new documents", lambda: _scorer(data, log_w_N), None
    )
  if for_new:
    job.reporter.say(for_new.text())
  return recipes.save(job.workdir, recipe, learned=data.folder, for_new=for_new)


def _scorer(data: prepare.Prepared, log_w_N: Any) -> scorer.Scorer | None:
  rows = np.argsort(data.pool.key_N)[: scorer.DOCUMENTS]  # as good as random
  return scorer.fit(
    data.documents.rows(rows, "text")["text"],
    np.exp(np.asarray(log_w_N, np.float64)[rows]),
    data.pool.tokens.pairs_N[rows],
  )


def of(comparison: compare.Comparison, one: Tried) -> Learned:
  """What is handed over where a version of a search is chosen."""
  data, folder = comparison.data, comparison.folder
  cell = comparison.trials.cells(one)[0].search
  found = folder.found(cell)
  assert found is not None
  config = _own(comparison.job.config)
  weights = shown = comparison.training.versions.recipe(cell, one.version)
  if isinstance(weights, DocumentWeights):
    rows = known.sample_rows(config, data)
    shown = DocumentWeights(np.asarray(weights.log_w_N)[rows])
  description, told = comparison.job.described(
    "description of the recipe",
    lambda: _described(data, shown, config, found),
    (describe.Description(()), ()),
  )
  return Learned(found, weights, description, folder.value_N(cell), told)


def _described(
  data: prepare.Prepared,
  weights: partitions.Partition | DocumentWeights,
  config: Any,
  found: cells.Found,
) -> tuple[describe.Description, tuple[dict[str, Any], ...]]:
  """A recipe as a sample of documents shows it, and what its levels separate.

  Args:
    data: the corpus.
    weights: of leaves, or of the documents of the sample.
    config: of the search.
    found: of the search.
  """
  sample = known.sample(config, data)
  description = describe.describe(weights, sample)
  if isinstance(weights, partitions.TreePartition):
    levels = angles.view_shares(
      weights.weights.theta, sample.embedding_NE, sample.mass_N, data.blocks
    )
    grown = tuple(row for row in found.history if "event" in row)
    description = description._replace(levels=tuple(levels), growth=grown)
  told: list[dict[str, Any]] = []
  if hidden.has_factor(data) and not isinstance(weights, DocumentWeights):
    rows = known.sample_rows(config, data)
    told = hidden.separations(weights, data, rows)
  return description, tuple(told)


def facts(config: Any, data: prepare.Prepared) -> dict[str, Any]:
  """What a recipe was made from: its part of recipe.json."""
  return {
    "format": recipes.FORMAT,
    "cmtree_jax": cmtree_jax.__version__,
    "budget": build.budget(config, data).to_json(),
    "method": config.method,
    "targets": list(data.targets),
    "config": config.to_dict(),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "overlap": data.manifest["overlap"],
    "skipped": data.manifest["skipped"],
    "repeated_texts": data.manifest["repeated_texts"],
    "notes": list(data.notes),
    **_proxy_views(data),
  }


def _proxy_views(data: prepare.Prepared) -> dict[str, Any]:
  """What views of a model cost, and would cost of documents that are new."""
  told = data.manifest.get("proxy_views")
  return {"proxy_views": told} if told else {}


def summary(
  comparison: compare.Comparison, one: Learned, begin: float
) -> dict[str, Any]:
  """What is worth knowing of the job as a whole: summary.json."""
  config, data = comparison.job.config, comparison.data
  return {
    "wall_seconds": round(time.monotonic() - begin, 1),
    "peak_rss_bytes": workdirs.peak_rss_bytes(),
    "nmi_source": comparison.job.described(
      "information on the sources", lambda: _nmi(comparison, one), {}
    ),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "git_commit": workdirs.git_commit(),
    "documents": len(data.pool),
    "tokens": int(data.pool.tokens.pairs_N.sum()),
    "budget": build.budget(config, data).to_json(),
    "overlap": data.manifest["overlap"],
    "device": str(jax.devices()[0].device_kind),
  }


def _nmi(comparison: compare.Comparison, one: Learned) -> dict[str, float]:
  """How much domains, leaves and k-means tell of the hidden sources."""
  config, data = comparison.job.config, comparison.data
  source_N, names = data.documents.labels("source")
  if len(names) < 2:
    return {}
  kept = known.sample_rows(_own(config), data)
  given = comparison.partitions.under(config.method, 0)["given"]
  of_N = {"partition": given.domain_N[kept]}
  if not isinstance(one.weights, DocumentWeights):
    embedding_NE = np.asarray(data.pool.embedding_NE[kept])
    labels = [names[i] for i in source_N[kept]]
    log_p_NL = one.weights.log_p_leaf(embedding_NE, labels)
    same = kmeans.fit(
      embedding_NE, num_clusters=log_p_NL.shape[1], seed=config.seed
    )
    of_N["leaves"] = np.argmax(log_p_NL, axis=1)
    of_N["kmeans_same_leaves"] = kmeans.assign(embedding_NE, same.center_LE)
  return {
    name: angles.nmi(one_N, source_N[kept]) for name, one_N in of_N.items()
  }


def _own(config: Any) -> Any:
  """The config of the search, where the job's method is a variant."""
  return variants.config_of(config.method, config)
