"""The loop `values`: proxies in training say what documents are worth.

A round trains the proxies on under the current weights, asks each what documents are
worth to every target (`unrolls`), and gives the values to the method, which takes a
step or none. If it takes one, proxies train on from there under the old and the new
weights, and measure what the change is worth (`lookahead`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw.subpool import Subpool
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import (
  lookahead,
  shown,
  target_weights,
  unrolls,
  values_plan,
)
from cmtree_jax.loops.fleet import Advance, Fleet, Outcome, Session, World
from cmtree_jax.loops.lookahead import Gain
from cmtree_jax.loops.unrolls import Valued
from cmtree_jax.loops.values_plan import Plan, lookahead_work, unroll_work, work
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.tree import replay

__all__ = ["Plan", "State", "run", "work"]

# What the loop adds to the info of the method: losses in bits per byte, and whether
# weights were changed that were not taken back. Every target follows, by its name,
# with its loss and with what that counts for.
LOOP_FIELDS = ("outer_loss", "gain", "gain_error", "kept")


class State(NamedTuple):
  """The state between rounds; all of it is saved."""

  method: Any
  fleet: Fleet
  outer: unrolls.Streams  # of every target's documents
  round: np.ndarray
  history: np.ndarray  # [rounds, columns]
  evidence: "Evidence"
  # The weights after the start and after every round, [1 + rounds, ...]; zeros
  # where a round left them as they were.
  candidates: Weights
  target_weight_T: np.ndarray
  first_loss_T: np.ndarray  # of the targets, in the first round


class Evidence(NamedTuple):
  """Centered values measured of every document so far."""

  sum_N: np.ndarray
  count_N: np.ndarray

  @property
  def mean_N(self) -> np.ndarray:
    """NaN where a document was never valued."""
    with np.errstate(invalid="ignore"):
      return self.sum_N / self.count_N


def run(
  method: Method,
  facts: Facts,
  world: World,
  plan: Plan,
  session: Session,
) -> Outcome:
  """Rounds of: value documents with the proxies, step the method, train on.

  A step is taken back if it was measured to do harm beyond the noise. The weights
  that it had at the start and after every step that was kept are handed over beside
  the last ones.

  Args:
    method: a method whose loop is `values`.
    facts: what is known beforehand.
    world: proxies and what they draw from.
    plan: how much of everything.
    session: seed, checkpoints and progress.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
    UserError: `plan.target_weights` does not fit the targets.
  """
  search = _search(method, world, plan, session.seed)
  state, fields = _start(search, facts)
  state = session.checkpointer.restore(state) or state
  while state.round < plan.rounds:
    state = _play_round(search, state, session.advance)
    done = int(state.round)
    # Not past it: a search that goes on from a save would end with what it left.
    fleets.require_finite(
      state.history[done - 1],
      f"A loss in round {done} of the search",
      "Lower config.optimizer.learning_rate or raise "
      "config.optimizer.eps_root, and start anew with --overwrite.",
    )
    # Told before it is saved: what is told twice is written once.
    row = dict(zip(fields, state.history[done - 1], strict=True))
    session.tell(done, row | {"flops": state.fleet.cost[1]})
    session.checkpointer.save(done, state)
    session.stop.check()
  history = tuple(
    dict(zip(fields, row.tolist(), strict=True)) for row in state.history
  )
  told = (*history, *method.history(state.method))
  found = Outcome(
    weights=method.finalize(state.method),
    cost=Cost(*state.fleet.cost),
    history=told,
    value_N=state.evidence.mean_N,
    candidates=_candidates(state, history),
  )
  if method.conclude is None:
    return found
  last = method.conclude(
    state.method,
    jax.random.fold_in(search.key, 2),
    facts,
    state.evidence.mean_N,
  )
  return found._replace(
    weights=last.weights,
    reasons=last.reasons,
    history=told + last.history,
  )


class _Search(NamedTuple):
  """What stays the same in all rounds."""

  method: Method
  world: World
  plan: Plan
  seed: int
  step: Callable[..., Any]  # the method's, compiled
  log_w_B: Callable[..., Any]

  @property
  def key(self) -> shapes.Key:
    """The random key of the whole search."""
    return jax.random.key(self.seed)


def _search(method: Method, world: World, plan: Plan, seed: int) -> _Search:
  return _Search(
    method,
    world,
    plan,
    seed,
    jax.jit(method.step),
    shown.weigher(method),
  )


def _start(search: _Search, facts: Facts) -> tuple[State, tuple[str, ...]]:
  """(state before the first round, names of the history's columns)."""
  world, plan = search.world, search.plan
  assert world.targets is not None
  weight_T = target_weights.first(plan.target_weights, world.target_names)
  method = search.method.init(jax.random.fold_in(search.key, 0), facts)
  first = _signals(search, [], 0, weight_T)
  _, info = jax.eval_shape(search.step, method, first)
  of_targets = [
    f"{what}.{name}"
    for what in ("loss", "weight")
    for name in world.target_names
  ]
  fields = (*shown.columns(info), *LOOP_FIELDS, *of_targets)
  candidates = jax.tree.map(
    lambda x: np.zeros((1 + plan.rounds, *np.shape(x)), np.asarray(x).dtype),
    search.method.finalize(method),
  )
  size = len(world.mass_N)
  return State(
    method=method,
    fleet=fleets.start(
      world,
      _proxy_keys(search, np.arange(plan.population)),
      streams=plan.population,
    ),
    outer=tuple(world.targets.init() for _ in world.target_names),
    round=np.array(0),
    history=np.zeros((plan.rounds, len(fields))),
    evidence=Evidence(np.zeros(size), np.zeros(size)),
    candidates=_with_candidate(search, candidates, method, 0),
    target_weight_T=weight_T,
    first_loss_T=np.zeros(len(weight_T)),
  ), fields


def _play_round(search: _Search, state: State, advance: Advance) -> State:
  """Values from every proxy, one step of the method, and its measured gain."""
  world, plan, number = search.world, search.plan, int(state.round) + 1
  log_w_N = shown.log_w_N(search.log_w_B, state.method, world)
  fleet, seen = _raise_proxies(search, state, log_w_N, advance)
  fleet, outer, answers = unrolls.ask(
    world, plan, fleet, seen, np.exp(log_w_N), state.outer
  )
  advance(_asking_work(search), f"round {number}: values")
  loss_T = answers.loss_PT.mean(axis=0)
  first_loss_T = state.first_loss_T if number > 1 else loss_T
  weight_T = state.target_weight_T
  if plan.target_weights == target_weights.ROBUST:
    weight_T = target_weights.robust(weight_T, loss_T, first_loss_T)
  signals = _signals(search, answers.found, number - 1, weight_T)
  method, info = jax.block_until_ready(search.step(state.method, signals))
  new_log_w_N = shown.log_w_N(search.log_w_B, method, world)
  stepped = not np.array_equal(new_log_w_N, log_w_N)
  told = _told(info, stepped)
  advance(0, f"round {number}: {told}")
  gain = Gain()
  if stepped and plan.lookahead:
    members = np.arange(plan.population)
    sides = np.exp(log_w_N), np.exp(new_log_w_N)
    judges = members[replay.judges(members, number - 1)]
    fleet, fall_PT = lookahead.measure(world, plan, fleet, seen, sides, judges)
    gain = Gain.of(fall_PT @ weight_T)
  told = "measured" if stepped else told
  advance(lookahead_work(plan, world.rows), f"round {number}: {told}")
  candidates = state.candidates
  if gain.is_harm:
    method = search.method.undo(method)
  elif stepped:
    candidates = _with_candidate(search, candidates, method, number)
  history = state.history.copy()
  kept = stepped and not gain.is_harm
  mine = (loss_T @ weight_T, *gain, kept, *loss_T, *weight_T)
  history[number - 1] = [*map(float, (*shown.columns(info).values(), *mine))]
  return State(
    method=method,
    fleet=fleet.settled(),
    outer=tuple(map(fleets.settled, outer)),
    round=state.round + 1,
    history=history,
    evidence=_with_values(state.evidence, answers.found, log_w_N, weight_T),
    candidates=candidates,
    target_weight_T=weight_T,
    first_loss_T=first_loss_T,
  )


def _told(info: Any, stepped: bool) -> str:
  """What a person is told of the method's step."""
  if stepped:
    return "a step"
  told = info._asdict()
  if "heldout_gain" not in told:
    return "no step"
  gain, error = float(told["heldout_gain"]), float(told["heldout_error"])
  return f"no step: held-out gain {gain:+.4f} +- {error:.4f}"


def _asking_work(search: _Search) -> float:
  world, plan = search.world, search.plan
  return plan.population * unroll_work(
    plan,
    world.rows,
    world.model.unroll_cost,
    targets=len(world.target_names),
  )


def _with_candidate(search: _Search, candidates, method: Any, number: int):
  """With a method's weights as those after a round."""

  def put(all_of, one):
    changed = all_of.copy()
    changed[number] = one
    return changed

  return jax.tree.map(put, candidates, search.method.finalize(method))


def _candidates(state: State, history) -> tuple[tuple[str, Weights], ...]:
  """(name, weights) of the start and of every round whose step was kept."""
  names = {0: "start"} | {
    number: f"round {number}"
    for number, row in enumerate(history, 1)
    if row["kept"]
  }
  return tuple(
    (name, jax.tree.map(lambda x, n=number: x[n], state.candidates))
    for number, name in names.items()
  )


def _raise_proxies(
  search: _Search, state: State, log_w_N: np.ndarray, advance: Advance
) -> tuple[Fleet, list[Subpool]]:
  """Trains proxies on to where they are asked next; old ones are reset first.

  Returns:
    (fleet, what each proxy sees of the pool in its whole life).
  """
  world, plan, fleet = search.world, search.plan, state.fleet
  old_P = fleet.age >= plan.max_age
  if old_P.any():
    key_of = functools.partial(_proxy_keys, search)
    fleet = fleets.reset(fleet, world, old_P, key_of)
  seen = [
    world.subpool(plan.life, "search", search.seed, int(number))
    for number in fleet.number
  ]
  weight_PN = [one.weights(np.exp(log_w_N)) for one in seen]
  goal_P = values_plan.goal_ages(plan, fleet.age, int(state.round))
  rows = plan.steps_between_rounds * world.rows
  while (young_P := fleet.age < goal_P).any():
    drawn = []
    for member, young in enumerate(young_P):
      batch = None
      if young:
        fleet, batch = fleets.take(
          fleet, world, weight_PN[member], rows, stream=member
        )
      drawn.append(batch)
    batches = fleets.by_member(drawn, world.rows)
    fleet, _ = fleets.train(fleet, world, batches, which_P=young_P)
    advance(int(young_P.sum()) * rows, "raising proxies")
  return fleet, seen


def _with_values(
  evidence: Evidence,
  found: list[Valued],
  log_w_N: np.ndarray,
  target_weight_T: np.ndarray,
) -> Evidence:
  """With a round's values, minus their mean under the current weights."""
  sum_N, count_N = evidence.sum_N.copy(), evidence.count_N.copy()
  for one in found:
    trained = one.tokens * np.exp(log_w_N[one.document] - one.log_proposal)
    value_N = one.value_NT @ target_weight_T
    baseline = trained @ value_N / trained.sum()
    np.add.at(sum_N, one.document, value_N - baseline)
    np.add.at(count_N, one.document, 1.0)
  return Evidence(sum_N, count_N)


def _signals(
  search: _Search,
  found: list[Valued],
  number: int,
  target_weight_T: np.ndarray,
) -> Signals:
  """What the method reads of the round's documents."""
  world, plan = search.world, search.plan
  none = [shown.nothing(len(world.target_names))] * plan.population
  return shown.signals(
    world,
    found or none,
    shown.Sampling(search.seed, plan.sample_documents).draw(world, number),
    target_weight_T,
    size=2 * (plan.unroll * world.rows + plan.probe_rows),
  ).only(search.method.signals)


def _proxy_keys(search: _Search, number_P: np.ndarray) -> shapes.Key:
  """Random keys of proxies, by how many were started before each."""
  key = jax.random.fold_in(search.key, 1)
  return jax.vmap(lambda number: jax.random.fold_in(key, number))(
    jnp.asarray(number_P)
  )
