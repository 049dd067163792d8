"""The story of a comparison: prepare once, search, try, train, score, table."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import config as configs
from cmtree_jax import processes
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.draw import bundles
from cmtree_jax.evaluate.results import Standing, standings
from cmtree_jax.jobs import (
  build,
  cells,
  final,
  online,
  online_told,
  programs,
  proxy_views,
  reported,
  rows,
  search,
  trials,
  variants,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import policies
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report import figures, tables
from cmtree_jax.types import UserError

RESULTS_FILE = "results.parquet"
TABLE_FILE = "table.md"
FIGURE_FILE = "comparison.svg"


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Runs one comparison to its end, or continues it; returns the exit status.

  Args:
    config: locked; see configs/compare.py.
    workdir: gets config.json, the cells and all results.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the data is wrong; nothing is lost.
    Fault: a loss is not finite, after saving.
  """
  plans.check_comparison(config)
  return jobs.run(_story, config, workdir, overwrite=overwrite)


def _story(job: Job) -> Show | None:
  plan = plans.of_comparison(job.config)
  with cell_folder(job.config, job.workdir) as folder:
    data = prepared(job, plan)
    if job.config.compare.cells:
      processes.by_first(
        lambda: workdirs.claim_corpus(folder.path, data.digest, workdirs.SHARED)
      )
    comparison = Comparison.make(job, data, plan, folder)
    find(comparison)
    choice = trials.choose(comparison.trials)
    found_rows = train(comparison, choice)

    def written() -> Show:
      found, files = write(comparison, found_rows)
      files += online_told.write(job, data, plan, folder)
      files += reported.write(job, data)

      def show():
        tables.show(found)
        tables.show_files(files)

      return show

    return processes.by_first(written)


@contextlib.contextmanager
def cell_folder(config: Any, workdir: Path) -> Iterator[cells.Folder]:
  """Where the cells are; several comparisons may share those of one folder.

  Raises:
    UserError: the shared folder's cells are of other settings, or another job is
      at work on them.
  """
  shared = config.compare.cells
  if not shared:
    yield cells.Folder(workdir / "cells")
    return
  same = config.copy_and_resolve_references().unlock()
  # Which cells are done may differ, and a cell tells of which variant it is.
  same.compare = {"search_seeds": config.compare.search_seeds}
  del same.variants
  by = workdirs.SHARED
  folder = workdirs.folder(shared, by)
  same.lock()
  with workdirs.held(folder, by):
    processes.by_first(
      lambda: workdirs.claim_workdir(
        folder, same, overwrite=False, chosen_by=by
      )
    )
    yield cells.Folder(folder)


def prepared(job: Job, plan: cells.Plan) -> prepare.Prepared:
  """The corpus with the targets that are compared."""
  config = job.config.copy_and_resolve_references()
  needed = dict.fromkeys(
    one
    for place in plan.places
    for one in ((place.searched, "train"), *place.scored.values())
  )
  if not config.data.targets:
    config.data.targets = tuple(dict.fromkeys(target for target, _ in needed))
  job = job._replace(config=config)
  data = proxy_views.added(job, jobs.prepared(job))
  for target, split in needed:
    if target not in data.targets:
      raise UserError(
        f"config.compare.targets names {target!r}, which is not in "
        f"config.data.targets: {', '.join(config.data.targets)}."
      )
    if not len(data.targets[target][split]):
      raise UserError(
        f"Target {target!r} has no {split} texts; a comparison needs "
        f"{', '.join(store.SPLITS)} of each. Leave it out of "
        "config.compare.targets, or test another target's recipe on it: "
        f"OTHER>{target}."
      )
  return data


class Partitions(NamedTuple):
  """The frozen partitions that searches stand on; each is made once.

  Every seed of a search has its own: a k-means is a part of what is searched, and its
  noise belongs into the intervals of what stands on it.
  """

  job: Job
  data: prepare.Prepared
  made: dict[str, Mapping[str, Domains]]

  def under(self, name: str, seed: int) -> Mapping[str, Domains]:
    """Those of a method or variant under a seed of its search, by their kind."""
    own = variants.config_of(name, self.job.config)
    own.seed += seed
    labelled = build.make_method(own.method, own).partition
    key = f"{own.partition.to_json_best_effort()} {labelled} {own.seed}"
    if key not in self.made:
      own_job = self.job._replace(config=own)
      self.made[key] = search.partitions([own.method], own_job, self.data)
    return self.made[key]


class Comparison(NamedTuple):
  """What is compared, on what, and where its cells are kept."""

  job: Job
  data: prepare.Prepared
  plan: cells.Plan
  folder: cells.Folder
  partitions: Partitions
  training: final.Training

  @classmethod
  def make(
    cls,
    job: Job,
    data: prepare.Prepared,
    plan: cells.Plan,
    folder: cells.Folder,
  ) -> "Comparison":
    """One that has no partitions yet."""
    return cls(
      job,
      data,
      plan,
      folder.make(),
      Partitions(job, data, {}),
      final.Training.make(job, data, folder),
    )

  @property
  def trials(self) -> trials.Trials:
    """Those that its plan may need."""
    settings = build.plans(self.job.config)
    return trials.Trials(
      self.plan,
      settings.trial,
      self.training,
      self.folder,
      settings.values.target_weights,
    )


def find(one: Comparison) -> None:
  """Does all searches that are not done yet."""
  _check_variants(one)
  searches = one.plan.searches()
  left = [cell for cell in searches if one.folder.found(cell) is None]
  one.job.reporter.expect(_work(one, left))
  for group in _groups(one, left):
    one.job.stop.check()
    if group[0].method in one.plan.online:
      online.train([_task(cell, one) for cell in group], one.folder)
    else:
      search_cell(group[0], one)
    programs.let_go()


def _groups(
  one: Comparison, searches: Sequence[cells.Search]
) -> Iterator[list[cells.Search]]:
  """Searches one by one; online runs of several seeds at once, where that pays."""
  left = list(searches)
  while left:
    first, most = left[0], 1
    if first.method in one.plan.online:
      most = online.together(variants.config_of(first.method, one.job.config))
    alike = [
      cell
      for cell in left
      if cell.method == first.method and cell.target_set == first.target_set
    ]
    group = alike[:most]
    yield group
    left = [cell for cell in left if cell not in group]


def _task(cell: cells.Search, one: Comparison) -> online.Task:
  """An online run; its seed is that of a final training and of its method alike."""
  config = variants.config_of(cell.method, one.job.config)
  config.seed += cell.seed
  names = [place.searched for place in one.plan.places_of(cell)]
  return online.Task(
    cell,
    one.job._replace(config=config),
    one.data._replace(targets={name: one.data.targets[name] for name in names}),
    one.partitions.under(cell.method, cell.seed),
  )


def train(one: Comparison, choice: trials.Choice) -> list[dict[str, Any]]:
  """Does all final trainings that are not done yet; returns the rows of results.

  Args:
    one: all of its searches are done.
    choice: the versions that are trained.
  """
  finals = one.plan.finals(choice.kept)
  one.training.train(finals, one.plan, one.folder)
  same = {
    "config_digest": configs.digest(one.job.config),
    "corpus_digest": one.data.digest,
  }
  return rows.of_cells(one.plan, one.folder, choice.kept, choice.cost, same)


def _check_variants(one: Comparison) -> None:
  """Refuses cells of a variant that had other overrides under the same name."""
  for cell in one.plan.searches():
    wanted = variants.settings_of(cell.method, one.job.config)
    found = one.folder.found(cell)
    if found is not None and found.variant != wanted:
      raise UserError(
        f"{one.folder.path}: {cell.name} was searched as {found.variant}, "
        f"config.variants says {wanted}. Give the variant another name, or "
        "config.compare.cells another folder."
      )


def _work(one: Comparison, searches: Sequence[cells.Search]) -> float:
  """Training rows that are left, as if every recipe stayed at its own concentration."""
  config, plan = one.job.config, one.plan
  settings, row_steps = build.plans(config).trial, config.batch.rows
  configs_of = (variants.config_of(cell.method, config) for cell in searches)
  work = sum(build.search_work(own.method, own) for own in configs_of)
  tried = len(trials.of_plan(plan)) * (1 + len(settings.exponents))
  work += tried * settings.seeds * settings.steps * row_steps
  for cell in plan.finals({}):
    if cell.search.method in plan.online:
      continue  # its search is the training
    if not final.is_done(cell, plan.places_of(cell.search), one.folder):
      work += final.steps_of(config, cell.fraction) * row_steps
  return work


def search_cell(cell: cells.Search, one: Comparison) -> None:
  """Does one search and saves what it found."""
  job, folder = one.job, one.folder
  config = variants.config_of(cell.method, job.config)
  config.seed += cell.seed
  method = build.make_method(config.method, config)
  parts = one.partitions.under(cell.method, cell.seed)
  names = [place.searched for place in one.plan.places_of(cell)]
  found = search.weigh(
    config.method,
    job._replace(config=config, workdir=folder.work(cell)),
    one.data._replace(targets={name: one.data.targets[name] for name in names}),
    parts,
    seed=config.seed,
    stage="search",
  )
  log_w, leaves = {}, {}
  last = ("", found.weights, found.log_w_N)
  for name, weights, log_w_N in (*found.candidates, last):
    if name and np.array_equal(log_w_N, found.log_w_N):
      continue  # it is the last one
    partition = partitions.partition_of(
      method, weights, parts[method.partition].partition
    )
    log_w[name], leaves[name] = log_w_N, None
    if partition is not None:
      pool = one.data.pool
      partition = partitions.measured(
        partition, pool.embedding_NE, pool.tokens.mass_N
      )
      leaves[name] = partition.to_json()
  if found.kept:
    policies.save(folder.kept(cell), found.kept)
  settings = variants.settings_of(cell.method, job.config)
  facts = cells.Found(found.cost, found.history, settings, leaves)
  path = None
  if isinstance(found.weights, DocumentWeights):
    path = found.weights.path
  if path is not None:
    pairs_N = one.data.pool.tokens.pairs_N
    if told := bundles.too_short(pairs_N, config.batch.row_tokens):
      job.reporter.say(f"{cell.method}: {told}")
  folder.save_found(
    cell, facts, log_w, found.value_N, why=found.reasons, path=path
  )


def write(
  one: Comparison, found_rows: list[dict[str, Any]], above: str = ""
) -> tuple[list[Standing], list[Path]]:
  """Writes results, table and figure; returns the standings and the files.

  Args:
    one: all of its cells are finished.
    found_rows: of results.parquet.
    above: Markdown that stands above the tables.
  """
  workdir = one.job.workdir
  rows.write(workdir / RESULTS_FILE, found_rows)
  found = standings(found_rows, seeds=one.plan.seeds)
  store.write_atomically(workdir / TABLE_FILE, above + tables.markdown(found))
  files = [workdir / RESULTS_FILE, workdir / TABLE_FILE]
  files += one.job.described(
    FIGURE_FILE, lambda: _drawn(one, found, workdir / FIGURE_FILE), []
  )
  return found, files


def _drawn(one: Comparison, found: list[Standing], path: Path) -> list[Path]:
  """The figure, where what draws it is installed."""
  try:
    figures.draw(found, path)
  except ImportError:
    one.job.reporter.say(
      f"No {FIGURE_FILE}: it needs matplotlib, pip install cmtree_jax[report]."
    )
    return []
  return [path]
