"""The loop `steer`: one proxy on a mixture of domains that a method steers.

An observation of the proxy as it is, a step of the method, and the training steps
that it asks for: on rows drawn from its mixture, or on the observed rows themselves.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.sampler import Sampler, SamplerState
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.loops.final import Advance
from cmtree_jax.methods.base import Ask, Facts, Method, Weights
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import domains as looking
from cmtree_jax.types import Fault


class SteerData(NamedTuple):
  """What a proxy is trained on and looked at with."""

  pool: Sampler
  domain_N: np.ndarray
  targets: Sampler  # training documents of all targets together
  target_weight_N: np.ndarray  # draws every target equally often
  view: looking.View


class SteerPlan(NamedTuple):
  """How much of everything."""

  steps: int  # of the proxy, and of a reference model where one is read
  rows: int  # per step
  saves: int  # checkpoints of a run, besides the last


class Steer(NamedTuple):
  """The state of a steered run; all of it is saved."""

  method: Any
  phi: Any
  marked: Any  # the proxy that a method may return to
  reference: Any  # trained on the natural mixture; phi's twin if none is read
  reference_steps: np.ndarray
  pool: SamplerState
  targets: SamplerState
  observation: np.ndarray  # number of the next
  cost: np.ndarray  # tokens, FLOPs
  mixture_OK: np.ndarray  # that was asked for at each observation


class Steered(NamedTuple):
  """What a steered run leaves behind."""

  weights: Weights
  cost: Cost
  mixture_OK: np.ndarray


def run(
  method: Method,
  facts: Facts,
  data: SteerData,
  plan: SteerPlan,
  engine: Engine,
  *,
  seed: int,
  flops_per_token: float,
  checkpointer: Checkpointer,
  stop: StopFlag,
  advance: Advance,
) -> Steered:
  """Steers one proxy to its end.

  Args:
    method: of the loop `steer`.
    facts: what is known beforehand.
    data: what is drawn from.
    plan: how much of everything.
    engine: compiled functions.
    seed: of the proxy and of the method.
    flops_per_token: of one forward pass, for the ledger.
    checkpointer: of this stage.
    stop: set when the job is asked to stop.
    advance: told of progress, in training rows.
  Raises:
    Fault: a mixture is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  driver = _Driver(method, facts, data, plan, engine, seed, flops_per_token)
  state = driver.start()
  state = checkpointer.restore(state) or state
  interval = max(1, driver.moves // (plan.saves + 1))
  while (move := driver.moves_done(state)) < driver.moves:
    if driver.reads_reference and state.reference_steps < plan.steps:
      state = driver.train_reference(state)
    else:
      state = driver.observe_and_train(state)
    advance(method.every * plan.rows, "")
    if (move + 1) % interval == 0 or move + 1 == driver.moves or stop.raised:
      checkpointer.save(move + 1, state)
    stop.check()
  return Steered(
    method.finalize(state.method), Cost(*state.cost), state.mixture_OK
  )


def work(method: Method, plan: SteerPlan) -> float:
  """Training rows of a whole run."""
  runs = 2 if "excess_K" in method.signals else 1
  return float(runs * plan.steps * plan.rows)


class _Driver:
  """One run's fixed parts; its methods take the state and return it."""

  def __init__(self, method, facts, data, plan, engine, seed, flops_per_token):
    self._method, self._facts, self._data = method, facts, data
    self._plan, self._engine, self._flops = plan, engine, flops_per_token
    self._key = jax.random.key(seed)
    self._step = jax.jit(method.step)
    self._ask = jax.jit(method.ask)
    self.reads_reference = "excess_K" in method.signals
    self.observations = plan.steps // method.every
    references = self.observations if self.reads_reference else 0
    self.moves = self.observations + references

  def start(self) -> Steer:
    """A newborn proxy."""
    phi = self._born()
    return Steer(
      method=self._method.init(jax.random.fold_in(self._key, 0), self._facts),
      phi=phi,
      marked=_copy(phi),
      reference=_copy(phi),
      reference_steps=np.array(0),
      pool=self._data.pool.init(),
      targets=self._data.targets.init(),
      observation=np.array(0),
      cost=np.zeros(2),
      mixture_OK=np.zeros((self.observations, self._facts.num_domains)),
    )

  def moves_done(self, state: Steer) -> int:
    """Chunks of `every` training steps so far, the reference's among them."""
    every = self._method.every
    return int(state.reference_steps) // every + int(state.observation)

  def train_reference(self, state: Steer) -> Steer:
    """Some steps of the reference model on the natural mixture."""
    every = self._method.every
    natural = Ask(self._facts.domain_mass_K)
    state, batches = self._draw(state, natural)
    phi = self._train(state.reference, batches, _ones(batches))
    state = self._charge(state, every * self._plan.rows)
    done = state.reference_steps + every
    if done + every > self._plan.steps:
      done = np.array(self._plan.steps)  # what is left is less than a chunk
    return state._replace(reference=phi, reference_steps=done)

  def observe_and_train(self, state: Steer) -> Steer:
    """One observation, the method's step, and the training that it asks for."""
    number = int(state.observation)
    looked = looking.look(
      self._data.view,
      self._engine,
      state.phi.params,
      self._method.signals,
      number=number,
      reference=state.reference.params if self.reads_reference else None,
      flops_per_token=self._flops,
    )
    method, _ = self._step(state.method, looked.signals)
    ask = jax.tree.map(np.asarray, self._ask(method))
    if not np.isfinite(ask.mixture_K).all():
      raise Fault(
        f"The mixture that the method asks for at observation {number} is not "
        "finite. Lower config.optimizer.learning_rate or the method's step size."
      )
    cost = Cost(*(a + b for a, b in zip(state.cost, looked.cost, strict=True)))
    state = state._replace(method=method, cost=np.array(cost))
    if ask.mark:
      state = state._replace(marked=_copy(state.phi))
    if ask.back:
      state = state._replace(phi=_copy(state.marked))
    if self._method.train_on_observed:
      batches, weight = self._observed(looked.batch, ask.mixture_K)
    else:
      state, batches = self._draw(state, ask)
      weight = _ones(batches)
    phi = self._train(state.phi, batches, weight)
    mixture_OK = state.mixture_OK.copy()
    mixture_OK[number] = ask.mixture_K
    state = self._charge(state, batches.tokens_BT[..., 0].size)
    return state._replace(
      phi=phi, observation=state.observation + 1, mixture_OK=mixture_OK
    )

  def _observed(self, batch: Batch, mixture_K):
    """The observed rows as one step, the mean loss of domain k weighted by p_k."""
    weight = (batch.document_BT >= 0).astype(np.float32)
    tokens_K = np.maximum(weight.sum(axis=(1, 2)), 1.0)
    weight *= (mixture_K / tokens_K)[:, None, None]
    rows = batch.tokens_BT.shape[-1]
    return tuple(
      jax.tree.map(lambda x: x.reshape(1, 1, -1, rows), part)
      for part in (batch, weight)
    )

  def _draw(self, state: Steer, ask: Ask) -> tuple[Steer, Batch]:
    """`every` steps of rows: (state, batches [1, S, B, T])."""
    data, plan = self._data, self._plan
    every = self._method.every
    wanted = round(float(ask.target_share) * plan.rows)
    parts = []
    if wanted < plan.rows:
      ratio_K = np.asarray(ask.mixture_K, np.float64) / np.maximum(
        self._facts.domain_mass_K, 1e-12
      )
      cursor = data.pool.start(state.pool, ratio_K[data.domain_N])
      cursor, rows = data.pool.draw(cursor, every * (plan.rows - wanted))
      parts.append(stack_rows(rows, plan.rows - wanted))
      state = state._replace(pool=cursor.state())
    if wanted:
      cursor = data.targets.start(state.targets, data.target_weight_N)
      cursor, rows = data.targets.draw(cursor, every * wanted)
      # Documents of another store: only whether they are padding is read.
      parts.append(stack_rows(rows, wanted))
      state = state._replace(targets=cursor.state())
    joined = Batch(
      *(np.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    )
    # Rows of one draw are of both kinds; segments only tell within a row.
    return state, jax.tree.map(lambda x: x[None], joined)

  def _train(self, phi, batches, weight):
    phi, _ = self._engine.train(phi, batches, weight, np.array([True]))
    return phi

  def _charge(self, state: Steer, rows: int) -> Steer:
    tokens = rows * self._data.pool.row_tokens
    cost = Cost(*state.cost).plus(tokens, GRADIENT, self._flops)
    return state._replace(cost=np.array(cost))

  def _born(self):
    return self._engine.init(jax.random.fold_in(self._key, 1)[None])


def _copy(tree):
  """Training takes its argument over, so what is kept must be another array."""
  return jax.tree.map(jnp.copy, tree)


def _ones(batches: Batch) -> np.ndarray:
  return (batches.document_BT >= 0).astype(np.float32)
