"""Searches: one method on one corpus, by the loop that it declares."""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.data.build.prepare import DocumentSet, Prepared
from cmtree_jax.data.draw import packing, sampler, strata
from cmtree_jax.data.draw.batch import stack_rows
from cmtree_jax.data.draw.subpool import Subpool, Subpools
from cmtree_jax.evaluate import sets
from cmtree_jax.jobs import build, known
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops import fleet, look, runs, steer, values
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.proxy import engine, optim
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import domains
from cmtree_jax.recipe.domains import Domains
from cmtree_jax.signals import View

CHUNK = 65_536  # documents that are weighed at a time; bounds memory


class Found(NamedTuple):
  """A method's result on the pool."""

  weights: Weights
  log_w_N: np.ndarray  # float64
  value_N: np.ndarray  # mean measured value of a document, NaN if never probed
  cost: Cost  # what the search cost
  history: list[dict[str, Any]]  # one row per round, observation or run
  # Name, weights and log-weights of what the search had on its way.
  candidates: tuple[tuple[str, Weights, np.ndarray], ...] = ()
  reasons: Reasons | None = None  # why documents weigh less, where it is told
  kept: Mapping[str, np.ndarray] = MappingProxyType({})  # for other jobs


class Learner(NamedTuple):
  """One method on one corpus, ready for its loop."""

  method: Method
  job: Job
  data: Prepared
  domains: Domains
  plans: build.Plans
  facts: Facts


def partitions(
  names: list[str], job: Job, data: Prepared
) -> dict[str, Domains]:
  """The frozen partitions that methods of these names stand on, by their kind."""
  config = job.config
  wanted = {build.make_method(name, config).partition: None for name in names}
  given = domains.Plan(**config.partition)
  return {
    name: domains.make(
      given if name == "given" else given._replace(kind=name),
      data,
      known.sample_rows(config, data),
      seed=config.seed,
    )
    for name in {"given": None, **wanted}
  }


def weigh(
  name: str,
  job: Job,
  data: Prepared,
  parts: Mapping[str, Domains],
  *,
  seed: int,
  stage: str,
) -> Found:
  """Runs one method by the loop that it declares.

  Args:
    name: the method's name.
    job: config and workdir.
    data: the corpus; its targets drive the search.
    parts: what `partitions` returned.
    seed: seed of the search.
    stage: names its checkpoints.
  """
  learner = learner_of(name, job, data, parts, seed=seed)
  method, placed = learner.method, learner.domains
  job.reporter.advance(0, f"search of {name}")
  with job.session(stage, seed) as session:
    outcome = _LOOPS[method.loop](learner, session)
  value_N = outcome.value_N
  if value_N is None:
    value_N = np.full(len(data.pool), np.nan)
  return Found(
    outcome.weights,
    log_w_of(outcome.weights, data.pool, placed),
    value_N,
    outcome.cost,
    list(outcome.history),
    tuple(
      # Files are named by them.
      (
        candidate.replace(" ", "_"),
        weights,
        log_w_of(weights, data.pool, placed),
      )
      for candidate, weights in outcome.candidates
    ),
    outcome.reasons,
    outcome.kept,
  )


def learner_of(
  name: str,
  job: Job,
  data: Prepared,
  parts: Mapping[str, Domains],
  *,
  seed: int,
) -> Learner:
  """A method that knows what it may of a corpus; arguments as of `weigh`."""
  method = build.make_method(name, job.config)
  placed = parts[method.partition]
  facts = known.with_documents(
    known.facts_of(method, job.config, data, placed)._replace(seed=seed),
    method,
    job,
    data,
    placed,
  )
  return Learner(method, job, data, placed, build.plans(job.config), facts)


def _none(learner: Learner, session: fleet.Session) -> fleet.Outcome:
  """Facts are enough."""
  method = learner.method
  state = method.init(jax.random.key(session.seed), learner.facts)
  return fleet.Outcome(
    method.finalize(state),
    history=method.history(state),
    reasons=method.reasons(state),
  )


def _look(learner: Learner, session: fleet.Session) -> fleet.Outcome:
  """Models measure every document of pool and targets."""
  plan = learner.plans.look
  optimizer = learner.job.config.optimizer
  schedule = optim.schedule(
    optimizer.learning_rate,
    warmup_steps=optimizer.warmup_steps,
    total_steps=plan.steps,
  )
  rate_O = look.rates(plan, learner.method.look, schedule)
  return look.run(
    learner.method,
    learner.facts._replace(rate_O=rate_O),
    seeing_world(learner, _NO_MODEL, session.seed),
    plan,
    session,
    models={
      name: functools.partial(model_of, learner, one, total_steps=plan.steps)
      for name, one in look_presets(learner.job.config).items()
    },
    parts=known.looked_at(learner.method, learner.data),
  )


def look_presets(config: Any) -> dict[str, str]:
  """Sizes of the models that look at documents, by their names."""
  preset = config.proxy.preset
  return {"proxy": preset, "target": preset, "teacher": config.look.teacher}


def _values(learner: Learner, session: fleet.Session) -> fleet.Outcome:
  """Values of documents from proxies in training."""
  model = valuing_model(learner)
  return values.run(
    learner.method,
    learner.facts,
    seeing_world(learner, model, session.seed),
    learner.plans.values,
    session,
  )


def valuing_model(learner: Learner) -> fleet.Model:
  """Proxies with the hypergradient through an unroll of their training."""
  config = learner.job.config
  proxy = build.proxy_of(_preset(learner), config, learner.data.vocab_size)
  options = build.estimator_options(
    config,
    proxy,
    build.optimizer_of(config, total_steps=None),
    learner.job.reporter.say,
  ) | build.path_options(learner.method, config)
  return fleet.Model(
    _valuing_engine(
      proxy,
      tuple(config.optimizer.items()),
      sharding.make_mesh(**config.mesh),
      config.hypergradient.estimator,
      tuple(options.items()),
    ),
    proxy.flops_per_token(config.batch.row_tokens),
    build.unroll_cost(config, **options),
  )


@functools.lru_cache(maxsize=2)  # searches of one comparison compile once
def _valuing_engine(proxy, optimizer, mesh, estimator, options):
  return engine.make(
    proxy,
    optim.adamw(total_steps=None, **dict(optimizer)),
    mesh=mesh,
    estimator=estimator,
    options=dict(options),
  )


def _steer(learner: Learner, session: fleet.Session) -> fleet.Outcome:
  """One proxy on a mixture of domains that the method steers."""
  return steer.run(
    learner.method,
    learner.facts,
    seeing_world(learner, steered_model(learner), session.seed),
    learner.plans.steer,
    session,
  )


def steered_model(learner: Learner) -> fleet.Model:
  """A proxy; with a hypergradient where the method wants to be told of gains."""
  valued = "share_gain_K" in learner.method.signals
  return model_of(
    learner, _preset(learner), valued=learner.method.every if valued else 0
  )


def _runs(learner: Learner, session: fleet.Session) -> fleet.Outcome:
  """Whole runs of proxies on mixtures that the method asks for."""
  return runs.run(
    learner.method,
    learner.facts,
    seeing_world(learner, _NO_MODEL, session.seed),
    learner.plans.runs,
    session,
    run_models(learner),
  )


def run_models(learner: Learner) -> list[Callable[[], fleet.Model]]:
  """The proxies of whole runs, of every size."""
  plan = learner.plans.runs
  total_steps = plan.steps if plan.decay else None
  return [
    functools.partial(model_of, learner, preset, total_steps=total_steps)
    for preset in plan.presets
  ]


_LOOPS: dict[str, Callable[[Learner, fleet.Session], fleet.Outcome]] = {
  "none": _none,
  "look": _look,
  "values": _values,
  "steer": _steer,
  "runs": _runs,
}

_NO_MODEL: Any = None  # of a world whose loop trains nothing, or makes its own


def _preset(learner: Learner) -> str:
  return learner.job.config.proxy.preset


def model_of(
  learner: Learner,
  preset: str,
  *,
  total_steps: int | None = None,
  valued: int = 0,
) -> fleet.Model:
  """A size of proxies on all devices; the learning rate decays over the steps.

  Args:
    learner: the method.
    preset: name of the size.
    total_steps: of a training; None: its learning rate does not decay.
    valued: steps that are differentiated through at once; 0: none are.
  """
  config = learner.job.config
  proxy = build.proxy_of(preset, config, learner.data.vocab_size)
  optimizer = build.optimizer_of(config, total_steps=total_steps)
  options: dict[str, Any] = {}
  if valued:
    options = build.estimator_options(
      config, proxy, optimizer, learner.job.reporter.say, steps=valued
    )
  made = engine.make(
    proxy,
    optimizer,
    mesh=build.final_mesh(config),
    estimator=config.hypergradient.estimator,
    options=options,
  )
  flops = proxy.flops_per_token(config.batch.row_tokens)
  if not valued:
    return fleet.Model(made, flops)
  cost = build.unroll_cost(config, steps=valued, **options)
  return fleet.Model(made, flops, cost)


def seeing_world(
  learner: Learner, model: fleet.Model, seed: int
) -> fleet.World:
  """What a search draws from, as far as its loop reads it."""
  world, loop = world_of(learner, model, seed), learner.method.loop
  if loop == "values":
    return world._replace(validation=_validation(learner))
  if loop in ("steer", "runs"):
    seen = world.subpool(learner.facts.steps, "search", seed)
    return world._replace(view=view_of(learner, world, seen))
  return world


def world_of(learner: Learner, model: fleet.Model, seed: int) -> fleet.World:
  """What a method's models draw from and are looked at with, no view yet."""
  config, data, placed = learner.job.config, learner.data, learner.domains
  targets, weight_N, scale_N = None, np.zeros(0), np.zeros(0)
  if data.targets:
    targets, weight_N, scale_N = targets_of(data, "train", config)
  return fleet.World(
    model=model,
    pool=pool_sampler(data, config, seed=seed),
    rows=config.batch.rows,
    subpools=_subpools(learner),
    domain_N=placed.domain_N,
    targets=targets,
    target_weight_N=weight_N,
    target_names=known.driving_names(data),
    target_of_N=known.numbered(known.driving(data, "train")),
    embedding_NE=data.pool.embedding_NE,
    mass_N=data.pool.tokens.mass_N,
    target_scale_N=scale_N,
  )


def _subpools(learner: Learner) -> Subpools:
  """Parts of the pool; where a method mixes domains each has some documents."""
  found = subpools(learner.data, learner.job.config)
  if learner.method.loop not in ("steer", "runs"):
    return found
  least = found.budget.min_documents // learner.facts.num_domains
  return found._replace(
    stratum_N=np.asarray(learner.domains.domain_N), least=max(1, least)
  )


def subpools(data: Prepared, config: Any) -> Subpools:
  """Parts of the pool, the same for all methods: strata are labelled sources."""
  source_N, _ = data.documents.labels("source")
  return Subpools(
    data.pool.key_N,
    source_N,
    data.pool.tokens.pairs_N,
    build.budget(config, data),
  )


def _validation(learner: Learner):
  """Rows that every change is measured on: (batches, each target's weights)."""
  config, data = learner.job.config, learner.data
  held, weight_N, scale_N = targets_of(data, "validation", config)
  assert held is not None
  begin = held.start(held.init(), weight_N)
  _, rows = held.draw(begin, learner.plans.values.validation_rows)
  batches = stack_rows(rows, config.batch.rows)
  of_N = known.numbered(known.driving(data, "validation"))
  of_CBT = of_N[batches.document_BT]
  weights = [
    np.where(of_CBT == target, scale_N[batches.document_BT], 0)
    / max(np.sum(of_CBT == target), 1)
    for target in range(of_N.max() + 1)
  ]
  return batches, np.stack(weights).astype(np.float32)


def view_of(learner: Learner, world: fleet.World, seen: Subpool) -> View:
  """What methods of the loops `steer` and `runs` look at models with.

  Args:
    learner: the method.
    world: of the models.
    seen: the documents that they train on.
  """
  config, data = learner.job.config, learner.data
  train, plan = known.driving(data, "train"), learner.plans.observe
  part_N = world.target_of_N
  first_T = np.searchsorted(part_N, np.arange(len(train)))
  targets = None
  if world.targets is not None:
    targets = strata.make(world.targets, part_N, num_parts=len(train))
  # What is observed of domains is what the models train on.
  domain_rows = strata.make(
    world.pool,
    learner.domains.domain_N,
    num_parts=learner.facts.num_domains,
    inside_N=seen.inside_N,
  )
  return View(
    domains=domain_rows,
    targets=targets,
    eval_sets=sets.texts(
      train, build.set_plan(config, max_tokens=plan.max_tokens)
    ),
    bits_T=world.target_scale_N[first_T],
    rows=plan.rows,
    target_rows=plan.target_rows,
    frozen=domain_rows.rows(0, plan.frozen_rows),
    chunk_rows=config.evaluate.rows,
  )


def signals_of(
  documents: DocumentSet, domain_N: np.ndarray, rows: np.ndarray | slice
) -> Signals:
  """What is known of some documents of the pool without a model."""
  return Signals(
    mass_B=documents.tokens.mass_N[rows].astype(np.float32),
    domain_B=domain_N[rows],
    index_B=np.arange(len(domain_N), dtype=np.int32)[rows],
    embedding_BE=np.asarray(documents.embedding_NE[rows]),
  )


def log_w_of(
  weights: Weights, pool: DocumentSet, placed: Domains
) -> np.ndarray:
  """Log-weights of the pool's documents, float64."""
  found = (
    weights.log_w(signals_of(pool, placed.domain_N, rows))
    for rows in packing.chunks(len(pool), CHUNK)
  )
  return np.concatenate([np.asarray(one, np.float64) for one in found])


def pool_sampler(data: Prepared, config: Any, *, seed: int) -> sampler.Sampler:
  """Draws of the pool; the seed fixes the arrival points of its documents."""
  return sampler.make(
    data.pool.tokens,
    data.pool.key_N,
    row_tokens=config.batch.row_tokens,
    seed=seed,
  )


def targets_of(
  data: Prepared, split: str, config: Any
) -> tuple[sampler.Sampler, np.ndarray, np.ndarray]:
  """All targets' documents of a split: (sampler, weights, bits per byte).

  Every target gives the same number of tokens, so the mean of a token's nats
  times its bits per byte is the mean of the targets' bits per byte.
  """
  parts = known.driving(data, split)
  tokens = packing.join([part.tokens for part in parts])
  sizes = [len(part) for part in parts]
  pairs = [part.tokens.pairs_N.sum() for part in parts]
  num_bytes = [part.tokens.bytes_N.sum() for part in parts]
  weight_N = np.repeat([1.0 / p for p in pairs], sizes)
  scale_N = np.repeat(
    [p / (b * math.log(2)) for p, b in zip(pairs, num_bytes, strict=True)],
    sizes,
  )
  made = sampler.make(
    tokens,
    np.concatenate([part.key_N for part in parts]),
    row_tokens=config.batch.row_tokens,
    seed=config.seed,
  )
  return made, weight_N, scale_N
