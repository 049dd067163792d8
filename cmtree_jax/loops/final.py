"""The loop `final`: models trained on recipes and scored, the same for all.

Several are trained at once where an accelerator has room for them, each on rows of its
own and as if it were alone. Short trainings that choose among recipes, trials, are
done by the same loop.
"""

import contextlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import checks, shapes, sharding
from cmtree_jax.data.draw.batch import Batch, Rows
from cmtree_jax.evaluate import answers, perplexity
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import Fleet, Session, World
from cmtree_jax.proxy.engine import Engine

EvalSet = perplexity.EvalSet | answers.AnswerSet

_CHUNKS = 4  # of evaluation sets, scored by one call


class Plan(NamedTuple):
  """The training that every recipe gets; the block `final`."""

  preset: str = "0.3m"
  steps: int = 300
  seeds: int = 3
  steps_per_call: int = 25  # drawn and compiled together; divides `steps`
  calls_per_save: int = 6

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    unit = self.steps_per_call
    checks.at_least(
      1,
      seeds=self.seeds,
      steps_per_call=unit,
      calls_per_save=self.calls_per_save,
    )
    if self.steps < unit or self.steps % unit:
      raise ValueError(
        f"steps = {self.steps} must be a positive multiple of "
        f"config.final.steps_per_call = {unit}; try "
        f"{max(self.steps // unit, 1) * unit}."
      )


class TrialPlan(NamedTuple):
  """The short training that chooses among recipes; the block `trial`."""

  preset: str = "0.1m"
  # The fewest that rank recipes as longer trainings of larger models do: of ten
  # recipes at one epoch, Spearman .71 at 50 and at 100 steps, .76 at 150, .90 at 200,
  # .94 at 300 with 300 steps of 0.3m, three seeds each; the standard error of a
  # difference is .010 at 200 and .006 at 300.
  steps: int = 300
  seeds: int = 3  # of every recipe that is tried, paired
  # Recipes are tried at their own concentration and at kept shares of the corpus
  # R^-x for each x here, R the largest weight; none: at their own alone.
  exponents: tuple[float, ...] = (0.25, 0.5, 0.75)
  max_tokens: int = 10_000  # of each target's validation split
  steps_per_call: int = 50  # drawn and compiled together; divides `steps`

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    self.training.check()
    # Three seeds are the fewest that tell how much two recipes differ by chance.
    checks.at_least(3, seeds=self.seeds)
    checks.at_least(1, max_tokens=self.max_tokens)
    if not all(0 < x < 1 for x in self.exponents):
      raise ValueError(
        f"exponents = {tuple(self.exponents)} must be between 0, all of the "
        "corpus, and 1, as few documents as the largest weight allows."
      )

  @property
  def training(self) -> Plan:
    """As the loop takes it; a trial is saved only where the job stops."""
    calls = max(1, self.steps // max(1, self.steps_per_call))
    return Plan(self.preset, self.steps, self.seeds, self.steps_per_call, calls)


class Model(NamedTuple):
  """One of the models that are trained at once."""

  name: str  # of its recipe, for messages
  seed: int  # of its parameters at the start
  pool: Rows  # its seed gives the arrival points of documents
  weight_N: np.ndarray  # of the documents; zero outside of what it sees


class State(NamedTuple):
  """The state of trainings; all of it is saved."""

  fleet: Fleet
  step: np.ndarray


def run(
  models: Sequence[Model],
  eval_sets: Sequence[EvalSet],
  world: World,
  plan: Plan,
  session: Session,
  *,
  places: int = 1,
) -> list[list[answers.Score]]:
  """Trains models on the weights of recipes: a score of each on every frozen set.

  Trainings that share the seed and the pool's are paired. The next call's rows are
  drawn while the devices train.

  Args:
    models: one or more.
    eval_sets: frozen.
    world: what the models are; each has a pool of its own.
    plan: the training.
    session: checkpoints and progress.
    places: models that one program trains; some may stay empty, so that any number
      of models is trained by the same.
  Raises:
    Fault: a loss or a score is not finite; nothing is saved past it.
    Interrupted: after saving.
  """
  from cmtree_jax.data.draw import pipeline  # Grain: a second of import

  empty = max(places - len(models), 0)
  seeds = [*(one.seed for one in models), *[0] * empty]
  key_P = jnp.stack([start_key(seed) for seed in seeds])
  fleet = fleets.start(world, key_P, streams=len(seeds))
  # Rows along a path have a state of their own.
  own = (one.pool.init() for one in models)
  fleet = fleet._replace(pool=(*own, *fleet.pool[len(models) :]))
  state = State(fleet, np.array(0))
  state = session.checkpointer.restore(state) or state
  draws = [
    pipeline.batches(
      one.pool,
      one.pool.start(fleets.settled(stream), one.weight_N),
      rows=plan.steps_per_call * world.rows,
    )
    for one, stream in zip(models, state.fleet.pool, strict=False)
  ]
  with contextlib.ExitStack() as stack:
    closing = contextlib.closing
    iterators = [stack.enter_context(closing(iter(one))) for one in draws]
    while state.step < plan.steps:
      drawn = [*(next(one) for one in iterators), *[None] * empty]
      batches = fleets.by_member(drawn, world.rows)
      which_P = np.arange(len(seeds)) < len(models)
      fleet, loss_PS = fleets.train(
        state.fleet, world, batches, which_P=which_P
      )
      step = state.step + plan.steps_per_call
      loss_P = sharding.gather(loss_PS)[:, -1]
      # Saved now and then, and always before the job stops; not at the end, where
      # scoring takes less time than a save.
      calls = int(step) // plan.steps_per_call
      due = step < plan.steps and calls % plan.calls_per_save == 0
      for one, loss in zip(models, loss_P, strict=False):
        # Nothing is saved past it: what goes on from there would be scored.
        fleets.require_finite(
          loss,
          f"The loss of {one.name}, seed {one.seed}, at step {int(step)}",
          _CURE,
        )
        # Before it is saved: what is told twice is written once.
        session.tell(int(step), {"loss": loss}, one.name)
      saves = due or session.stop.raised
      if saves:
        streams = map(pipeline.state, iterators)
        unused = fleet.pool[len(models) :]
        fleet = fleet._replace(pool=(*streams, *unused))
      state = State(fleet, step)
      if saves:
        session.checkpointer.save(int(step), state)
      session.advance(len(models) * plan.steps_per_call * world.rows, "")
      if saves:
        session.stop.check()
  found = scores(world.model.engine, state.fleet.phi.params, eval_sets)
  for one, of_model in zip(models, found, strict=False):
    # The last step's update came after the last loss.
    fleets.require_finite(
      [score.bpb for score in of_model],
      f"A score of {one.name}, seed {one.seed},",
      _CURE,
    )
  return found[: len(models)]


_CURE = "Lower config.optimizer.learning_rate and start anew with --overwrite."


def start_key(seed: int) -> shapes.Key:
  """Of the parameters at the start, which no proxy shares."""
  return jax.random.fold_in(jax.random.key(7), seed)


def scores(
  engine: Engine, params: Any, eval_sets: Sequence[EvalSet]
) -> list[list[answers.Score]]:
  """Every model's score on every set; one program, whatever their sizes are."""
  if not eval_sets:
    return [[] for _ in range(len(jax.tree.leaves(params)[0]))]
  batches = jax.tree.map(
    lambda *x: np.concatenate(x), *(one.batches for one in eval_sets)
  )
  ends = np.cumsum([len(one.batches.tokens_BT) for one in eval_sets])
  return [
    [
      _score(*one)
      for one in zip(np.split(loss_CBT, ends[:-1]), eval_sets, strict=True)
    ]
    for loss_CBT in _losses(engine, params, batches)
  ]


def _losses(engine: Engine, params: Any, batches: Batch) -> np.ndarray:
  """The loss of every token [P, C, B, T], by `_CHUNKS` at a time."""
  chunks = len(batches.tokens_BT)
  more = -chunks % _CHUNKS
  padded = jax.tree.map(
    lambda x: np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)]),
    batches,
  )
  found = []
  for i in range(0, chunks + more, _CHUNKS):
    part = jax.tree.map(lambda x, i=i: x[i : i + _CHUNKS], padded)
    found.append(sharding.gather(engine.losses(params, part)))
  return np.concatenate(found, axis=1)[:, :chunks]


def _score(loss_CBT: np.ndarray, one: EvalSet) -> answers.Score:
  if isinstance(one, answers.AnswerSet):
    return answers.score(loss_CBT, one)
  nats = float(np.sum(loss_CBT * one.weight_CBT, dtype=np.float64))
  return answers.Score(perplexity.bits_per_byte(nats, one.num_bytes), math.nan)
