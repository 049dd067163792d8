"""The story of a main job whose method moves the final training itself.

There is no recipe to judge and none to hand over: what it ends with is a model, the
schedule that it was trained on, and the table in which it stands beside others.
"""

import time
from pathlib import Path

from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.jobs import (
  cells,
  compare,
  learned,
  online_told,
  proxy_views,
  trials,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe import trained as models
from cmtree_jax.report import tables


def story(job: Job) -> Show:
  """Compares, and hands over the run of the first seed."""
  begin = time.monotonic()
  config, workdir = job.config, job.workdir
  data = proxy_views.added(job, jobs.prepared(job))
  plan = plans.of_recipe(config, data)
  folder = cells.Folder(workdir / "cells")
  one = compare.Comparison.make(job, data, plan, folder)
  compare.find(one)
  rows = compare.train(one, trials.choose(one.trials))
  standings, files = compare.write(one, rows)
  (target_set,) = plan.target_sets
  cell = plan.search(config.method, target_set, 0)
  files += _files(folder.kept(cell))
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

  def show():
    tables.show(standings)
    tables.show_files(files)

  return show


def _files(kept: Path) -> list[Path]:
  """Of a run."""
  names = (models.FILE, schedules.FILE, schedules.TABLE_FILE)
  return [kept / name for name in names]
