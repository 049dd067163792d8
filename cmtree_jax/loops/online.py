"""The loop `online`: one training run whose division and mixture move together.

The model that comes out is trained on weights that its own training has moved, event
after event (`online_values`, `online_steer`). It starts, draws and decays as the final
training of its seed does, and what events cost beside is charged.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.loops import online_run, online_steer, online_values
from cmtree_jax.loops import target_weights as targets
from cmtree_jax.loops.fleet import Session, World
from cmtree_jax.loops.online_run import Plan, Run, Setting, State
from cmtree_jax.methods.base import Method, Weights
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import read_reference

__all__ = ["Plan", "Run", "Stage", "Trained", "run", "work"]

LOOPS = ("values", "steer")  # whose methods may run online


class Stage(NamedTuple):
  """What a run was trained on from a step on."""

  begin: int  # training step
  weights: Weights


class Trained(NamedTuple):
  """What a run leaves behind."""

  params: Any  # of the model
  stages: tuple[Stage, ...]
  cost: Cost  # of all but the training steps that the model has taken
  history: tuple[dict[str, Any], ...]  # a row for every stage but the first
  value_N: np.ndarray  # mean value of every document; NaN: never valued
  count_N: np.ndarray  # how often every document was drawn
  # What events add to the wall time of the training, in this process.
  time_overhead: float


def run(
  method: Method,
  world: World,
  plan: Plan,
  session: Session,
  runs: Sequence[Run],
  *,
  steps: int,
  target_weights: str = "equal",
) -> list[Trained]:
  """Trains runs to their end, each on the weights that its own method moves.

  Args:
    method: its loop is one of `LOOPS`.
    world: what the models are, and what documents they know.
    plan: of the events.
    session: checkpoints and progress.
    runs: one or more; one alone of a method that steers. As proxies their facts
      count `online_values.PROXIES`.
    steps: of the training.
    target_weights: what each target's loss counts for.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
    UserError: a method cannot run online.
    ValueError: the steps are no whole number of unrolls.
  """
  if method.loop == "values":
    plan.check_steps(steps)
  one = online_run.setting(
    method,
    world,
    plan,
    runs,
    steps=steps,
    target_weights=target_weights,
    tell=session.tell,
  )
  events = online_values if method.loop == "values" else online_steer
  state, fields = events.start(one)
  state = session.checkpointer.restore(state) or state
  interval = max(1, math.ceil(steps / (plan.saves + 1)))
  while state.step < steps:
    before = int(state.step)
    stages = int((state.begin_G >= 0).sum())
    state = events.play(one, state)
    _tell_stage(one, state, fields, stages)
    state = state._replace(move=state.move + 1)
    after = int(state.step)
    due = after < steps and before // interval < after // interval
    if due or session.stop.raised:
      state = state._replace(fleet=state.fleet.settled())
      session.checkpointer.save(int(state.move), state)
    rows = max(0, after - before) * world.rows * len(runs)
    session.advance(rows, f"step {after} of {steps}")
    session.stop.check()
  return [_trained(one, state, fields, member) for member in one.members]


def _tell_stage(
  one: Setting, state: State, fields: Sequence[str], stage: int
) -> None:
  """Tells of the event that a stage begins with, if it has begun."""
  if stage == len(state.begin_G) or state.begin_G[stage] < 0:
    return
  for run, row_C in zip(one.runs, state.history_PGC[:, stage], strict=True):
    values = dict(zip(fields, row_C, strict=True))
    one.tell(int(state.begin_G[stage]), values, run.name, "events")


def in_the_way(method: Method, target_weights: str) -> str:
  """Why a method of these loops cannot run online; empty if it can."""
  if method.conclude is not None or method.weighs == "documents":
    return "it chooses among single documents at the end of its search"
  if read_reference(method.signals):
    return "it compares with a reference model that is trained before"
  if "share_gain_K" in method.signals:
    return (
      "it learns in short runs what it does in a long one; give it what an earlier "
      "search has learned"
    )
  if method.loop == "values" and target_weights == targets.ROBUST:
    return (
      "config.values.target_weights weighs targets by their own losses, and an event "
      "measures the mean alone"
    )
  return ""


def work(method: Method, plan: Plan, steps: int, rows: int) -> float:
  """Training rows of one run, of `rows` a step."""
  if method.loop == "values":
    return online_values.work(plan, steps, rows)
  return float(steps * rows)


def _trained(
  one: Setting, state: State, fields: Sequence[str], member: int
) -> Trained:
  world, runs = one.world, len(one.runs)
  begins = [int(x) for x in state.begin_G if x >= 0]
  tokens = one.steps * world.rows * world.pool.row_tokens
  plain = Cost().plus(tokens, GRADIENT, world.model.flops_per_token)
  total = state.fleet.cost / runs
  is_valued = one.method.loop == "values"
  stretch = one.plan.stretch if is_valued else one.method.every
  return Trained(
    params=jax.tree.map(
      lambda x: x[member], sharding.gather(state.fleet.phi.params)
    ),
    stages=tuple(
      Stage(begin, jax.tree.map(lambda x, g=g: x[g], state.stages[member]))
      for g, begin in enumerate(begins)
    ),
    cost=Cost(*(total - np.array(plain))),
    history=tuple(
      dict(zip(fields, row.tolist(), strict=True))
      for row in state.history_PGC[member, 1 : len(begins)]
    ),
    value_N=(
      online_values.mean_value_N(state.own, member)
      if is_valued
      else np.full(len(world.mass_N), np.nan)
    ),
    count_N=online_run.looks_of(one, state)[member].count_N,
    time_overhead=one.clock.overhead(
      trained=one.plan.unroll if is_valued else 0, stretch=stretch
    ),
  )
