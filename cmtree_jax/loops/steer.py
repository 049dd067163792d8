"""The loop `steer`: one proxy on a mixture of domains that a method steers.

The loop observes the proxy, lets the method take a step, and trains the proxy as the
method asks: on rows drawn from its mixture, or on the observed rows themselves.
If it is asked to, it begins anew, or tells what every domain's share of steps was worth.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import checks, sharding
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import gains
from cmtree_jax.loops.fleet import Fleet, Outcome, Session, Tell, World
from cmtree_jax.methods.base import Ask, Facts, Method
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import cost_of, observe, read_reference


class Plan(NamedTuple):
  """How much of everything; the block `steer`."""

  # Training steps of the proxy, and of the reference model if there is one.
  steps: int = 150
  saves: int = 3  # checkpoints on the way, besides the last

  def check(self) -> None:
    """Raises ValueError for a proxy without steps, or less than no saves."""
    checks.at_least(1, steps=self.steps)
    checks.at_least(0, saves=self.saves)


class State(NamedTuple):
  """The state of a steered run; all of it is saved."""

  method: Any
  fleet: Fleet  # the one proxy
  marked: Any  # phi that a method may return to
  reference: Any  # trained on the natural mixture; phi's twin if none is read
  reference_steps: np.ndarray
  observation: np.ndarray  # number of the next observation
  mixture_OK: np.ndarray  # the mixture asked for at each observation
  share_gain_K: np.ndarray  # of the steps since the last one


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
) -> Outcome:
  """Steers one proxy to its end.

  Args:
    method: a method whose loop is `steer`.
    facts: what is known beforehand.
    world: the proxy and what it draws from.
    plan: how much of everything.
    session: seed, checkpoints and progress.
  Raises:
    Fault: a mixture is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  steering = _steering(method, facts, world, plan, session)
  state = _start(steering, session.seed)
  state = session.checkpointer.restore(state) or state
  interval = max(1, steering.moves // (plan.saves + 1))
  while (move := steering.moves_done(state)) < steering.moves:
    if steering.reads_reference and state.reference_steps < plan.steps:
      state = _train_reference(steering, state)
    else:
      state = _observe_and_train(steering, state)
    session.advance(method.every * world.rows, "")
    # A signal is obeyed only after a save.
    ends = move + 1 == steering.moves
    if (move + 1) % interval == 0 or ends or session.stop.raised:
      state = state._replace(fleet=state.fleet.settled())
      session.checkpointer.save(move + 1, state)
    session.stop.check()
  mixtures = tuple({"mixture": row.tolist()} for row in state.mixture_OK)
  return Outcome(
    method.finalize(state.method),
    Cost(*state.fleet.cost),
    mixtures + method.history(state.method),
    kept=method.keeps(state.method),
  )


def expected(method: Method, world: World, plan: Plan) -> float:
  """FLOPs of a whole run, the observations among them.

  What is differentiated through steps, where a method asks for that, is taken for
  every step.
  """
  assert world.view is not None
  flops, rows = world.model.flops_per_token, method.every * world.rows
  charges = [(rows, GRADIENT)] * (2 if read_reference(method.signals) else 1)
  if method.train_on_observed:
    charges[-1] = (world.view.fresh_rows, GRADIENT)
  if "share_gain_K" in method.signals:
    charges[-1] = (rows, world.model.unroll_cost.inner_passes)
    charges.append((gains.outer_rows(world), GRADIENT))
  seen = observe(world.view, world.model.engine, None)
  each = cost_of(seen, method.signals, flops).flops
  each += sum(
    some * passes * world.pool.row_tokens * flops for some, passes in charges
  )
  return plan.steps // method.every * each


def work(method: Method, plan: Plan, rows: int) -> float:
  """Training rows of a whole run, of `rows` a step."""
  runs = 2 if read_reference(method.signals) else 1
  return float(runs * plan.steps * rows)


class _Steering(NamedTuple):
  """What stays the same over a run."""

  method: Method
  facts: Facts
  world: World
  plan: Plan
  seed: int
  subpool: Subpool  # what proxy and reference train on
  step: Callable[..., Any]  # the method's, compiled
  ask: Callable[..., Any]
  tell: Tell

  @property
  def reads_reference(self) -> bool:
    """Whether a reference model is trained first."""
    return read_reference(self.method.signals)

  @property
  def observations(self) -> int:
    """Observations of the whole run."""
    return self.plan.steps // self.method.every

  @property
  def moves(self) -> int:
    """Chunks of `every` training steps, the reference's among them."""
    return self.observations * (2 if self.reads_reference else 1)

  def moves_done(self, state: State) -> int:
    """Chunks that are trained so far."""
    chunks = int(state.reference_steps) // self.method.every
    return chunks + int(state.observation)


def _steering(
  method: Method, facts: Facts, world: World, plan: Plan, session: Session
) -> _Steering:
  return _Steering(
    method,
    facts,
    world,
    plan,
    session.seed,
    world.subpool(plan.steps, "search", session.seed),
    jax.jit(method.step),
    jax.jit(method.ask),
    session.tell,
  )


def _start(steering: _Steering, seed: int) -> State:
  """A proxy with fresh parameters."""
  key = jax.random.key(seed)
  fleet = fleets.start(steering.world, _phi_key(seed)[None])
  facts = steering.facts
  return State(
    method=steering.method.init(jax.random.fold_in(key, 0), facts),
    fleet=fleet,
    marked=fleets.copy(fleet.phi),
    reference=fleets.copy(fleet.phi),
    reference_steps=np.array(0),
    observation=np.array(0),
    mixture_OK=np.zeros((steering.observations, facts.num_domains)),
    share_gain_K=np.zeros(facts.num_domains),
  )


def _phi_key(seed: int) -> jax.Array:
  """The random key of the first proxy's parameters."""
  return jax.random.fold_in(jax.random.key(seed), 1)


def _train_reference(steering: _Steering, state: State) -> State:
  """Some steps of the reference model on the natural mixture."""
  every, steps = steering.method.every, steering.plan.steps
  fleet, batches = _draw(
    steering, state.fleet, Ask(steering.facts.domain_mass_K)
  )
  # The fleet lends its streams and its ledger; its own proxy stays as it is.
  trained, loss_PS = fleets.train(
    fleet._replace(phi=state.reference), steering.world, batches
  )
  fleet = fleet._replace(cost=trained.cost)
  done = state.reference_steps + every
  steering.tell(int(done), _last(loss_PS), part="reference")
  if done + every > steps:
    done = np.array(steps)  # the rest is shorter than a chunk
  return state._replace(
    fleet=fleet, reference=trained.phi, reference_steps=done
  )


def _observe_and_train(steering: _Steering, state: State) -> State:
  """One observation, the method's step, and the training that it asks for."""
  world, method = steering.world, steering.method
  number = int(state.observation)
  fleet, looked = fleets.observe(
    state.fleet,
    world,
    method.signals,
    number,
    state.reference.params if steering.reads_reference else None,
  )
  signals = looked.signals
  if "share_gain_K" in method.signals:
    gain_K = state.share_gain_K.astype(np.float32)
    signals = signals._replace(share_gain_K=gain_K)
  inner, _ = steering.step(state.method, signals)
  ask = jax.tree.map(np.asarray, steering.ask(inner))
  fleets.require_finite(
    ask.mixture_K,
    f"The mixture that the method asks for at observation {number}",
    "Lower config.optimizer.learning_rate or the method's step size.",
  )
  marked = fleets.copy(fleet.phi) if ask.mark else state.marked
  if ask.back:
    fleet = fleet._replace(phi=fleets.copy(marked))
  if ask.fresh:
    fleet = fleets.renew(fleet, world, _phi_key(steering.seed))
  weight, gain_K = None, np.zeros_like(state.share_gain_K)
  told = {"effective_domains": _effective(ask.mixture_K)}
  if method.train_on_observed:
    batches, weight = _observed(looked.batch, ask.mixture_K)
  else:
    fleet, batches = _draw(steering, fleet, ask)
  if ask.valued:
    fleet, gain_K = gains.train(fleet, world, batches, number)
  else:
    fleet, loss_PS = fleets.train(fleet, world, batches, weight=weight)
    told |= _last(loss_PS)
  fleets.require_finite(
    gain_K,
    f"What the domains' shares are worth after observation {number}",
    "Lower config.optimizer.learning_rate or raise config.optimizer.eps_root.",
  )
  steering.tell((number + 1) * method.every, told)
  mixture_OK = state.mixture_OK.copy()
  mixture_OK[number] = ask.mixture_K
  return state._replace(
    method=inner,
    fleet=fleet,
    marked=marked,
    observation=state.observation + 1,
    mixture_OK=mixture_OK,
    share_gain_K=gain_K,
  )


def _last(loss_PS: Any) -> dict[str, float]:
  """The loss of the last of some training steps, of the one proxy."""
  return {"loss": float(sharding.gather(loss_PS)[0, -1])}


def _effective(mixture_K: np.ndarray) -> float:
  """How many equal domains have the entropy of a mixture."""
  p_K = mixture_K[mixture_K > 0] / mixture_K.sum()
  return float(np.exp(-p_K @ np.log(p_K)))


def _observed(batch: Batch, mixture_K: np.ndarray):
  """The observed rows as one step, the mean loss of domain k weighted by p_k."""
  weight = fleets.ones(batch)
  tokens_K = np.maximum(weight.sum(axis=(1, 2)), 1.0)
  weight *= (mixture_K / tokens_K)[:, None, None]
  rows = batch.tokens_BT.shape[-1]
  return tuple(
    jax.tree.map(lambda x: x.reshape(1, 1, -1, rows), part)
    for part in (batch, weight)
  )


def _draw(steering: _Steering, fleet: Fleet, ask: Ask) -> tuple[Fleet, Batch]:
  """`every` steps of rows: (fleet, batches [1, S, B, T])."""
  world, every = steering.world, steering.method.every
  wanted = round(float(ask.target_share) * world.rows)
  parts = []
  if wanted < world.rows:
    mixture_K = np.asarray(ask.mixture_K, np.float64)
    weight_N = steering.subpool.mixed(mixture_K, np.asarray(world.domain_N))
    rows = world.rows - wanted
    fleet, batch = fleets.take(fleet, world, weight_N, every * rows)
    parts.append(stack_rows(batch, rows))
  if wanted:
    fleet, batch = fleets.take_targets(fleet, world, every * wanted)
    # Documents of another store: only whether they are padding is read.
    parts.append(stack_rows(batch, wanted))
  joined = Batch(*(np.concatenate(x, axis=1) for x in zip(*parts, strict=True)))
  # Rows of one draw are of both kinds; segments only tell within a row.
  return fleet, jax.tree.map(lambda x: x[None], joined)
