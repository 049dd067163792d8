"""The story of a main job: a comparison on one set of targets, and a recipe of it."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import cmtree_jax
from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.embed import kmeans
from cmtree_jax.evaluate import angles, results
from cmtree_jax.jobs import apply, cells, compare, search, variants
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import describe, tables

COMPARISON_FILE = "comparison.json"
SUMMARY_FILE = "summary.json"


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Runs one job to its end, or continues it; returns the exit status.

  Args:
    config: locked; see configs/default.py.
    workdir: gets config.json, the cells and all results.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the data is wrong; nothing is lost.
    Fault: a loss is not finite, after saving.
  """
  plans.check_recipe(config)
  story = apply.story if config.recipe.apply else _story
  return jobs.run(story, config, workdir, overwrite=overwrite)


def _story(job: Job) -> Show:
  begin = time.monotonic()
  config, workdir = job.config, job.workdir
  data = jobs.prepared(job)
  plan = plans.of_recipe(config, data)
  folder = cells.Folder(workdir / "cells")
  comparison = compare.Comparison.make(job, data, plan, folder)
  rows = compare.compare(comparison)
  standings, files = compare.write(comparison, rows)
  beside = results.comparison(rows)
  store.write_atomically(workdir / COMPARISON_FILE, store.to_json(beside))
  learned = _learned(comparison)
  files.append(workdir / COMPARISON_FILE)
  files += apply.hand_over(
    learned.weights, learned.description.nodes, job, data, learned.value_N
  )
  files += recipes.save(
    workdir,
    {**_facts(config, data), **learned.to_json(), "comparison": beside},
    learned=data.folder,
  )
  summary = _summary(comparison, learned, begin)
  store.write_atomically(workdir / SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / SUMMARY_FILE)
  chosen = next(one for one in standings if one.method == config.method)

  def show():
    tables.show(standings)
    tables.show_recipe(learned.description, chosen, summary)
    tables.show_files(files)

  return show


class Learned(NamedTuple):
  """What the job's method found, as it is handed over."""

  found: cells.Found
  weights: partitions.Partition | DocumentWeights
  description: describe.Description
  value_N: np.ndarray  # measured values of the pool's documents

  def to_json(self) -> dict[str, Any]:
    """Its part of recipe.json."""
    return {
      "partition": self.found.partition or recipes.OF_DOCUMENTS,
      **self.description.to_json(),
      "ledger": {
        "search_tokens": self.found.cost.tokens,
        "search_flops": self.found.cost.flops,
      },
      "history": self.found.history,
    }


def _learned(comparison: compare.Comparison) -> Learned:
  job, data, plan, folder, _ = comparison
  (target_set,) = plan.target_sets
  cell = plan.search(job.config.method, target_set, 0)
  found = folder.found(cell)
  assert found is not None
  rows = search.sample_rows(_own(job.config), len(data.pool))
  if found.partition is None:
    log_w_N = folder.log_w_N(cell)
    weights, shown = DocumentWeights(log_w_N), DocumentWeights(log_w_N[rows])
  else:
    weights = shown = partitions.partition_from_json(found.partition)
  texts, mass_N = (
    data.documents.rows(rows, "id", "text"),
    data.pool.tokens.mass_N,
  )
  description = describe.describe(
    shown,
    np.asarray(data.pool.embedding_NE[rows]),
    mass_N[rows] / mass_N[rows].sum(),
    texts["text"],
    texts["id"],
  )
  return Learned(found, weights, description, folder.value_N(cell))


def _own(config: Any) -> Any:
  """The config of the search, where the job's method is a variant."""
  return variants.config_of(config.method, config)


def _facts(config: Any, data: prepare.Prepared) -> dict[str, Any]:
  """What a recipe was made from: its part of recipe.json."""
  return {
    "format": 1,
    "cmtree_jax": cmtree_jax.__version__,
    "method": config.method,
    "targets": list(data.targets),
    "config": config.to_dict(),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "overlap": data.manifest["overlap"],
    "skipped": data.manifest["skipped"],
    "repeated_texts": data.manifest["repeated_texts"],
    "notes": list(data.notes),
  }


def _summary(
  comparison: compare.Comparison, learned: Learned, begin: float
) -> dict[str, Any]:
  """What is worth knowing of the job as a whole: summary.json."""
  config, data = comparison.job.config, comparison.data
  return {
    "wall_seconds": round(time.monotonic() - begin, 1),
    "peak_rss_bytes": workdirs.peak_rss_bytes(),
    "nmi_source": _nmi(comparison, learned),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "git_commit": workdirs.git_commit(),
    "documents": len(data.pool),
    "tokens": int(data.pool.tokens.pairs_N.sum()),
    "overlap": data.manifest["overlap"],
    "device": str(jax.devices()[0].device_kind),
  }


def _nmi(comparison: compare.Comparison, learned: Learned) -> dict[str, float]:
  """How much domains, leaves and k-means tell of the hidden sources."""
  config, data = comparison.job.config, comparison.data
  source_N, names = data.documents.labels("source")
  if len(names) < 2:
    return {}
  kept = search.sample_rows(_own(config), len(data.pool))
  given = comparison.partitions.under(config.method)["given"]
  of_N = {"partition": given.domain_N[kept]}
  if not isinstance(learned.weights, DocumentWeights):
    embedding_NE = np.asarray(data.pool.embedding_NE[kept])
    log_p_NL = learned.weights.log_p_leaf(embedding_NE)
    same = kmeans.fit(
      embedding_NE, num_clusters=log_p_NL.shape[1], seed=config.seed
    )
    of_N[config.method] = np.argmax(log_p_NL, axis=1)
    of_N["kmeans_same_leaves"] = kmeans.assign(embedding_NE, same.center_LE)
  return {
    name: angles.nmi(one_N, source_N[kept]) for name, one_N in of_N.items()
  }
