"""The loop `look`: models measure every document, and a method weighs them by that.

A model trains on the natural pool, or on what the method curates of it, and stops at
its checkpoints. There every document of the pool and of the targets' training texts is
measured: its loss, its hidden states, whatever the method declares. The numbers lie on
disk, so that a look is as long as the corpus and no wider than a group of documents.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import checks, sharding
from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.checkpoint import Checkpointer
from cmtree_jax.loops.fleet import Fleet, Model, Outcome, Session, World
from cmtree_jax.methods.base import MEASURED, Documents, Facts, Look, Method
from cmtree_jax.proxy import lowering
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import documents


class Plan(NamedTuple):
  """How much of everything; the block `look`."""

  documents: int = 16_384  # measured between two saves
  steps: int = 150  # training steps of a model
  steps_per_call: int = 25  # drawn and compiled together; divides `steps`
  teacher: str = (
    "1.6m"  # preset of the larger model, five times the default proxy
  )
  # Rows of the targets that a step on a document is held against; full batches.
  goal_rows: int = 64

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    checks.at_least(
      1,
      documents=self.documents,
      steps_per_call=self.steps_per_call,
      goal_rows=self.goal_rows,
    )
    if self.steps < 1 or self.steps % self.steps_per_call:
      raise ValueError(
        f"steps = {self.steps} must be a multiple of steps_per_call = "
        f"{self.steps_per_call}."
      )

  def ends(self, look: Look) -> tuple[int, ...]:
    """The steps at which a model is stopped.

    Raises:
      ValueError: for more checkpoints than calls, or a model of the targets' texts
        that has no call at which it could turn to them.
    """
    calls = self.steps // self.steps_per_call
    if "target" in look.models and calls % 2:
      raise ValueError(
        "A model of the targets' texts turns to them in the middle: look.steps = "
        f"{self.steps} must be an even number of calls of look.steps_per_call, came "
        f"{calls}."
      )
    if look.checkpoints > calls:
      raise ValueError(
        f"look.steps = {self.steps} in calls of steps_per_call = "
        f"{self.steps_per_call} have {calls} ends, came {look.checkpoints} "
        "checkpoints of the method: lower look.steps_per_call."
      )
    return tuple(
      self.steps_per_call * round(calls * (i + 1) / look.checkpoints)
      for i in range(look.checkpoints)
    )


class State(NamedTuple):
  """The state of one model between two saves; all of it is saved."""

  fleet: Fleet  # the one model
  training: np.ndarray  # number of its training
  observed: np.ndarray  # observations that are complete
  groups: np.ndarray  # of documents that the next one has measured
  saves: np.ndarray


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
  *,
  models: Mapping[str, Callable[[], Model]],
  parts: tuple[packing.TokenStore, ...],
) -> Outcome:
  """Trains the models, measures all documents, and has the method weigh them.

  Args:
    method: a method whose loop is `look`.
    facts: what is known beforehand, with `pool` and `train`.
    world: what models draw from; its own model is not read.
    plan: how much of everything.
    session: seed, checkpoints, measurements and progress.
    models: by the names of `base.MODELS`; each is compiled when it is first asked for.
    parts: tokens of the pool's documents, then of every target's if the method is
      targeted.
  Raises:
    Fault: a model's loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
    ValueError: the method asks for what the plan or the targets do not give.
  """
  cost = observe(
    method, facts, world, plan, session, models=models, parts=parts
  )
  found = method.init(
    jax.random.key(session.seed),
    _filled(facts, method, session.checkpointer),
  )
  return Outcome(
    method.finalize(found),
    cost,
    method.history(found),
    reasons=method.reasons(found),
  )


def observe(
  method: Method,
  facts: Facts | None,
  world: World,
  plan: Plan,
  session: Session,
  *,
  models: Mapping[str, Callable[[], Model]],
  parts: tuple[packing.TokenStore, ...],
) -> Cost:
  """Trains the models and measures all documents; the session's arrays have it.

  The arguments and errors are those of `run`; without facts nothing may be asked of
  single documents.
  """
  ends = plan.ends(method.look)
  if "target" in method.look.models and world.targets is None:
    raise ValueError(
      "A model that is trained on the target's texts wants a target, came none: "
      "set config.data.targets."
    )
  cost = np.zeros(2)
  for number, name in enumerate(method.look.models):
    with contextlib.closing(session.checkpointer.child(name)) as saved:
      one = _Model(
        name,
        number * len(ends) * method.look.seeds,
        method,
        facts,
        world._replace(model=models[name]()),
        plan,
        session._replace(checkpointer=saved),
        parts,
      )
      cost += one.observe()
  return Cost(*cost)


def expected(
  method: Method,
  world: World,
  plan: Plan,
  model: Model,
  parts: tuple[packing.TokenStore, ...],
) -> float:
  """FLOPs of one of the models of a look: its trainings, and what it measures.

  Args:
    method: a method whose loop is `look`.
    world: what models draw from.
    plan: how much of everything.
    model: of the size that looks.
    parts: as of `run`.
  """
  look, wanted = method.look, method.features & MEASURED
  tokens = look.seeds * plan.steps * world.rows * world.pool.row_tokens
  seen = documents.Seen(
    model.engine,
    lowering.Arguments(model.engine, lowering.Size()).phi,  # shapes alone
    world.pool.row_tokens,
    world.rows,
    model.flops_per_token,
    longest=look.longest,
    sketch=look.sketch,
  )
  goal_rows = -(-plan.goal_rows // world.rows) * world.rows
  pool, *others = parts
  once = documents.expected(
    seen,
    pool,
    wanted,
    asked=look.asked,
    goal_tokens=goal_rows * world.pool.row_tokens,
  )
  once += sum(documents.expected(seen, one, wanted) for one in others)
  trained = Cost().plus(tokens, GRADIENT, model.flops_per_token).flops
  return trained + look.seeds * look.checkpoints * once


def work(method: Method, plan: Plan, rows: int) -> float:
  """Training rows of a whole look, of `rows` a step."""
  if method.loop != "look":
    return 0.0
  return float(len(method.look.models) * method.look.seeds * plan.steps * rows)


class _Model(NamedTuple):
  """One of the models of a look; the last fields are the arguments of `run`."""

  name: str
  first: int  # number of its first observation
  method: Method
  facts: Facts | None
  world: World
  plan: Plan
  session: Session
  parts: tuple[packing.TokenStore, ...]

  def observe(self) -> np.ndarray:
    """Does what is left of its observations; returns what all of them took."""
    look, ends = self.method.look, self.plan.ends(self.method.look)
    state = self._start(0)
    state = self.session.checkpointer.restore(state) or state
    while (done := int(state.observed)) < look.seeds * look.checkpoints:
      at = done % look.checkpoints
      training = done if look.afresh else done // look.checkpoints
      if state.training != training:
        fresh = self._start(done // look.checkpoints)
        fleet = fresh.fleet._replace(cost=state.fleet.cost)
        state = state._replace(fleet=fleet, training=np.array(training))
      begin = ends[at - 1] if look.afresh and at else 0
      state = self._trained(state, ends[at] - begin, at)
      state = self._measured(state)
    return state.fleet.cost

  def _start(self, seed: int) -> State:
    """The beginning of a training; all models of one seed draw alike."""
    key = jax.random.fold_in(jax.random.key(self.session.seed), 1 + seed)
    zero = np.array(0)
    return State(fleets.start(self.world, key[None]), zero, zero, zero, zero)

  def _trained(self, state: State, steps: int, at: int) -> State:
    """A model of so many steps, for observation `at` of a training."""
    fleet, world = state.fleet, self.world
    call = self.plan.steps_per_call
    if fleet.age[0] >= steps:  # before the job was stopped
      return state
    weight_N = self._weights(int(state.observed), at)
    while fleet.age[0] < steps:
      if self.name == "target" and 2 * fleet.age[0] >= self.plan.steps:
        fleet, batch = fleets.take_targets(fleet, world, call * world.rows)
      else:
        fleet, batch = fleets.take(fleet, world, weight_N, call * world.rows)
      batches = fleets.by_member([batch], world.rows)
      fleet, loss_PS = fleets.train(fleet, world, batches)
      fleets.require_finite(
        loss_PS,
        "The loss of a model that documents are looked at with",
        "Lower config.optimizer.learning_rate.",
      )
      loss = float(sharding.gather(loss_PS)[0, -1])
      self.session.tell(
        int(fleet.age[0]),
        {"loss": loss},
        part=f"{self.name}.{int(state.training)}",
      )
      self.session.advance(call * world.rows, f"a {self.name} to look with")
      state = self._saved(state._replace(fleet=fleet))
    return state

  def _weights(self, done: int, at: int) -> np.ndarray:
    """What is drawn of the pool until the next observation, `at` of a training."""
    subpool = self.world.subpool(self.plan.steps, "search", self.session.seed)
    if not at or self.method.curate is None:
      return subpool.inside_N.astype(float)
    assert self.facts is not None
    facts = _filled(self.facts, self.method, self._arrays)
    log_w_N = self.method.curate(facts, self.first + done - 1)
    return subpool.weights(np.exp(log_w_N - log_w_N.max()))

  def _measured(self, state: State) -> State:
    """With one more observation of all documents."""
    seen = self._seen(state)
    wanted = self.method.features & MEASURED
    groups = [
      (part, rows)
      for part, tokens in enumerate(self.parts)
      for rows in packing.chunks(len(tokens.bytes_N), self.plan.documents)
    ]
    for part, rows in groups[int(state.groups) :]:
      document_B = np.arange(rows.start, rows.stop)
      found = documents.measure(
        seen[part], self.parts[part], document_B, wanted
      )
      for name, value_B in found.values.items():
        shape = (self.method.look.observations, len(self.parts[part].bytes_N))
        array = self._arrays.array(
          f"{part}.{name}", (*shape, *value_B.shape[1:])
        )
        array[self.first + int(state.observed), rows] = value_B
        array.flush()
      fleet = state.fleet
      fleet = fleet._replace(cost=fleet.cost + np.array(found.cost))
      state = state._replace(fleet=fleet, groups=state.groups + 1)
      state = self._saved(state)
    return state._replace(observed=state.observed + 1, groups=np.array(0))

  def _seen(self, state: State) -> list[documents.Seen]:
    """The model as it measures the documents of each part."""
    look, world = self.method.look, self.world
    of_targets = documents.Seen(
      world.model.engine,
      state.fleet.phi,
      world.pool.row_tokens,
      world.rows,
      world.model.flops_per_token,
      longest=look.longest,
      sketch=look.sketch._replace(form="sgd"),
      key=jax.random.key(self.session.seed),
    )
    of_pool = of_targets._replace(sketch=look.sketch)
    if look.asked:
      number = self.first + int(state.observed)
      assert self.facts is not None and self.facts.pool is not None
      of_pool = of_pool._replace(
        goal=_goal(world, self.plan),
        asked_N=_asked(self.facts.pool.key_N, look.asked, number),
      )
    return [of_pool] + [of_targets] * (len(self.parts) - 1)

  @property
  def _arrays(self) -> Checkpointer:
    return self.session.checkpointer.parent

  def _saved(self, state: State) -> State:
    state = state._replace(fleet=state.fleet.settled(), saves=state.saves + 1)
    self.session.checkpointer.save(int(state.saves), state)
    self.session.stop.check()
    return state


def _filled(facts: Facts, method: Method, arrays: Checkpointer) -> Facts:
  """With what has been measured of every document."""
  wanted = method.features & MEASURED

  def filled(part: int, of: Documents) -> Documents:
    found: dict[str, Any] = {n: arrays.array(f"{part}.{n}") for n in wanted}
    return of._replace(**found)

  assert facts.pool is not None
  facts = facts._replace(pool=filled(0, facts.pool))
  if not method.targeted:  # then targets were not measured
    return facts
  return facts._replace(
    train=tuple(filled(t, one) for t, one in enumerate(facts.train, 1))
  )


def _goal(world: World, plan: Plan) -> tuple[Batch, np.ndarray]:
  """Rows of the targets, and weights that make their loss the mean bits per byte."""
  assert world.targets is not None
  rows = -(-plan.goal_rows // world.rows) * world.rows
  _, batch = fleets.draw(
    world.targets, world.targets.init(), world.target_weight_N, rows
  )
  real_BT = batch.document_BT >= 0
  weight_BT = world.target_scale_N[batch.document_BT] * real_BT / real_BT.sum()
  return stack_rows(batch, world.rows), weight_BT.reshape(
    -1, world.rows, weight_BT.shape[1]
  ).astype(np.float32)


def _asked(key_N: np.ndarray, number: int, observation: int) -> np.ndarray:
  """Which documents are asked, others at every observation; in no order of theirs."""
  mixed_N = sampler.mixed(key_N ^ np.uint64(1 + observation))
  asked_N = np.zeros(len(key_N), bool)
  asked_N[np.argsort(mixed_N, kind="stable")[:number]] = True
  return asked_N


def rates(plan: Plan, look: Look, schedule: Callable[[int], Any]) -> np.ndarray:
  """Mean learning rate of the steps that led to each observation, [O].

  Args:
    plan: of the loop.
    look: of the method.
    schedule: step -> learning rate.
  """
  found, begin = [], 0
  for end in plan.ends(look):
    first = 0 if look.afresh else begin
    steps = range(first, first + end - begin)
    found.append(np.mean([float(schedule(step)) for step in steps]))
    begin = end
  return np.tile(found, len(look.models) * look.seeds)
