"""Online runs of a job: final trainings that move their own weights.

Such a run is a search and a final training at once. Its cell is that of a search, whose
cost is what its events took; the final training of the same seed is read off the model
that it has left.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import processes, sharding
from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.jobs import build, cells, known, search, variants
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops import fleet, online, online_values
from cmtree_jax.loops.online import Trained
from cmtree_jax.proxy import engine, optim
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.proxy.model import ProxyConfig
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe import trained as models
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.recipe.partition import Partition
from cmtree_jax.recipe.schedule import Schedule
from cmtree_jax.report import describe


class Task(NamedTuple):
  """One run, and what it stands on."""

  cell: cells.Search
  job: Job  # its config is that of the variant, with the seed of the cell
  data: Prepared  # with the targets that drive it
  parts: Mapping[str, Domains]


def together(config: Any) -> int:
  """How many runs of different seeds one program trains."""
  axes = sharding.make_mesh(**config.mesh).shape
  loop = build.make_method(config.method, config).loop
  if loop != "values":
    return 1  # each looks at documents of its own
  if axes[sharding.POPULATION] > 1:
    return axes[sharding.POPULATION]
  preset = build.plans(config).final.preset
  # The vocabulary is not known yet; sizes are named for this one.
  size = build.proxy_of(preset, config, 4096).num_parameters
  return engine.members_at_once(size, devices=build.final_mesh(config).size)


class Ran(NamedTuple):
  """A finished run, and what it was made of."""

  trained: Trained
  learner: search.Learner
  model: fleet.Model
  size: ProxyConfig

  @property
  def flops_share(self) -> float:
    """What its events cost beside the training, in units of it."""
    plain = plain_cost(self.learner.job.config, self.model.flops_per_token)
    return self.trained.cost.flops / plain.flops


def train(tasks: Sequence[Task], folder: cells.Folder) -> None:
  """Trains runs of one method at once, and keeps what they leave.

  Arguments and errors as of `run`.
  """
  for task, one in zip(tasks, run(tasks, folder), strict=True):
    _tell(task, one)
    processes.by_first(
      lambda task=task, one=one: _keep(
        task, one.learner, one.trained, one.size, folder
      )
    )


def run(tasks: Sequence[Task], folder: cells.Folder) -> list[Ran]:
  """Trains runs of one method at once.

  Args:
    tasks: of different seeds.
    folder: of the cells; takes the checkpoints.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving.
  """
  first = tasks[0]
  config = first.job.config
  plans = build.plans(config)
  learners = [
    search.learner_of(
      config.method,
      one.job,
      one.data,
      one.parts,
      seed=one.job.config.seed,
    )
    for one in tasks
  ]
  learner, cell = learners[0], first.cell
  model, size = _model(learner, len(tasks))
  world = search.world_of(learner, model, cell.seed)
  world = world._replace(subpools=search.subpools(first.data, config))
  steps = plans.final.steps
  if learner.method.loop == "steer":
    seen = world.subpool(steps, "final", cell.seed)
    looked_at = learner._replace(facts=learner.facts._replace(steps=steps))
    world = world._replace(view=search.view_of(looked_at, world, seen))
  job = first.job._replace(
    workdir=folder.work(cell, *(one.cell for one in tasks[1:]))
  )
  if learner.method.loop == "values":
    _warn_of_rest(job, cell, plans.online, steps)
  job.reporter.advance(0, f"online run of {cell.name}")
  with job.session("online", config.seed) as session:
    found = online.run(
      learner.method,
      world,
      plans.online,
      session,
      [_run(*x, world, steps) for x in zip(tasks, learners, strict=True)],
      steps=steps,
      target_weights=plans.values.target_weights,
    )
  return [
    Ran(one, own, model, size) for own, one in zip(learners, found, strict=True)
  ]


def _run(
  task: Task, learner: search.Learner, world: fleet.World, steps: int
) -> online.Run:
  """Paired with the final training of its seed: start, sub-pool and arrival points."""
  plan = learner.plans.online
  facts = learner.facts._replace(
    steps=steps,
    horizon=steps / plan.unroll,
    num_proxies=online_values.PROXIES,
  )
  return online.Run(
    name=task.cell.name,
    seed=task.cell.seed,
    pool=world.pool._replace(seed=1000 + task.cell.seed),
    facts=facts,
    domain_N=np.asarray(learner.domains.domain_N),
  )


def _model(
  learner: search.Learner, runs: int
) -> tuple[fleet.Model, ProxyConfig]:
  """The final model, with the hypergradient through its own training."""
  config, plans = learner.job.config, learner.plans
  size = build.proxy_of(plans.final.preset, config, learner.data.vocab_size)
  optimizer = build.optimizer_of(config, total_steps=plans.final.steps)
  options: dict[str, Any] = {}
  if learner.method.loop == "values":
    options = build.estimator_options(
      config,
      size,
      optimizer,
      learner.job.reporter.say,
      steps=plans.online.unroll,
    ) | build.path_options(learner.method, config)
  mesh = sharding.make_mesh(**config.mesh)
  if mesh.shape[sharding.POPULATION] != runs:
    mesh = build.final_mesh(config)
  made = _engine(
    size,
    tuple(config.optimizer.items()),
    plans.final.steps,
    mesh,
    config.hypergradient.estimator,
    tuple(options.items()),
  )
  cost = build.unroll_cost(config, steps=plans.online.unroll, **options)
  flops = size.flops_per_token(config.batch.row_tokens)
  return fleet.Model(made, flops, cost), size


@functools.lru_cache(maxsize=2)  # runs of one comparison compile once
def _engine(size, optimizer, total_steps, mesh, estimator, options):
  return engine.make(
    size,
    optim.adamw(total_steps=total_steps, **dict(optimizer)),
    mesh=mesh,
    estimator=estimator,
    options=dict(options),
  )


def plain_cost(config: Any, flops_per_token: float) -> Cost:
  """Of the training alone."""
  tokens = config.final.steps * config.batch.rows * config.batch.row_tokens
  return Cost().plus(tokens, GRADIENT, flops_per_token)


def _warn_of_rest(
  job: Job, cell: cells.Search, plan: online.Plan, steps: int
) -> None:
  """Tells of a run whose weights cannot move; the first event only measures."""
  if online_values.events(plan, steps) < 2:
    job.reporter.say(
      f"{cell.name}: the weights cannot move. Events lie {plan.stretch} steps apart, "
      f"the first only measures, and the run has {steps} steps; lower "
      "config.online.every or raise config.final.steps."
    )


def _tell(task: Task, one: Ran) -> None:
  """What events cost beside the training, and how many of them moved the weights."""
  found, steps = one.trained, one.learner.plans.final.steps
  told = (
    f"{task.cell.name}: events cost {one.flops_share:.1%} of the run's FLOPs"
  )
  if not np.isnan(found.time_overhead):
    told += f" and {found.time_overhead:.1%} of its time"
  moved = sum(
    not jax.tree.all(
      jax.tree.map(np.array_equal, before.weights, after.weights)
    )
    for before, after in itertools.pairwise(found.stages)
  )
  task.job.reporter.say(
    f"{told}, {len(found.stages) - 1} in {steps} steps; {moved} moved the weights."
  )


def _keep(
  task: Task,
  learner: search.Learner,
  one: Trained,
  size: ProxyConfig,
  folder: cells.Folder,
) -> None:
  """Writes model and schedule, and ends the cell."""
  config, data, kept = task.job.config, task.data, folder.kept(task.cell)
  pool, steps = data.pool, config.final.steps
  leaves = [
    partitions.measured(
      _leaves(learner, stage), pool.embedding_NE, pool.tokens.mass_N
    )
    for stage in one.stages
  ]
  schedule = _schedule(task, one, leaves)
  schedules.save(kept, schedule)
  models.save(
    kept,
    one.params,
    size,
    {
      "cell": task.cell.name,
      "steps": steps,
      "event_flops": one.cost.flops,
      "draws": int(one.count_N.sum()),
      "most_draws": int(one.count_N.max()),
    },
    tokenizer_kind=config.tokenizer.kind,
    learned=data.folder,
  )
  log_w_N = _mean_log_w_N(learner, one, steps)
  facts = cells.Found(
    one.cost,
    list(one.history),
    variants.settings_of(task.cell.method, config),
    {"": leaves[-1].to_json()},
  )
  folder.save_found(task.cell, facts, {"": log_w_N}, one.value_N)


def _leaves(learner: search.Learner, stage: online.Stage) -> Partition:
  """The leaves of a stage with their weights."""
  found = partitions.partition_of(
    learner.method,
    jax.tree.map(lambda x: np.asarray(x, np.float32), stage.weights),
    learner.domains.partition,
  )
  assert found is not None, "methods that weigh documents are refused"
  return found


def _schedule(
  task: Task, one: Trained, leaves: Sequence[Partition]
) -> Schedule:
  config, data = task.job.config, task.data
  sample = known.sample(config, data)
  nodes = describe.nodes(leaves[-1], sample)
  return Schedule(
    method=task.cell.method,
    seed=task.cell.seed,
    step_tokens=config.batch.rows * config.batch.row_tokens,
    names=tuple(describe.leaf_names(leaves[-1], nodes).values()),
    stages=schedules.make(
      [stage.begin for stage in one.stages],
      leaves,
      sample.embedding_NE,
      sample.mass_N,
      sources=sample.sources,
      steps=config.final.steps,
    ),
  )


def _mean_log_w_N(
  learner: search.Learner, one: Trained, steps: int
) -> np.ndarray:
  """Of the mean over the run, which tells how much of the corpus it has kept."""
  mean_N = np.zeros(len(learner.data.pool))
  begins = [*(stage.begin for stage in one.stages), steps]
  for number, stage in enumerate(one.stages):
    length = begins[number + 1] - begins[number]
    if length > 0:
      log_w_N = search.log_w_of(
        stage.weights, learner.data.pool, learner.domains
      )
      mean_N += length / steps * np.exp(log_w_N)
  return np.log(np.maximum(mean_N, 1e-30))
