"""What a job will take, before it is started: FLOPs, time and memory.

FLOPs follow from the plans, by the formulas that the ledger is charged with. Time is
these by the rate at which this machine trains each model, measured on a few steps.
Nothing is trained and the workdir is left alone; the corpus is prepared, which the
job then finds done.
"""

import collections
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from cmtree_jax import embed
from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs import (
  build,
  cells,
  compare,
  final,
  from_runs,
  known,
  measured,
  search,
  variants,
)
from cmtree_jax.jobs import job as jobs
from cmtree_jax.jobs import plan as plans
from cmtree_jax.jobs import trials as trying
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import Job, Show
from cmtree_jax.loops import (
  look,
  online_steer,
  online_values,
  runs,
  steer,
  values_plan,
)
from cmtree_jax.loops.values_plan import Charges
from cmtree_jax.proxy import lowering
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.report import estimates
from cmtree_jax.report.estimates import Part
from cmtree_jax.report.progress import Reporter
from cmtree_jax.signals import cost_of, observe

# Of the first search of every method on every set of targets.
Learners = dict[cells.Search, search.Learner]


def run(config: Any, *, compares: bool) -> int:
  """Prints what a job of this config would take; returns the exit status.

  Args:
    config: locked.
    compares: it is for `cmtree_jax.compare`, not for `cmtree_jax.main`.
  Raises:
    UserError: a setting or the data is wrong.
  """
  if from_runs.BLOCK in config:
    print("The runs are done: nothing is trained.")
    return 0
  check = plans.check_comparison if compares else plans.check_recipe
  check(config)
  if not compares and (folder := config.recipe.apply):
    load = schedules.load if schedules.is_in(folder) else recipes.load
    load(folder)  # or tells what is wrong with it
    print("A recipe is applied to a corpus: nothing is trained.")
    return 0

  def story(job: Job) -> Show:
    data, plan = planned(job, compares=compares)
    learners = learners_of(job, data, plan)
    parts = of_plan(job, data, plan, learners, judged=not compares)
    found = estimates.Estimate(
      parts,
      {one.preset: measured.rate(job, data, one.preset) for one in parts},
      [
        (one.what, measured.device_bytes(one))
        for one in _programs(job, data, plan, learners)
      ],
      workdirs.peak_rss_bytes(),
      str(jax.devices()[0].device_kind),
    )
    return lambda: estimates.show(found)

  with tempfile.TemporaryDirectory() as folder:
    return jobs.run(story, without_model_views(config), Path(folder))


def without_model_views(config: Any) -> Any:
  """Views of a model would have to be trained to prepare the corpus."""
  own = config.copy_and_resolve_references().unlock()
  own.embedding.views = tuple(
    one for one in config.embedding.views if one in embed.VIEWS
  )
  if own.embedding.views != config.embedding.views:
    print("Not counted: models whose hidden states or losses are views.")
  return own.lock()


def planned(job: Job, *, compares: bool) -> tuple[Prepared, cells.Plan]:
  """(the corpus, what is searched and trained)."""
  config = job.config
  if compares:
    plan = plans.of_comparison(config)
    return compare.prepared(job, plan), plan
  data = jobs.prepared(job)
  if not data.targets:
    plans.require_untargeted(config)
    return data, plans.of_untargeted(config.method)
  rivals = () if build.is_online(config) else plans.rivals(config)
  return data, plans.of_recipe(config, data, rivals)


def learners_of(job: Job, data: Prepared, plan: cells.Plan) -> Learners:
  """Every method on every set of targets; its other seeds take the same."""
  partitions = compare.Partitions(job, data, {})
  found = {}
  for cell in plan.searches():
    first = cell._replace(seed=0)
    if first not in found:
      names = [place.searched for place in plan.places_of(first)]
      own = data._replace(targets={n: data.targets[n] for n in names})
      found[first] = learner_of(first.method, job, own, partitions)
  return found


def of_plan(
  job: Job,
  data: Prepared,
  plan: cells.Plan,
  learners: Learners,
  *,
  judged: bool,
) -> list[Part]:
  """What searches, trials and final trainings take.

  Args:
    job: its config is checked.
    data: the corpus.
    plan: of the job.
    learners: of the plan.
    judged: whether the guard tries what is handed over.
  """
  times = collections.Counter(one._replace(seed=0) for one in plan.searches())
  searches = [
    part._replace(times=number)
    for cell, number in times.items()
    for part in of_search(learners[cell], cell.method)
  ]
  return [*searches, *_of_trainings(job, data, plan, judged=judged)]


def learner_of(
  name: str, job: Job, data: Prepared, partitions: compare.Partitions
) -> search.Learner:
  """A method or variant that knows the corpus, but no single document."""
  config = variants.config_of(name, job.config)
  job = job._replace(config=config)
  method = build.make_method(config.method, config)
  placed = partitions.under(name, 0)[method.partition]
  facts = known.facts_of(method, config, data, placed)
  facts = facts._replace(seed=config.seed)
  return search.Learner(method, job, data, placed, build.plans(config), facts)


def of_search(learner: search.Learner, name: str) -> Iterator[Part]:
  """What one search takes: a part for every size of its models."""
  config = learner.job.config
  if build.is_online(config):
    yield _of_online(learner, name)
    return
  loop = learner.method.loop
  if loop != "none":
    yield from {
      "look": _of_look,
      "values": _of_values,
      "steer": _of_steer,
      "runs": _of_runs,
    }[loop](learner, name)


def _of_values(learner: search.Learner, name: str) -> Iterator[Part]:
  plan, config = learner.plans.values, learner.job.config
  model = search.valuing_model(learner)
  charges = values_plan.most(
    plan,
    config.batch.rows,
    model.unroll_cost,
    targets=len(known.driving_names(learner.data)),
  )
  flops = _flops(charges, config, model.flops_per_token)
  what = f"{plan.rounds} rounds of {plan.population} proxies"
  yield Part(name, what, config.proxy.preset, 1, flops, at_most=True)


def _of_steer(learner: search.Learner, name: str) -> Iterator[Part]:
  model, config = search.steered_model(learner), learner.job.config
  world = search.seeing_world(learner, model, config.seed)
  flops = steer.expected(learner.method, world, learner.plans.steer)
  what = f"{learner.plans.steer.steps} steps of one proxy"
  valued = "share_gain_K" in learner.method.signals
  yield Part(name, what, config.proxy.preset, 1, flops, at_most=valued)


def _of_runs(learner: search.Learner, name: str) -> Iterator[Part]:
  plan, models = learner.plans.runs, search.run_models(learner)
  made = [one() for one in models]
  world = search.seeing_world(learner, made[0], learner.job.config.seed)
  found = runs.expected(learner.method, learner.facts, world, plan, made)
  for preset, (number, flops) in zip(plan.presets, found, strict=False):
    if number:
      what = f"{number} runs of {plan.steps} steps"
      yield Part(name, what, preset, 1, number * flops)


def _of_look(learner: search.Learner, name: str) -> Iterator[Part]:
  plan, presets = learner.plans.look, search.look_presets(learner.job.config)
  parts = known.looked_at(learner.method, learner.data)
  for one in learner.method.look.models:
    preset = presets[one]
    model = search.model_of(learner, preset, total_steps=plan.steps)
    world = search.world_of(learner, model, learner.job.config.seed)
    flops = look.expected(learner.method, world, plan, model, parts)
    what = f"a {one} of {plan.steps} steps reads all documents"
    yield Part(name, what, preset, 1, flops)


def _of_online(learner: search.Learner, name: str) -> Part:
  """Its search is its final training."""
  config, made = learner.job.config, learner.plans
  preset, steps, rows = made.final.preset, made.final.steps, config.batch.rows
  model = search.model_of(learner, preset, total_steps=steps)
  flops = _flops(((steps * rows, GRADIENT),), config, model.flops_per_token)
  if learner.method.loop == "values":
    number = online_values.events(made.online, steps)
    cost = build.unroll_cost(
      config,
      steps=made.online.unroll,
      **build.path_options(learner.method, config),
    )
    charges = online_values.most(
      made.online,
      rows,
      cost,
      steps=steps,
      targets=len(known.driving_names(learner.data)),
    )
    flops += _flops(charges, config, model.flops_per_token)
  else:
    number = online_steer.observations(learner.method, steps)
    world = search.seeing_world(learner, model, config.seed)
    assert world.view is not None
    seen = observe(world.view, model.engine, None)
    each = cost_of(seen, learner.method.signals, model.flops_per_token)
    flops += number * each.flops
  return Part(
    name, f"online, {number} events in {steps} steps", preset, 1, flops
  )


def _programs(
  job: Job,
  data: Prepared,
  plan: cells.Plan,
  learners: Learners,
) -> Iterator[measured.Program]:
  """The largest of what is compiled: what trains, and what is differentiated."""
  config = job.config
  rows, tokens = config.batch.rows, config.batch.row_tokens
  valued = [one for one in learners.values() if _values_documents(one)]
  for learner in valued[:1]:
    yield valuing_program(learner)
  if plan.target_sets:
    made = build.plans(config).final
    one = final.Training.make(job, data, cells.Folder(job.workdir / "cells"))
    for preset in dict.fromkeys((made.preset, *plan.presets)):
      yield measured.Program(
        f"a final training of {preset}",
        one.engine_of(preset, made.steps),
        "train",
        lowering.Size(
          members=one.at_once(preset),
          steps=made.steps_per_call,
          rows=rows,
          row_tokens=tokens,
        ),
      )


def valuing_program(learner: search.Learner) -> measured.Program:
  """The program of a search that values documents."""
  batch, made = learner.job.config.batch, learner.plans.values
  quiet = learner.job._replace(reporter=Reporter(quiet=True))  # it was told
  model = search.valuing_model(learner._replace(job=quiet))
  targets = len(known.driving_names(learner.data))
  return measured.Program(
    "the hypergradient of a search",
    model.engine,
    "unroll",
    lowering.Size(
      members=made.population,
      steps=made.unroll,
      rows=batch.rows,
      row_tokens=batch.row_tokens,
      chunks=made.outer_rows_of(targets, batch.rows) // batch.rows,
    ),
  )


def _values_documents(learner: search.Learner) -> bool:
  """Whether proxies of a search are differentiated through."""
  return learner.method.loop == "values" and not build.is_online(
    learner.job.config
  )


def _of_trainings(
  job: Job, data: Prepared, plan: cells.Plan, *, judged: bool
) -> Iterator[Part]:
  """Trials, as if every concentration were worth one, and final trainings."""
  if not plan.target_sets:
    return
  config = job.config
  settings, rows = build.plans(config).trial, config.batch.rows
  one = final.Training.make(job, data, cells.Folder(job.workdir / "cells"))
  scored = sum(
    one.eval_set_of(name, "validation", settings.max_tokens)
    .batches.document_BT[..., 0]
    .size
    for name in final.trial_targets(plan.places)  # of one set they are fewer
  )
  if tried := _tried(plan, config, judged=judged):
    charges = (settings.steps * rows, GRADIENT), (scored, FORWARD)
    per_token = one.model_of(settings.preset).flops_per_token(
      config.batch.row_tokens
    )
    yield Part(
      "trials",
      f"{tried} recipes, {settings.seeds} seeds of {settings.steps} steps",
      settings.preset,
      tried * settings.seeds,
      _flops(charges, config, per_token),
      at_most=True,
    )
  for (preset, steps), number in _finals(plan, config, judged=judged).items():
    per_token = one.model_of(preset).flops_per_token(config.batch.row_tokens)
    flops = _flops(((steps * rows, GRADIENT),), config, per_token)
    yield Part("final", f"trainings of {steps} steps", preset, number, flops)


def _finals(
  plan: cells.Plan, config: Any, *, judged: bool
) -> dict[tuple[str, int], int]:
  """(size, steps) -> how many final trainings, those of one rival among them."""
  rivals = set(plans.rivals(config)) if judged else set()
  asked = set(build.recipe_names(config))
  chosen = sorted(rivals - asked)[:1]  # of all rivals one is trained
  found: dict[tuple[str, int], int] = {}
  for cell in plan.finals({}):
    method = cell.search.method
    if method in plan.online or method in rivals - asked - set(chosen):
      continue
    preset = cell.preset or config.final.preset
    key = preset, final.steps_of(config, cell.fraction)
    found[key] = found.get(key, 0) + 1
  return found


def _tried(plan: cells.Plan, config: Any, *, judged: bool) -> int:
  """Versions of recipes that trials compare, at most."""
  tried = trying.of_plan(plan)
  shares = len(build.plans(config).trial.exponents)
  rivals = plans.rivals(config) if judged and not plan.online else ()
  if not rivals:
    return len(tried) * (1 + shares)
  method = plans.method_of(config.method, config)
  on_its_way = 1
  if method.loop == "values":  # the start and every round may be handed over
    on_its_way += variants.config_of(config.method, config)["values"].rounds
  table = {one for one in build.recipe_names(config) if one != NATURAL}
  alone = set(rivals) - table
  # Natural, the method's own, what costs nothing, and the rest of the table; each of
  # the table and one that costs nothing also at other shares.
  versions = 1 + on_its_way + len(alone) + len(table) - 1
  return versions + shares * (len(table) + bool(alone))


def _flops(charges: Charges, config: Any, flops_per_token: float) -> float:
  tokens = config.batch.row_tokens
  return sum(
    Cost().plus(rows * tokens, passes, flops_per_token).flops
    for rows, passes in charges
  )
