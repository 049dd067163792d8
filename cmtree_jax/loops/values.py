"""The loop `values`: proxies in training say what documents are worth.

A round trains the proxies on under the current weights, asks each what documents are
worth (a hypergradient through an unroll of its training), and gives the values to the
method. A lookahead then trains on from there under the old and the new weights, and
measures what the change is worth.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.bilevel import population
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import Advance, Fleet, Outcome, Session, World
from cmtree_jax.methods.base import Facts, Method, Signals
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, PROBE, Cost

CHUNK = 65_536  # documents that are weighed at a time; bounds memory

# What the loop adds to the info of the method, in bits per byte.
LOOP_FIELDS = ("outer_loss", "validation_loss", "gain")


class Plan(NamedTuple):
  """How much of everything a search does; the block `values`."""

  rounds: int = 5
  population: int = 2  # proxies of staggered ages
  max_age: int = 300  # training steps at which a proxy is reset
  min_age: int = 80  # training steps before a proxy is first asked
  unroll: int = 16  # steps that are differentiated through, as a cooldown
  outer_rows: int = 512  # rows of the targets for each unroll
  probe_rows: int = 1024  # rows of documents valued by each unroll
  validation_rows: int = 256  # rows that every change is measured on
  steps_between_rounds: int = 20  # training steps of every proxy
  # Cooldown steps by which a change is measured, on either side; 0: every change
  # is kept, unmeasured.
  lookahead: int = 20
  natural_share: float = 0.25  # share of natural draws among those valued
  sample_documents: int = 32_768  # documents that stand for the corpus

  def check(self, rows: int) -> None:
    """Refuses what contradicts itself, or does not fill batches of `rows`.

    Raises:
      ValueError: for the first such field.
    """
    checks.at_least(
      1,
      population=self.population,
      max_age=self.max_age,
      unroll=self.unroll,
      steps_between_rounds=self.steps_between_rounds,
      sample_documents=self.sample_documents,
    )
    checks.at_least(
      0, rounds=self.rounds, min_age=self.min_age, lookahead=self.lookahead
    )
    checks.share(natural_share=self.natural_share)
    if self.max_age < self.min_age:
      raise ValueError(
        f"max_age = {self.max_age} must be at least min_age = {self.min_age}."
      )
    for name in ("outer_rows", "probe_rows", "validation_rows"):
      value = getattr(self, name)
      if value < rows or value % rows:
        raise ValueError(
          f"{name} = {value} must be a multiple of config.batch.rows = {rows}; "
          f"try {max(value // rows, 1) * rows}."
        )


class State(NamedTuple):
  """The state between rounds; all of it is saved."""

  method: Any
  fleet: Fleet
  round: np.ndarray
  history: np.ndarray  # [rounds, fields of the method's info and LOOP_FIELDS]
  evidence: "Evidence"


class Evidence(NamedTuple):
  """Centered values measured of every document so far."""

  sum_N: np.ndarray
  count_N: np.ndarray

  @property
  def mean_N(self) -> np.ndarray:
    """NaN where a document was never valued."""
    with np.errstate(invalid="ignore"):
      return self.sum_N / self.count_N


class Valued(NamedTuple):
  """Pieces of documents that one proxy valued."""

  document: np.ndarray
  value: np.ndarray  # fall of the outer loss per unit of density
  tokens: np.ndarray
  log_proposal: np.ndarray  # log of the density that they were drawn with


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
) -> Outcome:
  """Rounds of: value documents with the proxies, step the method, train on.

  Args:
    method: a method whose loop is `values`.
    facts: what is known beforehand.
    world: proxies and what they draw from.
    plan: how much of everything.
    session: seed, checkpoints and progress.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  search = _search(method, world, plan, session.seed)
  state, fields = _start(search, facts)
  state = session.checkpointer.restore(state) or state
  while state.round < plan.rounds:
    state = _play_round(search, state, session.advance)
    done = int(state.round)
    session.checkpointer.save(done, state)
    fleets.require_finite(
      state.history[done - 1],
      f"A loss in round {done} of the search (saved)",
      "Lower config.optimizer.learning_rate or raise "
      "config.optimizer.eps_root, and start anew with --overwrite.",
    )
    session.stop.check()
  return Outcome(
    weights=method.finalize(state.method),
    cost=Cost(*state.fleet.cost),
    history=tuple(
      dict(zip(fields, row.tolist(), strict=True)) for row in state.history
    ),
    value_N=state.evidence.mean_N,
  )


def work(plan: Plan, rows: int, cost: UnrollCost) -> float:
  """Work of a whole search in plain training rows, of `rows` a step."""
  raising = plan.population * plan.min_age  # and the sum of `first_ages`
  raising += (plan.population - 1) * (plan.max_age - plan.min_age) / 2
  proxy = unroll_work(plan, rows, cost) + plan.steps_between_rounds * rows
  one_round = plan.population * proxy + lookahead_work(plan, rows)
  return rows * raising + plan.rounds * one_round


def unroll_work(plan: Plan, rows: int, cost: UnrollCost) -> float:
  """Work of valuing with one proxy, in plain training rows."""
  inner = plan.unroll * rows * cost.inner_passes
  outer = plan.outer_rows * cost.outer_gradients * GRADIENT
  return (inner + outer + plan.probe_rows * PROBE) / GRADIENT


def lookahead_work(plan: Plan, rows: int) -> float:
  """Work of measuring one change, in plain training rows."""
  return 2.0 * plan.population * plan.lookahead * rows


class _Search(NamedTuple):
  """What stays the same in all rounds."""

  method: Method
  world: World
  plan: Plan
  seed: int
  step: Callable[..., Any]  # the method's, compiled
  log_w_B: Callable[..., Any]

  @property
  def key(self) -> shapes.Key:
    """The random key of the whole search."""
    return jax.random.key(self.seed)


def _search(method: Method, world: World, plan: Plan, seed: int) -> _Search:
  return _Search(
    method,
    world,
    plan,
    seed,
    jax.jit(method.step),
    jax.jit(lambda state, x: method.finalize(state).log_w(x)),
  )


def _start(search: _Search, facts: Facts) -> tuple[State, tuple[str, ...]]:
  """(state before the first round, names of the history's columns)."""
  world, plan = search.world, search.plan
  method = search.method.init(jax.random.fold_in(search.key, 0), facts)
  _, info = jax.eval_shape(search.step, method, _signals(search, [], 0))
  fields = (*info._fields, *LOOP_FIELDS)
  size = len(world.mass_N)
  return State(
    method=method,
    fleet=fleets.start(
      world,
      _proxy_keys(search, np.arange(plan.population)),
      streams=plan.population,
    ),
    round=np.array(0),
    history=np.zeros((plan.rounds, len(fields))),
    evidence=Evidence(np.zeros(size), np.zeros(size)),
  ), fields


def _play_round(search: _Search, state: State, advance: Advance) -> State:
  """Values from every proxy, one step of the method, and its measured gain."""
  world, plan = search.world, search.plan
  number = int(state.round) + 1
  log_w_N = _log_w_N(search, state.method)
  fleet, seen = _raise_proxies(search, state, log_w_N, advance)
  fleet, found, outer_P = _value(search, fleet, seen, log_w_N)
  work = plan.population * unroll_work(
    plan, world.rows, world.model.unroll_cost
  )
  advance(work, f"round {number}: values")
  method, info = jax.block_until_ready(
    search.step(state.method, _signals(search, found, number - 1))
  )
  advance(0, f"round {number}: the method's step")
  sides = log_w_N, _log_w_N(search, method)
  fleet, gain, loss = _look_ahead(search, fleet, seen, sides)
  advance(lookahead_work(plan, world.rows), f"round {number}: measured")
  history = state.history.copy()
  history[number - 1] = [*map(float, info), np.mean(outer_P), loss, gain]
  return State(
    # A method may take a step back that did not help.
    method=search.method.judge(method, jnp.float32(gain)),
    fleet=fleet.settled(),
    round=state.round + 1,
    history=history,
    evidence=_with_values(state.evidence, found, log_w_N),
  )


def _log_w_N(search: _Search, method: Any) -> np.ndarray:
  """Log-weights of all documents, some at a time; float64."""
  world = search.world
  found = [
    search.log_w_B(
      method,
      Signals(
        mass_B=world.mass_N[rows].astype(np.float32),
        domain_B=world.domain_N[rows],
        embedding_BE=np.asarray(world.embedding_NE[rows]),
      ),
    )
    for rows in packing.chunks(len(world.mass_N), CHUNK)
  ]
  return np.concatenate([np.asarray(x, np.float64) for x in found])


def _raise_proxies(
  search: _Search, state: State, log_w_N: np.ndarray, advance: Advance
) -> tuple[Fleet, list[Subpool]]:
  """Trains proxies on to where they are asked next; old ones are reset first.

  Returns:
    (fleet, what each proxy sees of the pool in its whole life).
  """
  world, plan, fleet = search.world, search.plan, state.fleet
  old_P = fleet.age >= plan.max_age
  if old_P.any():
    key_of = functools.partial(_proxy_keys, search)
    fleet = fleets.reset(fleet, world, old_P, key_of)
  seen = [
    world.subpool(plan.max_age, "search", search.seed, int(number))
    for number in fleet.number
  ]
  weight_PN = [one.weights(np.exp(log_w_N)) for one in seen]
  if state.round == 0:
    # Staggered, so that their hypergradients are not those of one moment.
    goal_P = population.first_ages(
      plan.population, max_age=plan.max_age, min_age=plan.min_age
    )
    goal_P = np.maximum(goal_P, plan.steps_between_rounds)
  else:
    goal_P = np.maximum(plan.min_age, fleet.age + plan.steps_between_rounds)
  rows = plan.steps_between_rounds * world.rows
  while (young_P := fleet.age < goal_P).any():
    drawn = []
    for member, young in enumerate(young_P):
      batch = None
      if young:
        fleet, batch = fleets.take(
          fleet, world, weight_PN[member], rows, stream=member
        )
      drawn.append(batch)
    batches = fleets.by_member(drawn, world.rows)
    fleet, _ = fleets.train(fleet, world, batches, which_P=young_P)
    advance(int(young_P.sum()) * rows, "raising proxies")
  return fleet, seen


def _value(
  search: _Search, fleet: Fleet, seen: list[Subpool], log_w_N: np.ndarray
) -> tuple[Fleet, list[Valued], np.ndarray]:
  """One unroll of every proxy: (fleet, what each valued, outer losses [P]).

  Documents are drawn ahead of a proxy's stream, which stays where it is.
  """
  world, plan = search.world, search.plan
  share = plan.natural_share
  inner, probes, outer, ratio, density = [], [], [], [], []
  for member, subpool in enumerate(seen):
    weight_N = subpool.weights(np.exp(log_w_N))
    proposal_N = (1 - share) * weight_N + share * subpool.inside_N
    ahead, batch = fleets.take(
      fleet, world, proposal_N, plan.unroll * world.rows, stream=member
    )
    inner.append(batch)
    ratio.append((weight_N / np.maximum(proposal_N, _TINY))[batch.document_BT])
    density.append(proposal_N)
    _, batch = fleets.take(
      ahead, world, proposal_N, plan.probe_rows, stream=member
    )
    probes.append(batch)
    fleet, batch = fleets.take_targets(fleet, world, plan.outer_rows)
    outer.append(batch)
  inner, probes, outer = (
    fleets.by_member(x, world.rows) for x in (inner, probes, outer)
  )
  scale = world.target_scale_N[outer.document_BT]
  outer_weight = scale / outer.document_BT[0].size
  engine = world.model.engine
  unroll = engine.unroll(
    fleet.phi,
    inner,
    np.reshape(ratio, inner.document_BT.shape).astype(np.float32),
    (outer, outer_weight.astype(np.float32)),
  )
  value = engine.probe(fleet.phi.params, unroll.adjoint, probes)
  found = [
    _valued(member, (inner, unroll.value), (probes, value), density[member])
    for member in range(plan.population)
  ]
  return _charge_values(search, fleet), found, np.asarray(unroll.outer_loss)


_TINY = 1e-12  # of a density, of documents that are not drawn


def _valued(member: int, inner, probes, proposal_N: np.ndarray) -> Valued:
  """Pieces of one proxy's unroll and probes, (batches, values) each."""
  parts = [
    _by_piece(Batch(*(x[member] for x in batches)), np.asarray(value)[member])
    for batches, value in (inner, probes)
  ]
  document, value, tokens = (
    np.concatenate(x) for x in zip(*parts, strict=True)
  )
  return Valued(document, value, tokens, np.log(proposal_N[document]))


def _charge_values(search: _Search, fleet: Fleet) -> Fleet:
  world, plan = search.world, search.plan
  cost = world.model.unroll_cost
  for rows, passes in (
    (plan.unroll * world.rows, cost.inner_passes),
    (plan.outer_rows * cost.outer_gradients, GRADIENT),
    (plan.probe_rows, PROBE),
  ):
    fleet = fleet.charge(world, plan.population * rows, passes)
  return fleet


def _look_ahead(
  search: _Search,
  fleet: Fleet,
  seen: list[Subpool],
  log_w_2N: tuple[np.ndarray, np.ndarray],
) -> tuple[Fleet, float, float]:
  """Measures a change of weights: (fleet, fall of the loss, loss after it).

  Every proxy is cooled down on the old and on the new weights, with the same draws
  where the weights are equal; it goes on from where it was. Without a lookahead
  the loss is that of the proxies as they are, and nothing is said of the change.
  """
  world, plan = search.world, search.plan
  if not plan.lookahead:
    fleet = _charge_validation(search, fleet, times=1)
    return fleet, 0.0, _validation_loss(search, fleet.phi.params)
  losses = []
  for log_w_N in log_w_2N:
    drawn = [
      fleets.take(
        fleet,
        world,
        subpool.weights(np.exp(log_w_N)),
        plan.lookahead * world.rows,
        stream=member,
      )[1]
      for member, subpool in enumerate(seen)
    ]
    batches = fleets.by_member(drawn, world.rows)
    params = world.model.engine.cooled(fleet.phi, batches, fleets.ones(batches))
    losses.append(_validation_loss(search, params))
  rows = 2 * plan.population * plan.lookahead * world.rows
  fleet = fleet.charge(world, rows, GRADIENT)
  fleet = _charge_validation(search, fleet, times=2)
  return fleet, losses[0] - losses[1], losses[1]


def _validation_loss(search: _Search, params: shapes.Tree) -> float:
  """Mean loss of the proxies on the validation rows, in bits per byte."""
  world = search.world
  loss_P = world.model.engine.weighted_nats(params, world.validation)
  return float(np.mean(np.asarray(loss_P, np.float64)))


def _charge_validation(search: _Search, fleet: Fleet, *, times: int) -> Fleet:
  assert search.world.validation is not None
  rows = search.world.validation[1][..., 0].size
  return fleet.charge(
    search.world, times * search.plan.population * rows, FORWARD
  )


def _with_values(
  evidence: Evidence, found: list[Valued], log_w_N: np.ndarray
) -> Evidence:
  """With a round's values, minus their mean under the current weights."""
  sum_N, count_N = evidence.sum_N.copy(), evidence.count_N.copy()
  for one in found:
    trained = one.tokens * np.exp(log_w_N[one.document] - one.log_proposal)
    baseline = trained @ one.value / trained.sum()
    np.add.at(sum_N, one.document, one.value - baseline)
    np.add.at(count_N, one.document, 1.0)
  return Evidence(sum_N, count_N)


def _signals(search: _Search, found: list[Valued], number: int) -> Signals:
  """The round's documents, filled up to a fixed number with mass zero."""
  world, plan = search.world, search.plan
  rows = plan.population * (plan.unroll * world.rows + plan.probe_rows)
  size = 2 * rows  # more pieces than that are left out: they are a sample
  columns = [np.concatenate(x)[:size] for x in zip(*found, strict=True)]
  if not columns:
    columns = [np.zeros(0, np.int64)] + [np.zeros(0)] * 3
  document, value, mass, log_proposal = (
    np.pad(column, (0, size - len(column))) for column in columns
  )
  sample_NE, sample_mass_N = _sample(search, number)
  return Signals(
    mass_B=jnp.asarray(mass, jnp.float32),
    domain_B=jnp.asarray(world.domain_N[document]),
    embedding_BE=jnp.asarray(world.embedding_NE[document]),
    value_B=jnp.asarray(value, jnp.float32),
    log_proposal_B=jnp.asarray(log_proposal, jnp.float32),
    sample_NE=sample_NE,
    sample_mass_N=sample_mass_N,
  ).only(search.method.signals)


def _sample(search: _Search, number: int) -> tuple[jax.Array, jax.Array]:
  """Features and masses that stand for the corpus in one round."""
  world, size = search.world, len(search.world.mass_N)
  rng = np.random.default_rng([search.seed, number])
  wanted = min(search.plan.sample_documents, size)
  chosen = np.sort(rng.choice(size, wanted, replace=False))
  mass_N = world.mass_N[chosen]
  return (
    jnp.asarray(world.embedding_NE[chosen]),
    jnp.asarray(mass_N / mass_N.sum(), jnp.float32),
  )


def _proxy_keys(search: _Search, number_P: np.ndarray) -> shapes.Key:
  """Random keys of proxies, by how many were started before each."""
  key = jax.random.fold_in(search.key, 1)
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(
    jnp.asarray(number_P)
  )


def _by_piece(batches: Batch, value_SBT: np.ndarray):
  """(document, mean value, tokens) of every piece of a draw."""
  piece = batches.segment_BT.ravel()
  tokens = np.bincount(piece)
  total = np.bincount(piece, value_SBT.ravel().astype(np.float64))
  document = np.zeros(len(tokens), np.int64)
  document[piece] = batches.document_BT.ravel()
  seen = tokens > 0
  return document[seen], (total / np.maximum(tokens, 1))[seen], tokens[seen]
