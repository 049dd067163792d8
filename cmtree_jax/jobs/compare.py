"""The story of a comparison: prepare once, search, train, score, table."""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cmtree_jax import config as configs
from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.evaluate import concentration
from cmtree_jax.evaluate.results import FULL, NATURAL, standings
from cmtree_jax.jobs import build as settings
from cmtree_jax.jobs import cells, variants
from cmtree_jax.jobs import final as training
from cmtree_jax.jobs import learn as run
from cmtree_jax.jobs import search as learn
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.loops.checkpoint import Interrupted, stop_on_signal
from cmtree_jax.proxy.model import PRESETS
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.report import standings as report
from cmtree_jax.report import standings_figure
from cmtree_jax.report.progress import Reporter
from cmtree_jax.types import UserError

RESULTS_FILE = "results.parquet"
TABLE_FILE = "table.md"
FIGURE_FILE = "comparison.svg"


def run_comparison(
  config: Any, workdir: Path, *, overwrite: bool = False
) -> int:
  """Runs one comparison to its end, or continues it; returns the exit status.

  Args:
    config: locked; see configs/compare.py.
    workdir: gets config.json, the cells and all results.
    overwrite: throws away what another job left in `workdir`.
  Raises:
    UserError: a setting or the data is wrong; nothing is lost.
    Fault: a loss is not finite, after saving.
  """
  check(config)
  workdirs.claim_workdir(workdir, config, overwrite=overwrite)
  if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    compiled = str(settings.cache_dir(config) / "xla")
    jax.config.update("jax_compilation_cache_dir", compiled)
  folder = cell_folder(config, workdir)
  total = work_left(config, plan_of(config), folder)
  with Reporter(total) as reporter, stop_on_signal() as stop:
    try:
      done = compare(learn.Job(config, workdir, reporter, stop), folder)
    except Interrupted:
      reporter.say("Interrupted and saved. Run the same command to go on.")
      return run.INTERRUPTED
  done()
  return 0


def cell_folder(config: Any, workdir: Path) -> cells.Folder:
  """Where the cells are; several comparisons may share those of one folder.

  Raises:
    UserError: the shared folder's cells are of other settings.
  """
  shared = config.compare.cells
  if not shared:
    return cells.Folder(workdir / "cells").make()
  same = config.copy_and_resolve_references().unlock()
  for field in _CHOICES:
    del same.compare[field]
  workdirs.claim_workdir(Path(shared), same.lock(), overwrite=False)
  return cells.Folder(Path(shared)).make()


# Fields of config.compare that say which cells are done, not what is in one.
_CHOICES = (
  *("methods", "targets", "seeds", "fractions", "natural_multiples"),
  *("noise_repeats", "final_presets", "effective_sample_sizes", "cells"),
  "variants",  # a cell tells which settings it was searched with
)


def compare(job: learn.Job, folder: cells.Folder) -> Callable[[], None]:
  """Does all cells that are not done yet; returns what shows the end."""
  plan = plan_of(job.config)
  data = prepared(job, plan)
  workdirs.claim_corpus(folder.path, data.digest)
  _check_variants(job.config, plan, folder)
  todo = [cell for cell in plan.searches() if folder.found(cell) is None]
  parts = _partitions([cell.method for cell in todo], job, data)
  for cell in todo:
    job.stop.check()
    names = [place.searched for place in plan.places_of(cell)]
    own = data._replace(targets={name: data.targets[name] for name in names})
    search_cell(cell, job, own, parts[cell.method], folder)
  trainer = training.Training.make(job, data)
  for cell in plan.finals():
    places = plan.places_of(cell.search)
    if folder.scored(cell, places) is None:
      folder.save_scored(cell, trainer.scores(cell, places, folder))
  same = {
    "config_digest": configs.digest(job.config),
    "corpus_digest": data.digest,
  }
  return write(cells.rows(plan, folder, same), plan, job)


def plan_of(config: Any) -> cells.Plan:
  """What the config's block `compare` asks for."""
  chosen = config.compare
  methods = tuple(dict.fromkeys((NATURAL, *chosen.methods)))
  return cells.Plan(
    methods=methods,
    target_sets={
      name: tuple(map(cells.Place.of, name.split("+")))
      for name in chosen.targets
    },
    untargeted=frozenset(
      name for name in methods if not _method(name, config).targeted
    ),
    seeds=chosen.seeds,
    search_seeds=chosen.search_seeds,
    fractions=tuple(chosen.fractions),
    natural_multiples=tuple(chosen.natural_multiples),
    noise_repeats=chosen.noise_repeats,
    presets=tuple(chosen.final_presets),
    shares=_shares(config),
  )


def check(config: Any) -> None:
  """Settings that contradict each other are refused before any work."""
  if "compare" not in config:
    raise UserError(
      "The config has no block `compare`; start from configs/compare.py."
    )
  settings.check(config)
  chosen = config.compare
  for name in chosen.methods:
    own = variants.config_of(name, config)
    if name in chosen.variants:
      settings.check(own)
    else:
      settings.make_method(name, config)
  _check_targets(chosen.targets)
  _check_more_trainings(config)
  for field, least in (("seeds", 1), ("search_seeds", 1), ("noise_repeats", 0)):
    if chosen[field] < least:
      raise UserError(
        f"config.compare.{field} must be at least {least}, came {chosen[field]}."
      )
  if FULL not in chosen.fractions or not all(
    0 < one <= FULL for one in chosen.fractions
  ):
    raise UserError(
      "config.compare.fractions must be above 0 and at most 1, with 1.0 among "
      f"them, came {list(chosen.fractions)}."
    )
  if not all(one > FULL for one in chosen.natural_multiples):
    raise UserError(
      "config.compare.natural_multiples must be above 1, came "
      f"{list(chosen.natural_multiples)}."
    )
  for one in (*chosen.fractions, *chosen.natural_multiples):
    _check_steps(one, config)
  plan_of(config)  # refuses options of methods


def _check_targets(targets: tuple[str, ...]) -> None:
  if not targets:
    raise UserError("config.compare.targets must name at least one target.")
  for target_set in targets:
    names = target_set.split("+")
    if not all(names) or len(set(names)) < len(names):
      raise UserError(
        f"config.compare.targets: wanted a target or several different ones "
        f"joined by +, came {target_set!r}."
      )
    if any(name.count(">") > 1 or not all(name.split(">")) for name in names):
      raise UserError(
        "config.compare.targets: wanted SEARCHED>TESTED for a target that is "
        f"tested on another, came {target_set!r}."
      )
    if target_set == cells.ANY:
      raise UserError(
        f"config.compare.targets: no target may be called {cells.ANY!r} here."
      )


def _check_more_trainings(config: Any) -> None:
  """Of other sizes, and at other concentrations."""
  for preset in config.compare.final_presets:
    if preset not in PRESETS or preset == config.final.preset:
      raise UserError(
        f"config.compare.final_presets: {preset!r} is unknown or that of "
        f"config.final.preset. Known: {', '.join(PRESETS)}."
      )
  _shares(config)


def _shares(config: Any) -> tuple[float, ...]:
  """Effective sample sizes; a tuple that was empty knows no type of its own."""
  try:
    found = tuple(map(float, config.compare.effective_sample_sizes))
  except ValueError:
    found = (math.nan,)
  if not all(0 < share < 1 for share in found):
    raise UserError(
      "config.compare.effective_sample_sizes must be shares of the corpus "
      f"between 0 and 1, came {list(config.compare.effective_sample_sizes)}."
    )
  return found


def _check_steps(fraction: float, config: Any) -> None:
  final = config.final
  steps = final.steps * fraction
  if steps % final.steps_per_call or steps <= config.optimizer.warmup_steps:
    raise UserError(
      f"config.compare: {fraction:g} of config.final.steps = {final.steps} are "
      f"{steps:g} steps; wanted a multiple of config.final.steps_per_call = "
      f"{final.steps_per_call} above config.optimizer.warmup_steps = "
      f"{config.optimizer.warmup_steps}."
    )


def prepared(job: learn.Job, plan: cells.Plan) -> prepare.Prepared:
  """The corpus with the targets that are compared."""
  config = job.config.copy_and_resolve_references()
  needed = dict.fromkeys(
    one
    for place in plan.places
    for one in ((place.searched, "train"), *place.scored.values())
  )
  if not config.data.targets:
    config.data.targets = tuple(dict.fromkeys(target for target, _ in needed))
  data = run.prepared(job._replace(config=config))
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


def _check_variants(config: Any, plan: cells.Plan, folder: cells.Folder):
  """Refuses cells of a variant that had other overrides under the same name."""
  for cell in plan.searches():
    wanted = variants.settings_of(cell.method, config)
    found = folder.found(cell)
    if found is not None and found.variant != wanted:
      raise UserError(
        f"{folder.path}: {cell.name} was searched as {found.variant}, "
        f"config.compare.variants says {wanted}. Give the variant another name, "
        "or config.compare.cells another folder."
      )


def _method(name, config):
  own = variants.config_of(name, config)
  return settings.make_method(own.method, own)


def _partitions(names, job, data) -> dict[str, Mapping[str, Domains]]:
  """Those that the searches of methods and variants stand on."""
  found: dict[str, Mapping[str, Domains]] = {}
  made: dict[str, Mapping[str, Domains]] = {}
  for name in dict.fromkeys(names):
    own = variants.config_of(name, job.config)
    labelled = settings.make_method(own.method, own).partition
    key = f"{own.partition.to_json_best_effort()} {labelled}"
    if key not in made:
      own_job = job._replace(config=own)
      made[key] = learn.partitions([own.method], own_job, data)
    found[name] = made[key]
  return found


def search_cell(
  cell: cells.Search,
  job: learn.Job,
  data: prepare.Prepared,
  parts: Mapping[str, Domains],
  folder: cells.Folder,
) -> None:
  """One search, saved at its end.

  Args:
    cell: says which.
    job: of the comparison.
    data: with the targets of the cell alone.
    parts: of `learn.partitions`; every search stands on the same.
    folder: gets the result; a search in progress keeps its checkpoints there.
  """
  config = variants.config_of(cell.method, job.config)
  config.seed += cell.seed
  found = learn.weigh(
    config.method,
    job._replace(config=config, workdir=folder.work(cell)),
    data,
    parts,
    seed=config.seed,
    stage="search",
  )
  log_w_N = found.log_w_N.astype(np.float32)
  share = concentration.effective_sample_size(
    log_w_N.astype(np.float64), data.pool.tokens.mass_N
  )
  method = settings.make_method(config.method, config)
  partition = None
  if "key_B" not in method.signals:  # single documents stand in no partition
    domains = parts[method.partition].partition
    partition = partitions.partition_of(found.weights, domains).to_json()
  facts = cells.Found(
    found.cost,
    share,
    found.history,
    partition,
    variants.settings_of(cell.method, job.config),
  )
  folder.save_found(cell, facts, log_w_N)


def work_left(config: Any, plan: cells.Plan, folder: cells.Folder) -> float:
  """Work of the cells that are not done, in training rows."""
  searches = (
    settings.search_work(own.method, own)
    for cell in plan.searches()
    if folder.found(cell) is None
    for own in [variants.config_of(cell.method, config)]
  )
  finals = (
    float(training.steps_of(config, cell.fraction) * config.batch.rows)
    for cell in plan.finals()
    if folder.scored(cell, plan.places_of(cell.search)) is None
  )
  return sum(searches) + sum(finals)


def write(
  rows: list[dict[str, Any]], plan: cells.Plan, job: learn.Job
) -> Callable[[], None]:
  """Writes results, table and figure; returns what prints them."""
  cells.write_rows(job.workdir / RESULTS_FILE, rows)
  found = standings(rows, seeds=plan.seeds)
  store.write_atomically(job.workdir / TABLE_FILE, report.markdown(found))
  files = [job.workdir / RESULTS_FILE, job.workdir / TABLE_FILE]
  try:
    standings_figure.draw(found, job.workdir / FIGURE_FILE)
    files.append(job.workdir / FIGURE_FILE)
  except ImportError:
    job.reporter.say(
      f"No {FIGURE_FILE}: it needs matplotlib, pip install cmtree_jax[report]."
    )
  return lambda: report.show(found, files)
