"""The story of a main job without a target: one recipe, and what it did to the corpus.

Nothing can be tried, judged or trained for a target that is not there, so what the
search finds is handed over as it is: for deduplication, balancing and pruning.
"""

from pathlib import Path
from typing import Any

from cmtree_jax import processes
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.jobs import (
  apply,
  build,
  cells,
  compare,
  learned,
  reported,
  selected,
  variants,
)
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.jobs.trials import Tried
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.report import selection, tables


def story(job: Job, data: prepare.Prepared, begin: float) -> Show | None:
  """Searches, hands over, and tells what is kept, what is not, and why.

  Args:
    job: config and workdir.
    data: a corpus without targets.
    begin: when the job began.
  Raises:
    UserError: the method chooses for a target.
  """
  plans.require_untargeted(job.config)
  job.reporter.say(_told(job.config))
  tried = Tried(job.config.method, cells.ANY)
  comparison = _found(job, data, tried)
  return processes.by_first(lambda: _written(comparison, tried, begin))


def _written(
  comparison: compare.Comparison, tried: Tried, begin: float
) -> Show:
  """What is handed over of a job that began then, and told of it."""
  job, data = comparison.job, comparison.data
  config, workdir = job.config, job.workdir
  made = learned.of(comparison, tried)
  found: list[selection.Selection] = []

  def save() -> list[Path]:
    chosen_from, written = selected.write(comparison, tried)
    found.append(chosen_from)
    recipe = {
      **learned.facts(config, data),
      **made.to_json(Cost()),
      "selection": chosen_from.to_json(),
    }
    return [*written, *learned.save(job, data, made, recipe)]

  files = apply.hand_over(
    made.weights,
    made.description.nodes,
    job,
    data,
    made.value_N,
    method=config.method,
    learned_for=build.budget(config, data),
    save=save,
  )
  summary = {
    **learned.summary(comparison, made, begin),
    "why": _told(config),
    "selection": found[0].to_json(),
  }
  store.write_atomically(workdir / learned.SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / learned.SUMMARY_FILE)
  files += reported.write(job, data)

  def show():
    selection.show(found[0])
    tables.show_files(files)

  return show


def _found(
  job: Job, data: prepare.Prepared, tried: Tried
) -> compare.Comparison:
  """A comparison of nothing, whose one search is done."""
  plan = plans.of_untargeted(tried.method)
  folder = cells.Folder(job.workdir / "cells")
  comparison = compare.Comparison.make(job, data, plan, folder)
  cell = cells.Search(tried.method, tried.target_set, 0)
  if folder.found(cell) is None:
    own = variants.config_of(tried.method, job.config)
    job.reporter.expect(build.search_work(own.method, own))
    compare.search_cell(cell, comparison)
  return comparison


def _told(config: Any) -> str:
  others = [name for name in config.baselines if name != config.method]
  line = (
    "No target: no recipe is tried, judged or trained, and that of "
    f"{config.method} is handed over as it is."
  )
  if others:
    line += f" Not compared: {', '.join(others)} (config.baselines)."
  return line
