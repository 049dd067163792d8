"""The story of a main job: a comparison on one set of targets, and a recipe of it."""

import math
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
  folder = cells.Folder(workdir / "cells").make()
  comparison = compare.Comparison.make(job, data, plan, folder)
  rows = compare.compare(comparison)
  standings, files = compare.write(comparison, rows)
  beside = results.comparison(rows)
  store.write_atomically(workdir / COMPARISON_FILE, store.to_json(beside))
  learned = _learned(comparison)
  files.append(workdir / COMPARISON_FILE)
  files += recipes.save(
    workdir,
    {**_facts(config, data), **learned.to_json(), "comparison": beside},
    learned=data.folder,
  )
  files += apply.hand_over(
    learned.leaves, learned.nodes, job, data, learned.value_N
  )
  summary = _summary(comparison, learned, begin)
  store.write_atomically(workdir / SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / SUMMARY_FILE)
  chosen = next(one for one in standings if one.method == config.method)

  def show():
    tables.show(standings)
    tables.show_recipe(learned.nodes, chosen, summary)
    tables.show_files(files)

  return show


class Learned(NamedTuple):
  """What the job's method found, as it is handed over."""

  found: cells.Found
  leaves: partitions.Partition
  nodes: list[describe.Node]
  value_N: np.ndarray  # measured values of the pool's documents

  def to_json(self) -> dict[str, Any]:
    """Its part of recipe.json."""
    return {
      "partition": self.found.partition,
      "nodes": [node._asdict() for node in self.nodes],
      "mixtures": describe.children(self.nodes),
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
  assert found is not None and found.partition is not None
  leaves = partitions.partition_from_json(found.partition)
  nodes = _nodes(leaves, _own(job.config), data)
  return Learned(found, leaves, nodes, folder.value_N(cell))


def _own(config: Any) -> Any:
  """The config of the search, where the job's method is a variant."""
  return variants.config_of(config.method, config)


def _nodes(
  leaves: partitions.Partition, config: Any, data: prepare.Prepared
) -> list[describe.Node]:
  """Every node of the recipe as a person reads it."""
  pool, rows = data.pool, search.sample_rows(config, len(data.pool))
  texts = data.documents.rows(rows, "id", "text")
  mass_N = pool.tokens.mass_N[rows]
  return describe.nodes(
    leaves,
    np.asarray(pool.embedding_NE[rows]),
    mass_N / mass_N.sum(),
    texts["text"],
    texts["id"],
  )


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
  """How much leaves, domains and k-means tell of the hidden sources."""
  config, data = comparison.job.config, comparison.data
  source_N, names = data.documents.labels("source")
  if len(names) < 2:
    return {}
  own = _own(config)
  kept = search.sample_rows(own, len(data.pool))
  embedding_NE = np.asarray(data.pool.embedding_NE[kept])
  leaf_N = np.argmax(learned.leaves.log_p_leaf(embedding_NE), axis=1)
  same = kmeans.fit(
    embedding_NE,
    num_clusters=math.prod(learned.leaves.branching),
    seed=config.seed,
  )
  given = comparison.partitions.under(config.method)["given"]
  return {
    name: angles.nmi(found_N, source_N[kept])
    for name, found_N in (
      (config.method, leaf_N),
      ("partition", given.domain_N[kept]),
      ("kmeans_same_leaves", kmeans.assign(embedding_NE, same.center_LE)),
    )
  }
