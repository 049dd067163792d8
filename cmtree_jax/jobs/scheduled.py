"""A schedule on a corpus: every document's weights by stage, and files for trainers."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax import budget as budgets
from cmtree_jax import processes
from cmtree_jax.budget import Budget
from cmtree_jax.data import mirror, store
from cmtree_jax.data.build import prepare
from cmtree_jax.embed import of_proxy
from cmtree_jax.jobs import apply, build, reported
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.recipe import assign, export
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe.schedule import Schedule
from cmtree_jax.report import describe, tables
from cmtree_jax.types import UserError


def story(job: Job) -> Show | None:
  """Applies a schedule to a corpus that may outgrow the one it was made on."""
  config, folder = job.config, mirror.reading(job.config.recipe.apply)
  schedule, made = schedules.load(folder), schedules.made_from(folder)
  if told := made.get("proxy_views"):
    raise UserError(of_proxy.refusal(told["flops_per_token"]))
  apply.require_readers(made["config"], folder, config)
  export.require_stages(config.export.formats)
  data = jobs.prepared(job, learned=folder)
  learned_for = budgets.from_json(made["budget"])
  job.reporter.say(
    f"Schedule of {folder}, {len(schedule.stages)} stages. {learned_for.text()}"
  )
  value_N = np.full(len(data.pool), np.nan, np.float32)

  def written() -> Show:
    files = recipes.save_readers(job.workdir, learned=folder)
    files += hand_over(schedule, job, data, value_N, learned_for=learned_for)
    files += reported.write(job, data)
    return lambda: tables.show_files(files)

  return processes.by_first(written)


def hand_over(
  schedule: Schedule,
  job: Job,
  data: prepare.Prepared,
  value_N: np.ndarray,
  *,
  learned_for: Budget,
) -> list[Path]:
  """Writes documents.parquet and the exports that the config asks for.

  The table has the mean weight of every document over the training; every stage is
  under the cap of a budget, the job's own there and that of the export in exports.

  Args:
    schedule: stages with their leaves and weights.
    job: whose workdir gets the files.
    data: the corpus.
    value_N: measured values of the documents; NaN where never measured.
    learned_for: the budget of the job that made the schedule.
  """
  config, workdir = job.config, job.workdir
  folder = workdir / "assigned"
  assigned = [
    assign.assign(
      stage.partition,
      data,
      folder / f"{number:05d}",
      job.workers,
      harden=config.recipe.harden,
      value_N=value_N,
    )
    for number, stage in enumerate(schedule.stages)
  ]
  documents = workdir / assign.DOCUMENTS_FILE
  budget = build.budget(config, data)
  capped = assign.join_stages(
    assigned, schedule.share_G, documents, max_weight=budget.max_weight
  )
  apply.tell_cap(capped, job)
  files = [documents]
  if config.export.formats:
    within = build.export_budget(config, data)
    facts = apply.export_facts(
      job,
      data,
      [file for stage in assigned for file in stage],
      method=schedule.method,
      learned_for=learned_for,
    )
    corpus = _corpus(schedule, assigned, job, data, within)
    files += apply.export_to(corpus, job, within, facts)
  store.remove(folder)
  return files


def _corpus(
  schedule: Schedule,
  assigned: Sequence[Sequence[Path]],
  job: Job,
  data: prepare.Prepared,
  budget: Budget,
) -> export.Corpus:
  """What an export is made from: the leaves at the end, and weights by stage."""
  paths = describe.leaf_paths(schedule.stages[-1].partition)
  names = dict(zip(paths, schedule.names, strict=True))
  rows, row_tokens = _step(job.config)
  bounds = schedule.bounds(budget.tokens / (rows * row_tokens))
  stages = tuple(
    export.Stage(
      bounds[number],
      bounds[number + 1],
      share,
      tuple(
        functools.partial(assign.load_column, path, "weight") for path in files
      ),
    )
    for number, (share, files) in enumerate(
      zip(schedule.share_G.tolist(), assigned, strict=True)
    )
  )
  corpus = assign.corpus(assigned[-1], data, names, job.workers)
  return corpus._replace(stages=stages, step_rows=rows)


def _step(config: Any) -> tuple[int, int]:
  """Rows of a step of the trainer, and tokens of a row."""
  return (
    config.export.rows or config.batch.rows,
    config.export.row_tokens or config.batch.row_tokens,
  )
