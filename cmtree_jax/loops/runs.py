"""The loop `runs`: proxies trained from scratch on the mixtures that a method asks for.

All runs share the parameters at the start, the arrival points of documents and the
frozen rows that score them, so what differs between two of them is the mixture.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import (
  Advance,
  Fleet,
  Model,
  Outcome,
  Session,
  World,
)
from cmtree_jax.methods.base import Facts, Method, Signals
from cmtree_jax.methods.searching import Trials
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.signals import View, cost_of, domains, measure, observe


class Plan(NamedTuple):
  """How much of everything; the block `runs`."""

  presets: tuple[str, ...] = (
    "0.3m",
  )  # sizes; all but mixing_laws use the first
  steps: int = 60
  decay: bool = True  # the learning rate falls to a tenth within a run
  curve_points: int = 3  # at which a run is scored; divides the steps
  population: int = 1  # runs that are trained together

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    checks.at_least(1, steps=self.steps, population=self.population)
    if not self.presets:
      raise ValueError("presets must name at least one size.")
    points = self.curve_points
    if points < 1 or self.steps % points:
      raise ValueError(
        f"curve_points = {points} must divide config.runs.steps = {self.steps}."
      )

  @property
  def curve_steps(self) -> tuple[int, ...]:
    """Steps of a run at which it is scored, evenly spaced, its end last."""
    points = self.curve_points
    return tuple(self.steps * (i + 1) // points for i in range(points))


class State(NamedTuple):
  """The state between two groups of runs; all of it is saved."""

  method: Any
  runs: np.ndarray  # how many are done
  cost: np.ndarray  # tokens, FLOPs


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
  sizes: Sequence[Callable[[], Model]],
) -> Outcome:
  """Trains the runs that the method asks for, until it asks for none.

  Args:
    method: a method whose loop is `runs`.
    facts: what is known beforehand; `curve_steps` are those of the plan.
    world: what runs draw from; its model is not read.
    plan: how much of everything.
    session: seed, checkpoints (after every group of runs) and progress.
    sizes: the proxies' sizes in the order of `Facts.sizes`; each is compiled when it
      is first asked for.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  key = jax.random.key(session.seed)
  state = State(
    method.init(jax.random.fold_in(key, 0), facts), np.array(0), np.zeros(2)
  )
  state = session.checkpointer.restore(state) or state
  subpool = world.subpool(plan.steps, "search", session.seed)
  made: dict[int, Model] = {}
  while len((pending := method.ask(state.method)).mixture_RK):
    size = int(pending.size_R[0])
    if size not in made:
      made[size] = sizes[size]()
    # The next runs of one size, as many as are trained together.
    together = np.argmin([*(pending.size_R == size), False])
    group = _Group(
      pending.mixture_RK[: min(plan.population, together)],
      size,
      world._replace(model=made[size]),
      plan,
      method.signals,
      subpool,
    )
    fleet, found = _train(group, jax.random.fold_in(key, 1), session.advance)
    state = _with_results(method, state, fleet, found)
    for number, one in enumerate(found, int(state.runs) - len(found) + 1):
      losses = zip(world.target_names, one.target_loss_T, strict=True)
      session.tell(number, {f"bpb.{name}": loss for name, loss in losses})
    session.checkpointer.save(int(state.runs), state)
    session.stop.check()
  trials: Trials = state.method.trials
  done = zip(trials.mixture_RK, trials.loss_RT, strict=True)
  history = [
    {"mixture": mixture_K.tolist(), "bpb": loss_T.tolist()}
    for mixture_K, loss_T in itertools.islice(done, int(state.runs))
  ]
  if history:
    history[-1] |= method.tell(state.method)
  return Outcome(
    method.finalize(state.method), Cost(*state.cost), tuple(history)
  )


def expected(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  models: Sequence[Model],
) -> list[tuple[int, float]]:
  """Of each size: how many runs a method will ask for, and the FLOPs of one.

  Args:
    method: a method whose loop is `runs`.
    facts: what is known beforehand.
    world: what runs draw from.
    plan: how much of everything.
    models: of each of the proxies' sizes.
  """
  assert world.view is not None
  trials: Trials = method.init(jax.random.key(0), facts).trials
  points = plan.curve_points if "curve_CT" in method.signals else 1
  tokens = plan.steps * world.rows, points * domains.eval_rows(world.view)
  wanted, found = method.signals - {"target_loss_T"}, []
  for size, model in enumerate(models):
    flops = model.flops_per_token
    cost = cost_of(observe(world.view, model.engine, None), wanted, flops)
    for rows, passes in zip(tokens, (GRADIENT, FORWARD), strict=True):
      cost = cost.plus(rows * world.pool.row_tokens, passes, flops)
    found.append((int(np.sum(trials.size_R == size)), cost.flops))
  return found


class _Group(NamedTuple):
  """Runs of one size that are trained together."""

  mixture_RK: np.ndarray
  size: int
  world: World
  plan: Plan
  wanted: frozenset[str]
  subpool: Subpool  # what every run sees

  @property
  def view(self) -> View:
    """What runs are scored by."""
    assert self.world.view is not None
    return self.world.view


def _with_results(
  method: Method, state: State, fleet: Fleet, found: list[Signals]
) -> State:
  """With what a group of runs showed and cost."""
  inner = state.method
  for signals in found:
    fleets.require_finite(
      signals.target_loss_T,
      f"The loss of run {int(state.runs)} of the search",
      "Lower config.optimizer.learning_rate.",
    )
    inner, _ = method.step(inner, signals.only(method.signals))
  return State(inner, state.runs + len(found), state.cost + fleet.cost)


def _train(group: _Group, key, advance: Advance) -> tuple[Fleet, list[Signals]]:
  """One run per mixture: (fleet at the end, what each showed)."""
  world, plan, runs = group.world, group.plan, len(group.mixture_RK)
  members = np.arange(plan.population)
  # A group that is not full repeats its last run; nobody reads the copy.
  padded_PK = group.mixture_RK[np.minimum(members, runs - 1)]
  domain_N = np.asarray(world.domain_N)
  weight_PN = [group.subpool.mixed(one_K, domain_N) for one_K in padded_PK]
  fleet = fleets.start(
    world, jnp.stack([key] * len(members)), streams=len(members)
  )
  curve, before = [], 0
  for step in plan.curve_steps:
    drawn = []
    for member, weight_N in enumerate(weight_PN):
      fleet, batch = fleets.take(
        fleet, world, weight_N, (step - before) * world.rows, stream=member
      )
      drawn.append(batch)
    batches = fleets.by_member(drawn, world.rows)
    fleet, _ = fleets.train(fleet, world, batches, which_P=members < runs)
    if "curve_CT" in group.wanted or step == plan.steps:
      loss_PT = domains.target_losses(
        group.view, world.model.engine, fleet.phi.params
      )
      curve.append(loss_PT)
    advance(runs * (step - before) * world.rows, "")
    before = step
  points = runs * len(curve) * domains.eval_rows(group.view)
  fleet = fleet.charge(world, points, FORWARD)
  return _looked_at(group, fleet, np.stack(curve))


def _looked_at(
  group: _Group, fleet: Fleet, curve_CPT: np.ndarray
) -> tuple[Fleet, list[Signals]]:
  """What each run showed, charged; the curve has been already."""
  model = group.world.model
  seen = observe(group.view, model.engine, fleet.phi.params)
  # The loss on the targets is the end of the curve.
  wanted = group.wanted - {"target_loss_T"}
  found, cost = measure(seen, wanted, model.flops_per_token)
  runs = len(group.mixture_RK)
  fleet = fleet._replace(cost=fleet.cost + runs * np.array(cost))
  return fleet, [
    Signals(
      mixture_K=mixture_K,
      size=group.size,
      target_loss_T=curve_CPT[-1, member],
      curve_CT=curve_CPT[:, member],
      **{name: of_all[member] for name, of_all in found.items()},
    )
    for member, mixture_K in enumerate(group.mixture_RK)
  ]
