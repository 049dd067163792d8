"""The story of a main job whose method moves the final training itself.

There is no recipe to judge and none to hand over: what it ends with is a model, the
table in which it stands beside others, and the schedule that it was trained on, in the
formats of trainers and as a folder that other corpora are weighed with.
"""

import time
from pathlib import Path
from typing import Any

from cmtree_jax import config as configs
from cmtree_jax import processes
from cmtree_jax.data import store
from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.jobs import (
  build,
  cells,
  compare,
  learned,
  online_told,
  proxy_views,
  reported,
  scheduled,
  trials,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe import trained as models
from cmtree_jax.report import tables


def story(job: Job) -> Show | None:
  """Compares, and hands over the run of the first seed."""
  begin = time.monotonic()
  data = proxy_views.added(job, jobs.prepared(job))
  plan = plans.of_recipe(job.config, data)
  folder = cells.Folder(job.workdir / "cells")
  one = compare.Comparison.make(job, data, plan, folder)
  compare.find(one)
  rows = compare.train(one, trials.choose(one.trials))
  return processes.by_first(lambda: _written(one, rows, begin))


def _written(
  one: compare.Comparison, rows: list[dict[str, Any]], begin: float
) -> Show:
  """Tables, what is handed over, and the summary of a job that began then."""
  job, data, plan, folder = one.job, one.data, one.plan, one.folder
  config, workdir = job.config, job.workdir
  standings, files = compare.write(one, rows)
  (target_set,) = plan.target_sets
  cell = plan.search(config.method, target_set, 0)
  files += [folder.kept(cell) / models.FILE]
  files += _handed_over(job, data, folder, cell)
  files += online_told.write(job, data, plan, folder)
  summary = {
    "wall_seconds": round(time.monotonic() - begin, 1),
    "peak_rss_bytes": workdirs.peak_rss_bytes(),
    "config_digest": configs.digest(config),
    "corpus_digest": data.digest,
    "git_commit": workdirs.git_commit(),
    "method": config.method,
    "model": str(folder.kept(cell).relative_to(workdir)),
  }
  store.write_atomically(workdir / learned.SUMMARY_FILE, store.to_json(summary))
  files.append(workdir / learned.SUMMARY_FILE)
  files += reported.write(job, data)

  def show():
    tables.show(standings)
    tables.show_files(files)

  return show


def _handed_over(
  job: Job, data: Prepared, folder: cells.Folder, cell: cells.Search
) -> list[Path]:
  """What a run was trained on, for this corpus, for trainers and for other corpora."""
  schedule = schedules.load(folder.kept(cell))
  made = learned.facts(job.config, data)
  return [
    *schedules.hand_over(job.workdir, schedule, made, learned=data.folder),
    *scheduled.hand_over(
      schedule,
      job,
      data,
      folder.value_N(cell),
      learned_for=build.budget(job.config, data),
    ),
  ]
