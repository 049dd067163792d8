"""What experiments.views measures: values by proxy, and losses of trainings on halves.

Values are of the same documents for every proxy. The trainings differ in nothing but
the half of a sub-pool that they see, each at matched repetition. Both are kept in the
workdir, and a stopped command goes on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.bilevel import population
from cmtree_jax.data import store
from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.evaluate import perplexity, sets
from cmtree_jax.jobs import build, known, search
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import World
from cmtree_jax.proxy import engine

_CALL = 25  # steps that are drawn and compiled together


class Plan(NamedTuple):
  """The config's block `measure`; configs/views.py says what the fields mean."""

  proxies: int
  documents: int
  pieces: int
  trainings: int
  steps: int
  together: int


class Chosen(NamedTuple):
  """Documents of the pool that are valued."""

  row_M: np.ndarray  # of the pool
  trained_M: np.ndarray  # bool, whether the trainings see them


def choose(job: Job, data: Prepared, plan: Plan) -> Chosen:
  """The sub-pool of a training, and others until there are enough."""
  tokens = plan.steps * job.config.batch.rows * job.config.batch.row_tokens
  inside_N = search.subpools(data, job.config).of(tokens, "views").inside_N
  order = np.lexsort((data.pool.key_N, ~inside_N))
  row_M = np.sort(order[: max(plan.documents, int(inside_N.sum()))])
  return Chosen(row_M, inside_N[row_M])


class Valued(NamedTuple):
  """What each of P proxies makes of the M documents."""

  value_PTM: np.ndarray  # to every target
  state_PMH: np.ndarray  # its mean hidden states of them


def values(job: Job, data: Prepared, plan: Plan, chosen: Chosen) -> Valued:
  """What every document is worth to every target, by every proxy."""
  file, states = job.workdir / "values.npy", job.workdir / "states.npy"
  if file.exists():
    return Valued(np.load(file), np.load(states))
  world, life = _valuing(job, data), job.config["values"]
  key_P = jax.random.split(jax.random.key(job.config.seed), plan.proxies)
  fleet = fleets.start(world, key_P, streams=plan.proxies)
  seen = [
    world.subpool(life.max_age + life.unroll, "views", "proxy", number)
    for number in range(plan.proxies)
  ]
  weight_PN = [one.inside_N.astype(float) for one in seen]
  goal_P = population.first_ages(
    plan.proxies, max_age=life.max_age, min_age=life.min_age
  )
  while (young_P := fleet.age < goal_P).any():
    steps = int(min(_CALL, (goal_P - fleet.age)[young_P].min()))
    fleet = _trained(fleet, world, weight_PN, steps, young_P)
    job.reporter.advance(steps * int(young_P.sum()), "proxies that value")
  rows = life.unroll * world.rows
  drawn = []
  for member, weight_N in enumerate(weight_PN):
    fleet, batch = fleets.take(fleet, world, weight_N, rows, stream=member)
    drawn.append(batch)
  steps = fleets.by_member(drawn, world.rows)
  probes, tokens_M = _probes(data, chosen, plan, world)
  found = np.zeros((plan.proxies, len(world.target_names), len(chosen.row_M)))
  for target in range(len(world.target_names)):
    unroll = world.model.engine.unroll(
      fleet.phi,
      steps,
      fleets.ones(steps),
      _outer(world, target, plan.proxies, life.outer_rows),
    )
    for chunk, document in probes:
      probed = world.model.engine.probe(
        fleet.phi.params, unroll.adjoint, _for_each(chunk, plan.proxies)
      )
      _add(found[:, target], document, probed)
    job.reporter.advance(0, f"values to {world.target_names[target]}")
  found /= tokens_M
  engine = world.model.engine
  state_PMH = np.zeros((plan.proxies, len(tokens_M), engine.hidden_width))
  for chunk, document in probes:
    _add(state_PMH, document, engine.hidden(fleet.phi.params, chunk))
  state_PMH /= tokens_M[:, None]
  store.save_array(states, state_PMH)
  store.save_array(file, found)
  return Valued(found, state_PMH)


def _add(sum_PM: np.ndarray, document: np.ndarray, piece_P: jax.Array) -> None:
  """Adds what every proxy has of pieces to the sums of their documents."""
  inside = document >= 0
  for sum_M, piece in zip(sum_PM, np.asarray(piece_P), strict=True):
    np.add.at(sum_M, document[inside], piece[inside])


def halves(plan: Plan, chosen: Chosen) -> np.ndarray:
  """Which of the documents each training sees, bool [trainings, M]."""
  rng = np.random.default_rng(0)
  inside = np.flatnonzero(chosen.trained_M)
  found = np.zeros((plan.trainings, len(chosen.row_M)), bool)
  for half in found:
    half[rng.choice(inside, len(inside) // 2, replace=False)] = True
  return found


def losses(
  job: Job, data: Prepared, plan: Plan, chosen: Chosen, half_RM: np.ndarray
) -> np.ndarray:
  """Bits per byte of every target's test texts after each training, [R, T]."""
  world, found = _training(job, data, plan.steps), []
  test = [
    splits["test"] for splits in data.targets.values() if len(splits["train"])
  ]
  most = job.config.evaluate.max_tokens
  scored = sets.texts(test, build.set_plan(job.config, max_tokens=most))
  for start in range(0, plan.trainings, plan.together):
    file = job.workdir / f"losses.{start:04d}.npy"
    if not file.exists():
      some = half_RM[start : start + plan.together]
      bpb_RT = _scored(world, chosen, some, plan.steps, scored)
      fleets.require_finite(
        bpb_RT, "A loss", "Lower config.optimizer.learning_rate."
      )
      store.save_array(file, bpb_RT)
    found.append(np.load(file))
    job.reporter.advance(plan.together * plan.steps, "trainings on halves")
    job.stop.check()
  return np.concatenate(found)


def _scored(world, chosen, half_RM, steps, scored):
  """Trains some models from one start, each on its half."""
  key_P = jnp.stack([jax.random.key(0)] * len(half_RM))
  fleet = fleets.start(world, key_P, streams=len(half_RM))
  weight_PN = np.zeros((len(half_RM), len(world.mass_N)))
  for weight_N, half_M in zip(weight_PN, half_RM, strict=True):
    weight_N[chosen.row_M[half_M]] = 1.0
  everyone = np.ones(len(half_RM), bool)
  while fleet.age[0] < steps:
    now = int(min(_CALL, steps - fleet.age[0]))
    fleet = _trained(fleet, world, weight_PN, now, everyone)
  columns = []
  for one in scored:
    nats = np.asarray(world.model.engine.losses(fleet.phi.params, one.batches))
    total_P = (nats * one.weight_CBT).sum(axis=(1, 2, 3), dtype=np.float64)
    columns.append(
      [perplexity.bits_per_byte(x, one.num_bytes) for x in total_P]
    )
  return np.array(columns).T


def _trained(fleet, world, weight_PN, steps, which_P):
  """Proxies after so many more steps on documents of these weights."""
  drawn: list[Batch | None] = []
  for member, going in enumerate(which_P):
    batch = None
    if going:
      fleet, batch = fleets.take(
        fleet, world, weight_PN[member], steps * world.rows, stream=member
      )
    drawn.append(batch)
  batches = fleets.by_member(drawn, world.rows)
  fleet, loss_PS = fleets.train(fleet, world, batches, which_P=which_P)
  fleets.require_finite(
    loss_PS, "A training loss", "Lower config.optimizer.learning_rate."
  )
  return fleet


def _valuing(job: Job, data: Prepared) -> World:
  """Proxies with a hypergradient, and the targets that they are asked for."""
  config = job.config
  proxy = build.proxy_of(config.proxy.preset, config, data.vocab_size)
  optimizer = build.optimizer_of(config, total_steps=None)
  made = engine.make(
    proxy,
    optimizer,
    mesh=sharding.make_mesh(**config.mesh),
    estimator=config.hypergradient.estimator,
    options=build.estimator_options(config, proxy, optimizer, job.reporter.say),
    hidden_layers=build.corpus_plan(config).embedding.hidden_layers,
  )
  targets, weight_N, scale_N = search.targets_of(data, "train", config)
  return _world(job, data, fleets.Model(made, 0.0))._replace(
    targets=targets,
    target_weight_N=weight_N,
    target_scale_N=scale_N,
    target_names=known.driving_names(data),
    target_of_N=known.numbered(known.driving(data, "train")),
  )


def _training(job: Job, data: Prepared, steps: int) -> World:
  """Models of which each has a whole training."""
  config = job.config
  proxy = build.proxy_of(config.proxy.preset, config, data.vocab_size)
  made = engine.make(
    proxy,
    build.optimizer_of(config, total_steps=steps),
    mesh=build.final_mesh(config),
  )
  return _world(job, data, fleets.Model(made, 0.0))


def _world(job: Job, data: Prepared, model: fleets.Model) -> World:
  return World(
    model=model,
    pool=search.pool_sampler(data, job.config, seed=job.config.seed),
    rows=job.config.batch.rows,
    subpools=search.subpools(data, job.config),
    mass_N=data.pool.tokens.mass_N,
  )


def _outer(world: World, target: int, proxies: int, rows: int):
  """(a target's rows, weights in bits per byte): the same for every proxy."""
  assert world.targets is not None
  weight_N = world.target_weight_N * (world.target_of_N == target)
  _, batch = fleets.draw(world.targets, world.targets.init(), weight_N, rows)
  batches = stack_rows(batch, world.rows)
  scale = world.target_scale_N[batches.document_BT] / batches.document_BT.size
  scale = np.stack([scale] * proxies).astype(np.float32)
  return _for_each(batches, proxies), scale


def _for_each(batches: Batch, proxies: int) -> Batch:
  """The same rows for every proxy."""
  return Batch(*(np.stack([x] * proxies) for x in batches))


def _probes(data: Prepared, chosen: Chosen, plan: Plan, world: World):
  """(batches with the number of each token's document, tokens of each): chunks."""
  tokens = data.pool.tokens
  every = packing.pieces(tokens, world.pool.row_tokens)
  number_N = np.full(len(data.pool), -1)
  number_N[chosen.row_M] = np.arange(len(chosen.row_M))
  wanted = (number_N[every.document] >= 0) & (every.number < plan.pieces)
  order = np.flatnonzero(wanted)
  batch = packing.pack_whole(tokens, every, order)
  block = _BATCHES * world.rows
  size = -len(batch.tokens_BT) % block
  batch = Batch(
    *(
      np.pad(x, [(0, size), (0, 0)], constant_values=fill)
      for x, fill in zip(batch, (0, 0, -1, -1), strict=True)
    )
  )
  document_BT = np.where(
    batch.document_BT >= 0, number_N[batch.document_BT], -1
  )
  shape = -1, _BATCHES, world.rows, world.pool.row_tokens
  chunks = [x.reshape(shape) for x in (*batch, document_BT)]
  tokens_M = np.bincount(
    document_BT[document_BT >= 0], minlength=len(chosen.row_M)
  )
  found = [
    (Batch(*(x[i] for x in chunks[:-1])), chunks[-1][i])
    for i in range(len(chunks[0]))
  ]
  return found, tokens_M


_BATCHES = 8  # in one call of the engine
