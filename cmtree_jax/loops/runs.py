"""The loop `runs`: proxies trained from scratch on the mixtures that a method asks for.

All runs share the parameters at the start, the arrival points of documents and the
frozen rows that score them, so what differs between two of them is the mixture.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.sampler import Sampler
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.loops.final import Advance
from cmtree_jax.methods.base import Facts, Method, Signals, Trials, Weights
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, Cost
from cmtree_jax.signals import domains as looking
from cmtree_jax.types import Fault


class SwarmData(NamedTuple):
  """What proxies are trained on and scored by."""

  pool: Sampler
  domain_N: np.ndarray
  view: looking.View


class SwarmPlan(NamedTuple):
  """How much of everything."""

  rows: int  # per training step
  population: int  # runs that are trained together


class Size(NamedTuple):
  """One of the sizes that proxies may have."""

  engine: Engine
  flops_per_token: float  # of one forward pass


class Swarm(NamedTuple):
  """The state between two groups of runs; all of it is saved."""

  method: Any
  runs: np.ndarray  # done
  cost: np.ndarray  # tokens, FLOPs


class Swarmed(NamedTuple):
  """What the runs leave behind."""

  weights: Weights
  cost: Cost
  history: list[dict[str, Any]]  # mixture and losses of every run


def run(
  method: Method,
  facts: Facts,
  data: SwarmData,
  plan: SwarmPlan,
  sizes: Sequence[Callable[[], Size]],
  *,
  seed: int,
  checkpointer: Checkpointer,
  stop: StopFlag,
  advance: Advance,
) -> Swarmed:
  """Runs until the method asks for no more.

  Args:
    method: of the loop `runs`.
    facts: what is known beforehand; `steps` and `curve_steps` are those of a run.
    data: what is drawn from.
    plan: how much of everything.
    sizes: of proxies, in the order of `Facts.sizes`; made when first asked for.
    seed: of proxies and of the method.
    checkpointer: of this stage; saved after every group of runs.
    stop: set when the job is asked to stop.
    advance: told of progress, in training rows.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  driver = _Driver(facts, data, plan, sizes, seed, method.signals)
  key = jax.random.key(seed)
  state = Swarm(
    method.init(jax.random.fold_in(key, 0), facts), np.array(0), np.zeros(2)
  )
  state = checkpointer.restore(state) or state
  while len((pending := method.ask(state.method)).mixture_RK):
    size = int(pending.size_R[0])
    same = pending.size_R == size
    # The next runs of one size, as many as are trained together.
    together = np.argmin([*same, False])
    mixture_PK = pending.mixture_RK[: min(plan.population, together)]
    found, cost = driver.train(mixture_PK, size, advance)
    inner = state.method
    for signals in found:
      if not np.isfinite(signals.target_loss_T).all():
        raise Fault(
          f"The loss of run {int(state.runs)} of the search is not finite. "
          "Lower config.optimizer.learning_rate."
        )
      inner, _ = method.step(inner, signals.only(method.signals))
    total = [a + b for a, b in zip(state.cost, cost, strict=True)]
    runs = state.runs + len(found)
    state = Swarm(inner, runs, np.array(total))
    checkpointer.save(int(runs), state)
    stop.check()
  trials: Trials = state.method.trials
  done = zip(trials.mixture_RK, trials.loss_RT, strict=True)
  history = [
    {"mixture": mixture_K.tolist(), "bpb": loss_T.tolist()}
    for mixture_K, loss_T in itertools.islice(done, int(state.runs))
  ]
  return Swarmed(method.finalize(state.method), Cost(*state.cost), history)


class _Driver:
  """Trains groups of runs."""

  def __init__(self, facts, data, plan, sizes, seed, wanted):
    self._facts, self._data, self._plan = facts, data, plan
    self._makers, self._made = sizes, {}
    self._seed, self._wanted = seed, wanted

  def train(
    self, mixture_PK: np.ndarray, number: int, advance: Advance
  ) -> tuple[list[Signals], Cost]:
    """One run per mixture: (what each showed, what they took)."""
    plan, data, facts = self._plan, self._data, self._facts
    if number not in self._made:
      self._made[number] = self._makers[number]()
    size: Size = self._made[number]
    members, runs = plan.population, len(mixture_PK)
    # A population that is not full trains its last run again, unread.
    padded = mixture_PK[np.minimum(np.arange(members), runs - 1)]
    ratio_PK = padded / np.maximum(facts.domain_mass_K, 1e-12)
    cursors = [
      data.pool.start(data.pool.init(), ratio_K[data.domain_N])
      for ratio_K in ratio_PK
    ]
    key = jax.random.fold_in(jax.random.key(self._seed), 1)
    phi = size.engine.init(jax.numpy.stack([key] * members))
    curve, before = [], 0
    which = np.arange(members) < runs
    for step in facts.curve_steps:
      batches, cursors = self._draw(cursors, step - before)
      ones = (batches.document_BT >= 0).astype(np.float32)
      phi, _ = size.engine.train(phi, batches, ones, which)
      if "curve_CT" in self._wanted or step == facts.curve_steps[-1]:
        curve.append(looking.target_losses(data.view, size.engine, phi.params))
      advance(runs * (step - before) * plan.rows, "")
      before = step
    cost = Cost().plus(
      runs * facts.steps * plan.rows * data.pool.row_tokens,
      GRADIENT,
      size.flops_per_token,
    )
    looks = len(curve) + ("document_nats_M" in self._wanted)
    scored = looks * looking.eval_rows(data.view)
    if "loss_K" in self._wanted:
      scored += data.view.frozen.tokens_BT[..., 0].size
    cost = cost.plus(
      runs * scored * data.pool.row_tokens, FORWARD, size.flops_per_token
    )
    return self._signals(padded[:runs], number, size, phi.params, curve), cost

  def _draw(self, cursors, steps: int):
    """Rows of every member as steps: (batches [P, S, B, T], cursors)."""
    drawn, after = [], []
    for cursor in cursors:
      cursor, rows = self._data.pool.draw(cursor, steps * self._plan.rows)
      after.append(cursor)
      drawn.append(stack_rows(rows, self._plan.rows))
    return Batch(*(np.stack(x) for x in zip(*drawn, strict=True))), after

  def _signals(self, mixture_PK, number, size: Size, params, curve):
    view = self._data.view
    curve_CPT = np.stack(curve)
    loss_PK = nats_PM = [None] * len(mixture_PK)
    if "loss_K" in self._wanted:
      loss_PK = looking.domain_losses(view, size.engine, params)
    if "document_nats_M" in self._wanted:
      nats_PM = looking.document_nats(view, size.engine, params)
    return [
      Signals(
        mixture_K=mixture_K,
        size=number,
        target_loss_T=curve_CPT[-1, member],
        curve_CT=curve_CPT[:, member],
        loss_K=loss_PK[member],
        document_nats_M=nats_PM[member],
      )
      for member, mixture_K in enumerate(mixture_PK)
    ]
