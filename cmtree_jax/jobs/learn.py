"""The story of a main job: a comparison on one set of targets, and a recipe of it.

The method is judged before the test split is read; if it does not beat what costs
nothing, that is handed over in its place (`guard.py`).
"""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import cmtree_jax
from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import kmeans
from cmtree_jax.evaluate import angles, concentration, results, shares
from cmtree_jax.jobs import (
  apply,
  build,
  cells,
  compare,
  guard,
  known,
  variants,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import domains, export
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import describe, tables
from cmtree_jax.report import guard as guard_report

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
  comparison, guarded = _judged(job, data)
  rows = compare.train(comparison, guarded.choice)
  above = guard_report.markdown(guarded.verdict, guarded.told)
  standings, files = compare.write(comparison, rows, above + "\n")
  beside = results.comparison(rows)
  store.write_atomically(workdir / COMPARISON_FILE, store.to_json(beside))
  learned = _learned(comparison, guarded.handed)
  files.append(workdir / COMPARISON_FILE)
  files += apply.hand_over(
    learned.weights,
    learned.description.nodes,
    job,
    data,
    learned.value_N,
    learned_for=build.budget(config, data),
  )
  told = _told(comparison, guarded)
  recipe = {
    **_facts(config, data),
    "method": guarded.handed.method,
    **learned.to_json(guarded.cost),
    **told,
    "comparison": beside,
  }
  files += recipes.save(workdir, recipe, learned=data.folder)
  summary = {
    **_summary(comparison, learned, begin),
    "handed_over": told["guard"]["handed_over"],
    "why": guarded.why,
    "concentration": told["concentration"],
    "token_shares": told["token_shares"],
  }
  store.write_atomically(workdir / SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / SUMMARY_FILE)
  chosen = next(one for one in standings if one.method == guarded.handed.method)

  def show():
    tables.show(standings)
    guard_report.show(guarded.verdict, guarded.told)
    tables.show_recipe(learned.description, chosen, summary)
    tables.show_files(files)

  return show


def _judged(
  job: Job, data: prepare.Prepared
) -> tuple[compare.Comparison, guard.Guarded]:
  """Searches and trials: (what the table compares, what is handed over)."""
  config = job.config
  table = plans.of_recipe(config, data)
  plan = plans.of_recipe(config, data, plans.rivals(config))
  folder = cells.Folder(job.workdir / "cells")
  comparison = compare.Comparison.make(job, data, plan, folder)
  compare.find(comparison)
  formats = set(config.export.formats)
  guarded = guard.judge(
    comparison.trials,
    guard.Plan(**config.guard),
    table.methods,
    leaves_only=not formats <= set(export.OF_DOCUMENTS),
  )
  more = [guarded.rival.method] if guarded.rival else []
  plan = plans.of_recipe(config, data, more)
  return comparison._replace(plan=plan), guarded


def _told(
  comparison: compare.Comparison, guarded: guard.Guarded
) -> dict[str, Any]:
  """What recipe.json says of the guard, and of what was handed over."""
  judged = guarded.to_json(comparison.trials)
  if guarded.handed != guarded.own:
    own = _learned(comparison, guarded.own)
    judged["instead_of"] = own.to_json(guarded.cost)
  share = judged["handed_over"]["effective_sample_size"]
  return {
    "guard": judged,
    "concentration": _concentration(comparison, share),
    "token_shares": _token_shares(comparison, guarded.handed),
  }


class Learned(NamedTuple):
  """A recipe as it is handed over."""

  found: cells.Found  # of its search
  weights: partitions.Partition | DocumentWeights
  description: describe.Description
  value_N: np.ndarray  # measured values of the pool's documents

  def to_json(self, trials: Cost) -> dict[str, Any]:
    """Its part of recipe.json; `trials` is the cost of all trials of the job."""
    return {
      "partition": (
        recipes.OF_DOCUMENTS
        if isinstance(self.weights, DocumentWeights)
        else self.weights.to_json()
      ),
      **self.description.to_json(),
      "ledger": {
        "search_tokens": self.found.cost.tokens,
        "search_flops": self.found.cost.flops,
        "trial_tokens": trials.tokens,
        "trial_flops": trials.flops,
      },
      "history": self.found.history,
    }


def _learned(comparison: compare.Comparison, one: Tried) -> Learned:
  data, folder = comparison.data, comparison.folder
  cell = comparison.trials.cells(one)[0].search
  found = folder.found(cell)
  assert found is not None
  rows = known.sample_rows(_own(comparison.job.config), len(data.pool))
  weights = shown = comparison.training.versions.recipe(cell, one.version)
  if isinstance(weights, DocumentWeights):
    shown = DocumentWeights(np.asarray(weights.log_w_N)[rows])
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


def _concentration(
  comparison: compare.Comparison, share: float
) -> dict[str, float]:
  """What was found to be the best share to keep, and what a larger training keeps.

  Compute is 6 P B, for P parameters less embeddings and B tokens.
  """
  config, data = comparison.job.config, comparison.data
  trial, budget = build.plans(config).trial, build.budget(config, data)
  size = comparison.training.model_of(trial.preset).num_non_embedding
  rows = trial.steps * config.batch.rows
  compute = 6.0 * size * rows * config.batch.row_tokens
  at_budget = 6.0 * budget.parameters * budget.tokens
  extrapolated, slope = concentration.extrapolated({compute: share}, at_budget)
  return {
    "share": share,
    "compute": compute,
    "budget_compute": at_budget,
    "share_at_budget": extrapolated,
    "slope": slope,
  }


def _token_shares(comparison: compare.Comparison, one: Tried) -> dict[str, Any]:
  """Where the recipe's tokens go: near which target, from which source."""
  data, versions = comparison.data, comparison.training.versions
  log_w_N = versions.log_w_N(
    comparison.trials.cells(one)[0].search, one.version
  )
  pool, mass_N = data.pool, data.pool.tokens.mass_N
  driving = {n: s["train"] for n, s in data.targets.items() if len(s["train"])}
  near_N = shares.nearest(
    (
      np.asarray(pool.embedding_NE[rows])
      for rows in packing.chunks(len(pool), domains.CHUNK)
    ),
    [np.asarray(texts.embedding_NE) for texts in driving.values()],
  )
  budget = build.budget(comparison.job.config, data)
  groups = {
    "nearest_target": (near_N, tuple(driving)),
    "source": data.documents.labels("source"),
  }
  return {
    name: [
      share.to_json(budget.tokens)
      for share in shares.of_groups(group_N, names, log_w_N, mass_N)
    ]
    for name, (group_N, names) in groups.items()
  }


def _own(config: Any) -> Any:
  """The config of the search, where the job's method is a variant."""
  return variants.config_of(config.method, config)


def _facts(config: Any, data: prepare.Prepared) -> dict[str, Any]:
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
    "budget": build.budget(config, data).to_json(),
    "overlap": data.manifest["overlap"],
    "device": str(jax.devices()[0].device_kind),
  }


def _nmi(comparison: compare.Comparison, learned: Learned) -> dict[str, float]:
  """How much domains, leaves and k-means tell of the hidden sources."""
  config, data = comparison.job.config, comparison.data
  source_N, names = data.documents.labels("source")
  if len(names) < 2:
    return {}
  kept = known.sample_rows(_own(config), len(data.pool))
  given = comparison.partitions.under(config.method, 0)["given"]
  of_N = {"partition": given.domain_N[kept]}
  if not isinstance(learned.weights, DocumentWeights):
    embedding_NE = np.asarray(data.pool.embedding_NE[kept])
    log_p_NL = learned.weights.log_p_leaf(embedding_NE)
    same = kmeans.fit(
      embedding_NE, num_clusters=log_p_NL.shape[1], seed=config.seed
    )
    of_N["leaves"] = np.argmax(log_p_NL, axis=1)
    of_N["kmeans_same_leaves"] = kmeans.assign(embedding_NE, same.center_LE)
  return {
    name: angles.nmi(one_N, source_N[kept]) for name, one_N in of_N.items()
  }
