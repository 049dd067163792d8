"""What the loop `online` drives: models in training, each with a method of its own.

Several runs of one method train at once, on rows, starts and arrival points of their
own, as final trainings of those seeds do. How their weights move is for the events of
`online_values` and `online_steer`.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, sharding
from cmtree_jax.data.draw import looks
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.looks import Looks
from cmtree_jax.data.draw.sampler import Sampler
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import final, shown
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import target_weights as targets
from cmtree_jax.loops.fleet import Fleet, Tell, World
from cmtree_jax.methods.base import Facts, Method, Weights


class Plan(NamedTuple):
  """How a training run moves its own weights; the block `online`.

  With batches of 16 rows the defaults cost 10 % of a run's FLOPs: 128 trained rows are
  differentiated, 48 of the targets and 32 probed, every 128 steps. Twice the rows of
  targets and probes were worth no more.
  """

  # Whether a method of the loops `values` and `steer` moves the weights of the very
  # training that the recipe is for, block `final`, instead of those of proxies.
  on: bool = False
  unroll: int = 8  # training steps that values are measured through
  every: int = 16  # as many times that many steps from one event to the next
  outer_rows: int = 48  # rows of all targets together, for one event
  probe_rows: int = 32  # more documents that are valued, drawn as they come
  # Values through a copy of these steps whose learning rate falls to zero: they say
  # less of the moment, and the copy's training is paid for.
  cooldown: bool = False
  saves: int = 6  # checkpoints on the way

  def check(self, rows: int) -> None:
    """Refuses what does not fill batches of `rows`, with a ValueError."""
    checks.at_least(
      1,
      unroll=self.unroll,
      every=self.every,
      outer_rows=self.outer_rows,
      probe_rows=self.probe_rows,
    )
    checks.at_least(0, saves=self.saves)
    for name in ("outer_rows", "probe_rows"):
      value = getattr(self, name)
      if self.on and (value < rows or value % rows):
        raise ValueError(
          f"{name} = {value} must be a multiple of config.batch.rows = {rows}; "
          f"try {max(value // rows, 1) * rows}."
        )

  @property
  def stretch(self) -> int:
    """Training steps from one event to the next."""
    return self.unroll * self.every

  def check_steps(self, steps: int, *, per_call: int = 1) -> None:
    """Refuses a run that is no whole number of unrolls, with a ValueError.

    Args:
      steps: of the training.
      per_call: a number that must divide them, too.
    """
    if steps % self.unroll:
      cures = [str(k) for k in (1, 2, 4, 5, 8, 10) if not steps % k]
      unit = math.lcm(self.unroll, per_call)
      raise ValueError(
        f"unroll = {self.unroll} must divide config.final.steps = {steps}; set it "
        f"to {' or '.join(cures)}, or take {-(-steps // unit) * unit} steps."
      )


class Run(NamedTuple):
  """One of the runs that train at once."""

  name: str  # for messages
  seed: int  # of its parameters at the start; it chooses its sub-pool
  pool: Sampler  # its seed gives the arrival points of documents
  facts: Facts  # what its method knows beforehand; their seed is the method's
  domain_N: np.ndarray  # int32, of the partition that is given


class State(NamedTuple):
  """The state of runs; all of it is saved."""

  methods: tuple[Any, ...]  # of each run
  fleet: Fleet  # its ledger holds what all runs cost, their training too
  step: np.ndarray  # training steps that the models have taken
  move: np.ndarray  # plays so far
  own: Any  # what the events keep beside
  # The weights of every stage [stages, ...] and the step that it begins at; -1 where
  # there is none. Rows of the history, alike.
  stages: tuple[Weights, ...]
  begin_G: np.ndarray
  history_PGC: np.ndarray


class Setting(NamedTuple):
  """What stays the same over a run."""

  method: Method
  world: World
  plan: Plan
  steps: int  # of the whole training
  runs: Sequence[Run]
  seen: Sequence[Subpool]  # what each run sees of the pool
  step: Callable[..., Any]  # the method's, compiled
  ask: Callable[..., Any]
  weigh: Callable[..., Any]
  target_weight_T: np.ndarray  # what each target's loss counts for
  clock: "Clock"
  tell: Tell

  @property
  def members(self) -> range:
    """Numbers of the runs."""
    return range(len(self.runs))

  def world_of(self, run: Run) -> World:
    """What documents are to a run: their domains are its own."""
    return self.world._replace(domain_N=run.domain_N)


class Clock(NamedTuple):
  """Wall time of this process, for a person."""

  plain: list[float]  # seconds of a training step, of each call
  event: list[float]  # seconds of each event

  def overhead(self, *, trained: int, stretch: int) -> float:
    """What events add to the time of plain training; NaN before there were four.

    Medians are taken, for first calls compile.

    Args:
      trained: steps of the training that are a part of an event.
      stretch: training steps from one event to the next.
    """
    if min(len(self.plain), len(self.event)) < 4:
      return float("nan")
    plain, event = np.median(self.plain), np.median(self.event)
    return float((event / plain - trained) / stretch)


def setting(
  method: Method,
  world: World,
  plan: Plan,
  runs: Sequence[Run],
  *,
  steps: int,
  target_weights: str,
  tell: Tell,
) -> Setting:
  """What stays the same over the runs.

  Args:
    method: of the loop `values` or `steer`.
    world: what the models are; each run has a pool of its own.
    plan: of the events.
    runs: one or more.
    steps: of the training.
    target_weights: what each target's loss counts for, as `target_weights.first`
      takes it.
    tell: takes the losses.
  """
  return Setting(
    method,
    world,
    plan,
    steps,
    runs,
    [world.subpool(steps, "final", one.seed) for one in runs],
    jax.jit(method.step),
    jax.jit(method.ask),
    shown.weigher(method),
    targets.first(target_weights, world.target_names),
    Clock([], []),
    tell,
  )


def methods(one: Setting) -> list[Any]:
  """The state of every run's method before the first step."""
  found = []
  for run in one.runs:
    # As a search of this seed starts.
    key = jax.random.fold_in(jax.random.key(run.facts.seed), 0)
    found.append(one.method.init(key, run.facts))
  return found


def start(
  one: Setting,
  first: Sequence[Any],
  own: Any,
  weights: Sequence[Weights],
  *,
  stages: int,
  fields: Sequence[str],
) -> State:
  """Models with fresh parameters, those of final trainings of the same seeds.

  Args:
    one: the runs.
    first: state of every run's method.
    own: what the events keep beside.
    weights: that every run begins with.
    stages: at most.
    fields: columns of the history.
  """
  key_P = jnp.stack([final.start_key(run.seed) for run in one.runs])
  state = State(
    methods=tuple(first),
    fleet=fleets.start(one.world, key_P, streams=len(one.runs)),
    step=np.array(0),
    move=np.array(0),
    own=own,
    stages=tuple(_room(x, stages) for x in weights),
    begin_G=np.full(stages, -1),
    history_PGC=np.zeros((len(first), stages, len(fields))),
  )
  return with_stage(state, weights)


def _room(weights: Weights, stages: int) -> Weights:
  """Zeros for the weights of so many stages."""
  return jax.tree.map(
    lambda x: np.zeros((stages, *np.shape(x)), np.asarray(x).dtype), weights
  )


def with_stage(
  state: State, weights: Sequence[Weights], rows: np.ndarray | None = None
) -> State:
  """With the weights that the next steps are trained on, where they are other ones.

  Args:
    state: at the step that they begin with.
    weights: of every run.
    rows: of the history [P, C], of the event that led to them.
  """
  at = int((state.begin_G >= 0).sum())
  put = _putting(at)
  begin_G, history_PGC = state.begin_G.copy(), state.history_PGC
  begin_G[at] = state.step
  if rows is not None:
    history_PGC = history_PGC.copy()
    history_PGC[:, at] = rows
  return state._replace(
    stages=tuple(
      jax.tree.map(put, all_of, one)
      for all_of, one in zip(state.stages, weights, strict=True)
    ),
    begin_G=begin_G,
    history_PGC=history_PGC,
  )


def _putting(at: int) -> Callable[[np.ndarray, Any], np.ndarray]:
  def put(all_of, one):
    changed = all_of.copy()
    changed[at] = one
    return changed

  return put


def looks_of(one: Setting, state: State) -> list[Looks]:
  """How often every run has drawn each document."""
  return [
    looks.of(run.pool, fleets.settled(stream), seen)
    for run, stream, seen in zip(
      one.runs, state.fleet.pool, one.seen, strict=True
    )
  ]


def allowed(
  one: Setting, had: Looks, member: int, weight_N: np.ndarray, steps: int
) -> np.ndarray:
  """A run's weights for the next steps; no document is drawn too often by them.

  Args:
    one: the runs.
    had: looks so far.
    member: the run.
    weight_N: of its sub-pool, of mean one.
    steps: that will be drawn under them.
  """
  seen = one.seen[member]
  # The last piece of a draw may be cut: one row more is as if drawn.
  share = (steps * one.world.rows + 1) / (one.steps * one.world.rows)
  return had.weights(weight_N, seen.mass_N, share * seen.epochs)


def draw(
  one: Setting, state: State, weight_PN: Sequence[np.ndarray], steps: int
) -> tuple[State, Batch]:
  """(state, the next steps of rows of every run [P, S, B, T])."""
  pool, drawn = [], []
  for run, stream, weight_N in zip(
    one.runs, state.fleet.pool, weight_PN, strict=True
  ):
    cursor, batch = fleets.draw(
      run.pool, stream, weight_N, steps * one.world.rows
    )
    pool.append(cursor)
    drawn.append(batch)
  fleet = state.fleet._replace(pool=tuple(pool))
  return state._replace(fleet=fleet), fleets.by_member(drawn, one.world.rows)


def train(
  one: Setting, state: State, weight_PN: Sequence[np.ndarray], steps: int
) -> State:
  """Some ordinary training steps of every run."""
  begin = time.perf_counter()
  state, batches = draw(one, state, weight_PN, steps)
  fleet, loss_PS = fleets.train(state.fleet, one.world, batches)
  record(one, state, sharding.gather(loss_PS)[:, -1], steps)
  one.clock.plain.append((time.perf_counter() - begin) / steps)
  return state._replace(fleet=fleet, step=state.step + steps)


def record(one: Setting, state: State, loss_P: np.ndarray, steps: int) -> None:
  """Tells of the losses so many steps on; stops the job at one that is not finite.

  Raises:
    Fault: names the run.
  """
  for run, loss in zip(one.runs, loss_P, strict=True):
    fleets.require_finite(
      loss,
      f"The loss of {run.name}, seed {run.seed}, at step {state.step + steps}",
      "Lower config.optimizer.learning_rate and start anew with --overwrite.",
    )
    one.tell(int(state.step) + steps, {"loss": loss}, run.name)
