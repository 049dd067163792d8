"""Loops over whole corpora and whole trainings.

`pass_over_corpus` runs methods that only look, `mixture_runs` trains and scores one
model per recipe and seed. The other loops that drive methods are `search.py` (values
of documents), `steer.py` (one proxy on a changing mixture) and `swarm.py` (many runs).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.data.draw.batch import stack_rows
from cmtree_jax.data.draw.sampler import Sampler, SamplerState
from cmtree_jax.evaluate import answers, perplexity
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.types import Fault

Advance = Callable[[float, str], None]  # (work done, what is being done)


def pass_over_corpus(
  method: Method, facts: Facts, chunks: Iterable[Signals], *, batch: int
) -> Weights:
  """One pass over documents in batches, for methods that need no proxy.

  Args:
    method: reads `signals` of pool and target documents.
    facts: what is known beforehand.
    chunks: signals of some documents after others; only the declared fields are
      passed on.
    batch: documents per step; the last batch of a chunk is filled up with mass
      zero.
  """
  scan = jax.jit(lambda state, xs: jax.lax.scan(method.step, state, xs)[0])
  state = method.init(jax.random.key(0), facts)
  for chunk in chunks:
    size = min(batch, len(chunk.mass_B))
    state = scan(state, _stack(chunk, method.signals, size))
  return method.finalize(state)


def _stack(chunk: Signals, wanted: frozenset[str], batch: int) -> Signals:
  """The wanted fields as batches [steps, B, ...]."""
  size = len(chunk.mass_B)
  steps = -(-size // batch)

  def batches(name, value):
    if value is None or name not in wanted:
      return None
    pad = [(0, steps * batch - size)] + [(0, 0)] * (value.ndim - 1)
    return np.pad(value, pad).reshape(steps, batch, *value.shape[1:])

  return Signals(
    *(batches(n, v) for n, v in zip(Signals._fields, chunk, strict=True))
  )


class RunPlan(NamedTuple):
  """The final training, equal for every recipe."""

  steps: int
  rows: int
  steps_per_call: int  # drawn and compiled together; divides `steps`
  calls_per_save: int


class Scores(NamedTuple):
  """What all final runs reached, [recipes, seeds, targets]."""

  bpb: np.ndarray  # NaN where not yet measured
  accuracy: np.ndarray  # NaN also where no question has several choices


class Runs(NamedTuple):
  """The state of all final runs; all of it is saved."""

  scores: Scores
  cell: np.ndarray  # index of the run in progress
  step: np.ndarray  # its training steps so far
  phi: Any
  pool: SamplerState


def mixture_runs(
  log_w: Mapping[str, np.ndarray],
  samplers: Sequence[Sampler],
  eval_sets: Sequence[perplexity.EvalSet | answers.AnswerSet],
  plan: RunPlan,
  engine: Engine,
  *,
  checkpointer: Checkpointer,
  stop: StopFlag,
  advance: Advance,
  first_seed: int = 0,
) -> Scores:
  """Trains one model per recipe and seed on equal tokens and scores it.

  A seed fixes the parameters at the start and the arrival points of documents, so
  runs of one seed are paired. Seeds are the outer loop: what is finished early
  is comparable. The next call's rows are drawn while the devices train.

  Args:
    log_w: recipe name -> log-weights of the documents.
    samplers: one per seed.
    eval_sets: frozen, one per target.
    plan: the training.
    engine: compiled functions.
    checkpointer: of this stage.
    stop: set when the job is asked to stop.
    advance: told of progress.
    first_seed: of the parameters at the start, for the first sampler.
  Returns:
    Bits per byte and accuracy.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving.
  """
  from cmtree_jax.data.draw import pipeline

  names = list(log_w)
  unknown = np.full((len(names), len(samplers), len(eval_sets)), np.nan)
  runs = Runs(
    scores=Scores(unknown, unknown),
    cell=np.array(0),
    step=np.array(0),
    phi=engine.init(_run_keys(first_seed)),
    pool=samplers[0].init(),
  )
  runs = checkpointer.restore(runs) or runs
  while runs.cell < len(names) * len(samplers):
    seed, recipe = divmod(int(runs.cell), len(names))
    name, sampler = names[recipe], samplers[seed]
    born = first_seed + seed
    if runs.step == 0:
      runs = runs._replace(
        phi=engine.init(_run_keys(born)), pool=sampler.init()
      )
    advance(0, f"final training, seed {born}, {name}")
    draws = pipeline.batches(
      sampler,
      sampler.start(runs.pool, np.exp(log_w[name])),
      rows=plan.steps_per_call * plan.rows,
    )
    with contextlib.closing(iter(draws)) as iterator:
      for batch in iterator:
        runs, loss = _train_call(runs, batch, plan, engine)
        finished = runs.step == plan.steps
        if finished:
          runs = _finish(runs, (recipe, seed), eval_sets, engine)
        calls = int(runs.step) // plan.steps_per_call
        if (
          not math.isfinite(loss)
          or finished
          or stop.raised
          or (calls % plan.calls_per_save == 0)
        ):
          runs = runs._replace(pool=pipeline.state(iterator))
          done = int(runs.cell) * plan.steps + int(runs.step)
          checkpointer.save(done, runs)
        if not math.isfinite(loss):
          raise Fault(
            f"The loss of {name}, seed {born}, is not finite at step "
            f"{int(runs.step)} (saved). Lower config.optimizer.learning_rate "
            "and start anew with --overwrite."
          )
        advance(plan.steps_per_call * plan.rows, "")
        stop.check()
        if finished:
          break
  return runs.scores


def _train_call(runs, batch, plan, engine):
  # One member; the weights of what was drawn by the weights themselves are equal.
  batches = jax.tree.map(lambda x: x[None], stack_rows(batch, plan.rows))
  ones = np.ones(batches.tokens_BT.shape, np.float32)
  phi, loss_PS = engine.train(runs.phi, batches, ones, np.array([True]))
  step = runs.step + plan.steps_per_call
  return runs._replace(phi=phi, step=step), float(loss_PS[0, -1])


def _finish(runs, place, eval_sets, engine):
  """Scores the run and goes to the next."""
  found = [_score(engine, runs.phi.params, one) for one in eval_sets]
  scores = Scores(runs.scores.bpb.copy(), runs.scores.accuracy.copy())
  scores.bpb[place] = [one.bpb for one in found]
  scores.accuracy[place] = [one.accuracy for one in found]
  return runs._replace(scores=scores, cell=runs.cell + 1, step=np.array(0))


def _score(
  engine, params, one: perplexity.EvalSet | answers.AnswerSet
) -> answers.Score:
  if isinstance(one, answers.AnswerSet):
    loss_PCBT = engine.losses(params, one.batches)
    return answers.score(np.asarray(loss_PCBT)[0], one)
  nats_P = engine.weighted_nats(params, (one.batches, one.weight_CBT))
  bpb = perplexity.bits_per_byte(float(nats_P[0]), one.num_bytes)
  return answers.Score(bpb, math.nan)


def _run_keys(seed: int):
  return jax.random.fold_in(jax.random.key(7), seed)[None]
