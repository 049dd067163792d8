"""The loop `look`: every document of pool and targets is shown to a method once.

Most methods that look need no model. For one that reads the documents' losses, the
loop first trains a proxy on the natural mixture and then holds it as it is. A method
that compares documents of a cluster with each other sees a whole cluster at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import checks
from cmtree_jax.data.draw import packing
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops.fleet import Fleet, Outcome, Session, World
from cmtree_jax.methods.base import Facts, Method, Signals
from cmtree_jax.proxy.ledger import FORWARD, Cost
from cmtree_jax.signals import documents

CHUNK = 65_536  # documents that are prepared at a time; bounds memory

# Of a document that is not in the pool: past the end of every array of documents,
# where JAX's `.at[].set(mode="drop")` writes nothing.
NOT_IN_POOL = np.iinfo(np.int32).max


class Plan(NamedTuple):
  """How much of everything; the block `look`."""

  documents: int = 32_768  # per step of a method
  steps: int = 150  # training steps of the proxy, where losses are read
  steps_per_call: int = 25  # drawn and compiled together; divides `steps`

  def check(self) -> None:
    """Refuses what contradicts itself, with a ValueError."""
    checks.at_least(
      1, documents=self.documents, steps_per_call=self.steps_per_call
    )
    if self.steps < 1 or self.steps % self.steps_per_call:
      raise ValueError(
        f"steps = {self.steps} must be a multiple of steps_per_call = "
        f"{self.steps_per_call}."
      )


class Part(NamedTuple):
  """Documents that are shown: those of the pool, or of one target."""

  tokens: packing.TokenStore
  domain_N: np.ndarray
  signals: Callable[[np.ndarray], Signals]  # numbers of documents -> theirs


class State(NamedTuple):
  """The state between two steps; all of it is saved."""

  method: Any
  fleet: Fleet | None  # the one proxy; None if no method reads it
  steps: np.ndarray  # that the proxy has trained
  shown: np.ndarray  # groups of documents so far


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
  parts: Sequence[Part],
) -> Outcome:
  """Shows all documents.

  Args:
    method: a method whose loop is `look`.
    facts: what is known beforehand.
    world: the proxy and what it draws from; the model is read by methods that
      read `loss_B`, others may have none.
    plan: how much of everything.
    session: seed, checkpoints and progress.
    parts: the pool first, then the targets.
  Raises:
    Fault: the proxy's loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  scan = jax.jit(lambda state, xs: jax.lax.scan(method.step, state, xs)[0])
  state = _start(method, facts, world, session.seed)
  state = session.checkpointer.restore(state) or state
  while reads_proxy(method) and state.steps < plan.steps:
    state = _train(state, world, plan, session.seed)
    session.advance(plan.steps_per_call * world.rows, "a proxy to look with")
    _save(state, plan, session)
  for number, (part, rows) in enumerate(_groups(method, parts)):
    if number < state.shown:
      continue
    found, fleet = part.signals(rows), state.fleet
    if fleet is not None:
      found, fleet = _with_losses(found, fleet, world, part, rows)
    size = _step_size(method, plan, len(rows))
    inner = scan(state.method, _stack(found, method.signals, size))
    state = State(inner, fleet, state.steps, state.shown + 1)
    _save(state, plan, session)
  cost = Cost() if state.fleet is None else Cost(*state.fleet.cost)
  return Outcome(method.finalize(state.method), cost)


def reads_proxy(method: Method) -> bool:
  """Whether the loop trains a proxy for this method."""
  return method.loop == "look" and "loss_B" in method.signals


def work(method: Method, plan: Plan, rows: int) -> float:
  """Training rows of a whole look, of `rows` a step."""
  return float(plan.steps * rows) if reads_proxy(method) else 0.0


def _start(method: Method, facts: Facts, world: World, seed: int) -> State:
  key = jax.random.key(seed)
  fleet = None
  if reads_proxy(method):
    fleet = fleets.start(world, jax.random.fold_in(key, 1)[None])
  inner = method.init(jax.random.fold_in(key, 0), facts)
  return State(inner, fleet, np.array(0), np.array(0))


def _train(state: State, world: World, plan: Plan, seed: int) -> State:
  """Some steps of the proxy on the natural mixture."""
  assert state.fleet is not None
  natural_N = world.subpool(plan.steps, "search", seed).inside_N.astype(float)
  fleet, batch = fleets.take(
    state.fleet, world, natural_N, plan.steps_per_call * world.rows
  )
  batches = fleets.by_member([batch], world.rows)
  fleet, loss_PS = fleets.train(fleet, world, batches)
  fleets.require_finite(
    loss_PS,
    "The loss of the proxy that documents are looked at with",
    "Lower config.optimizer.learning_rate.",
  )
  return state._replace(fleet=fleet, steps=state.steps + plan.steps_per_call)


def _save(state: State, plan: Plan, session: Session) -> None:
  if state.fleet is not None:
    state = state._replace(fleet=state.fleet.settled())
  done = int(state.steps) // plan.steps_per_call + int(state.shown)
  session.checkpointer.save(done, state)
  session.stop.check()


def _groups(
  method: Method, parts: Sequence[Part]
) -> Iterator[tuple[Part, np.ndarray]]:
  """Numbers of documents that are shown together, part after part."""
  for part in parts:
    if method.whole_domains:
      for domain in np.unique(part.domain_N):
        yield part, np.flatnonzero(part.domain_N == domain)
      continue
    for rows in packing.chunks(len(part.domain_N), CHUNK):
      yield part, np.arange(rows.start, rows.stop)


def _step_size(method: Method, plan: Plan, size: int) -> int:
  """Documents of one step of the method."""
  if not method.whole_domains:
    return min(plan.documents, size)
  # A power of two, so that domains of like sizes share a compiled step.
  return 1 << (size - 1).bit_length()


def _with_losses(
  found: Signals, fleet: Fleet, world: World, part: Part, rows: np.ndarray
) -> tuple[Signals, Fleet]:
  """With the documents' losses under the proxy, charged."""
  scored = documents.mean_losses(
    world.model.engine,
    fleet.phi.params,
    part.tokens,
    rows,
    row_tokens=world.pool.row_tokens,
    batch_rows=world.rows,
  )
  fleet = fleet.charge(world, scored.rows, FORWARD)
  return found._replace(loss_B=scored.loss_B), fleet


def _stack(found: Signals, wanted: frozenset[str], size: int) -> Signals:
  """The wanted fields as batches [steps, B, ...], filled up with mass zero."""
  steps = -(-len(found.mass_B) // size)

  def batches(name, value):
    if value is None or name not in wanted:
      return None
    pad = [(0, steps * size - len(value))] + [(0, 0)] * (value.ndim - 1)
    fill = NOT_IN_POOL if name == "index_B" else 0
    padded = np.pad(value, pad, constant_values=fill)
    return padded.reshape(steps, size, *value.shape[1:])

  return Signals(
    *(batches(n, v) for n, v in zip(Signals._fields, found, strict=True))
  )
