"""The story of a main job: a comparison on one set of targets, and a recipe of it.

The method is judged before the test split is read; if it does not beat what costs
nothing, that is handed over in its place (`guard.py`).
"""

import time
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax import processes
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import packing
from cmtree_jax.evaluate import concentration, results, shares
from cmtree_jax.jobs import (
  apply,
  build,
  cells,
  compare,
  from_runs,
  guard,
  hidden,
  learned,
  online_job,
  proxy_views,
  reported,
  scheduled,
  selected,
  untargeted,
  variants,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import domains, export, policies
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.report import guard as guard_report
from cmtree_jax.report import tables

COMPARISON_FILE = "comparison.json"


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
  if from_runs.BLOCK in config:
    return from_runs.run(config, workdir, overwrite=overwrite)
  plans.check_recipe(config)
  export.require_place(
    workdir / apply.EXPORT_FOLDER,
    config.export.formats,
    apply.export_root(config, workdir),
  )
  story = _story
  if config.recipe.apply:
    is_schedule = schedules.is_in(config.recipe.apply)
    story = scheduled.story if is_schedule else apply.story
  elif build.is_online(variants.config_of(config.method, config)):
    story = online_job.story
  return jobs.run(story, config, workdir, overwrite=overwrite)


def _story(job: Job) -> Show | None:
  begin = time.monotonic()
  data = proxy_views.added(job, jobs.prepared(job))
  if not data.targets:
    return untargeted.story(job, data, begin)
  comparison, guarded = _judged(job, data)
  rows = compare.train(comparison, guarded.choice)
  return processes.by_first(lambda: _written(comparison, guarded, rows, begin))


def _written(
  comparison: compare.Comparison,
  guarded: guard.Guarded,
  rows: list[dict[str, Any]],
  begin: float,
) -> Show:
  """Tables, what is handed over, and the summary of a job that began then."""
  job, data = comparison.job, comparison.data
  config, workdir = job.config, job.workdir
  above = guard_report.markdown(guarded.verdict, guarded.told)
  standings, files = compare.write(comparison, rows, above + "\n")
  beside = results.comparison(rows)
  store.write_atomically(workdir / COMPARISON_FILE, store.to_json(beside))
  made = learned.of(comparison, guarded.handed)
  files.append(workdir / COMPARISON_FILE)
  told = _told(comparison, guarded) | {"comparison": beside}
  files += apply.hand_over(
    made.weights,
    made.description.nodes,
    job,
    data,
    made.value_N,
    method=guarded.handed.method,
    learned_for=build.budget(config, data),
    save=lambda: _saved(comparison, guarded, made, told),
  )
  (target_set,) = comparison.plan.target_sets
  own = comparison.plan.search(config.method, target_set, 0)
  # Also where the guard hands over another recipe.
  files += policies.hand_over(comparison.folder.kept(own), workdir)
  summary = {
    **learned.summary(comparison, made, begin),
    "handed_over": told.pop("guard")["handed_over"],
    "why": guarded.why,
    **{name: one for name, one in told.items() if name != "comparison"},
  }
  store.write_atomically(workdir / learned.SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / learned.SUMMARY_FILE)
  files += reported.write(job, data)
  chosen = next(one for one in standings if one.method == guarded.handed.method)

  def show():
    tables.show(standings)
    guard_report.show(guarded.verdict, guarded.told)
    tables.show_recipe(made.description, chosen, summary)
    tables.show_files(files)

  return show


def _saved(
  comparison: compare.Comparison,
  guarded: guard.Guarded,
  made: learned.Learned,
  told: dict[str, Any],
) -> list[Path]:
  """Writes the recipe and what it keeps of single documents, which `told` gets too."""
  job, data, files = comparison.job, comparison.data, []
  if isinstance(made.weights, DocumentWeights):
    chosen_from, files = selected.write(comparison, guarded.handed)
    told["selection"] = chosen_from.to_json()
  recipe = {
    **learned.facts(job.config, data),
    "method": guarded.handed.method,
    **made.to_json(guarded.cost),
    **told,
  }
  return [*files, *learned.save(job, data, made, recipe)]


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
    [name for name in table.methods if name not in table.online],
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
    own = learned.of(comparison, guarded.own)
    judged["instead_of"] = own.to_json(guarded.cost)
  share = judged["handed_over"]["effective_sample_size"]
  return {
    "guard": judged,
    "concentration": _concentration(comparison, share),
    "token_shares": _token_shares(comparison, guarded.handed),
  }


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
    **hidden.labels(data),
  }
  return {
    name: [
      share.to_json(budget.tokens)
      for share in shares.of_groups(group_N, names, log_w_N, mass_N)
    ]
    for name, (group_N, names) in groups.items()
  }
