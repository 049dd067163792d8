"""Events of the loop `online` that measure values, and move the weights by them.

The last steps of a stretch are differentiated while they train: the model that comes
out is the one that goes on, and the tree takes one proximal step on what they tell.

One model has no other proxies that could judge a step. Events judge each other: the
values of one judge the step that those of every second event before it ask for. They
are of other rows, other documents and of the other half of every target's texts. Their
spread over the voices of an event, documents dealt out by a hash, tells how far chance
among documents goes; that of the target's rows is not in it.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax import sharding
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.looks import Looks
from cmtree_jax.data.draw.sampler import Sampler, SamplerState
from cmtree_jax.loops import fleet as fleets
from cmtree_jax.loops import online_run, shown, unrolls
from cmtree_jax.loops.fleet import Fleet
from cmtree_jax.loops.online_run import Plan, Run, Setting, State
from cmtree_jax.loops.unrolls import Valued
from cmtree_jax.loops.values_plan import Charges
from cmtree_jax.methods.base import Signals
from cmtree_jax.proxy.engine import Unroll
from cmtree_jax.proxy.ledger import GRADIENT, PROBE

VOICES = 4  # of an event
PROXIES = 2 * VOICES  # as the method counts them: those of two events

# Documents that stand for the corpus at an event, fewer than in a round of a search:
# a step must not take longer than the training between two.
SAMPLE = 8192

FIELDS = ("step", "outer_loss", "spread", "seen", "mean_looks", "most_looks")


class Own(NamedTuple):
  """What these events keep."""

  targets: tuple[tuple[SamplerState, ...], ...]  # of every run and target
  probes: tuple[SamplerState, ...]  # of every run
  # Of every run and document: sum of centered values, and how many.
  sum_PN: np.ndarray
  count_PN: np.ndarray
  spread_P: np.ndarray  # of the values of the first event; 0 before it


def events(plan: Plan, steps: int) -> int:
  """How often weights may move: not at the end, when nothing follows."""
  return max(0, -(-steps // plan.stretch) - 1)


def start(one: Setting) -> tuple[State, tuple[str, ...]]:
  """(state before the first step, names of the history's columns)."""
  world, runs = one.world, len(one.runs)
  assert world.targets is not None
  methods = online_run.methods(one)
  nothing = shown.nothing(len(world.target_names))
  _, info = jax.eval_shape(
    one.step, methods[0], _signals(one, one.runs[0], nothing, 0)
  )
  fields = (*shown.columns(info), *FIELDS)
  size = len(world.mass_N)
  own = Own(
    targets=((world.targets.init(),) * len(world.target_names),) * runs,
    probes=tuple(run.pool.init() for run in one.runs),
    sum_PN=np.zeros((runs, size)),
    count_PN=np.zeros((runs, size)),
    spread_P=np.zeros(runs),
  )
  state = online_run.start(
    one,
    methods,
    own,
    [one.method.finalize(method) for method in methods],
    stages=1 + events(one.plan, one.steps),
    fields=fields,
  )
  return state, fields


def play(one: Setting, state: State) -> State:
  """Trains to the next event, and through it; or to the end, where there is none."""
  plan, left = one.plan, one.steps - int(state.step)
  had = online_run.looks_of(one, state)
  steps = min(left, plan.stretch)
  log_w_PN = [
    shown.log_w_N(one.weigh, method, one.world_of(run))
    for run, method in zip(one.runs, state.methods, strict=True)
  ]
  weight_PN = [
    online_run.allowed(one, had[p], p, seen.weights(np.exp(log_w_N)), steps)
    for p, (seen, log_w_N) in enumerate(zip(one.seen, log_w_PN, strict=True))
  ]
  ends = left <= plan.stretch
  for _ in range(steps // plan.unroll - (not ends)):
    state = online_run.train(one, state, weight_PN, plan.unroll)
  if ends:
    return state
  begin = time.perf_counter()
  state = _event(one, state, weight_PN, had)
  one.clock.event.append(time.perf_counter() - begin)
  return state


def _event(
  one: Setting,
  state: State,
  weight_PN: list[np.ndarray],
  had: list[Looks],
) -> State:
  """Training steps that are differentiated, and a step of every run's method."""
  number = int((state.begin_G >= 0).sum()) - 1
  state, valued, loss_P = _value(one, state, weight_PN, had, number)
  methods, rows, own = [], [], state.own
  for p, method in enumerate(state.methods):
    found = valued[p]._replace(
      # The worth of one more look at what was seen already.
      value_NT=valued[p].value_NT
      * had[p].worth(one.runs[p].facts.r_star)[valued[p].document, None]
    )
    found, spread = _centered(found, weight_PN[p])
    # Values fade as the model learns and the learning rate falls. In units of their
    # spread those of all events count alike, and steps do not shrink with them; the
    # first event's unit is kept, which penalties are weighed against.
    own = own._replace(spread_P=own.spread_P.copy())
    own.spread_P[p] = own.spread_P[p] or spread
    scale = own.spread_P[p] / spread if spread > 0 else 1.0
    found = found._replace(value_NT=scale * found.value_NT)
    stepped, info = one.step(method, _signals(one, one.runs[p], found, number))
    if number == 0:
      # Nothing has been fitted yet, so there was nothing to judge.
      stepped = one.method.undo(stepped)
    methods.append(stepped)
    own = _with_values(own, p, found)
    inside_N = one.seen[p].inside_N
    count_N = had[p].count_N[inside_N]
    mine = (state.step, loss_P[p], spread, (count_N > 0).mean())
    looks = (count_N.mean(), count_N.max())
    columns = (*shown.columns(info).values(), *mine, *looks)
    rows.append([float(x) for x in columns])
  state = state._replace(methods=tuple(methods), own=own)
  weights = [one.method.finalize(method) for method in methods]
  return online_run.with_stage(state, weights, np.array(rows))


def _value(
  one: Setting,
  state: State,
  weight_PN: list[np.ndarray],
  had: list[Looks],
  number: int,
) -> tuple[State, list[Valued], np.ndarray]:
  """(state after the steps, what each run valued, losses of the targets [P])."""
  world, plan = one.world, one.plan
  state, batches = online_run.draw(one, state, weight_PN, plan.unroll)
  streams, outer = _targets(one, state.own, number)
  fleet, unroll = _through(one, state, batches, outer)
  probes, probe_streams, density_PN = _probes(one, state.own, weight_PN, had)
  engine = world.model.engine
  probed = engine.probe(fleet.phi.params, unroll.adjoint, probes)
  inner, probed = sharding.gather((unroll.value, probed))
  targets = len(world.target_names)
  valued = [
    unrolls.valued(
      density_PN[p],
      # One hypergradient, of the targets' mean: it is every target's value.
      (Batch(*(x[p] for x in batches)), [inner[p]] * targets),
      (Batch(*(x[p] for x in probes)), [probed[p]] * targets),
    )
    for p in one.members
  ]
  own = state.own._replace(targets=streams, probes=probe_streams)
  state = state._replace(
    fleet=_charge(one, fleet), step=state.step + plan.unroll, own=own
  )
  return state, valued, sharding.gather(unroll.outer_loss).astype(np.float64)


def _through(
  one: Setting, state: State, batches: Batch, outer: tuple[Batch, np.ndarray]
) -> tuple[Fleet, Unroll]:
  """The models after the steps, and the hypergradient through them or a copy."""
  engine, fleet, steps = one.world.model.engine, state.fleet, one.plan.unroll
  weight = fleets.ones(batches)
  if one.plan.cooldown:
    unroll = engine.unroll(fleet.phi, batches, weight, outer)
    # Before the steps donate what it reads.
    unroll = jax.block_until_ready(unroll)
    every_P = np.ones(len(one.runs), bool)
    phi, loss_PS = engine.train(fleet.phi, batches, weight, every_P)
  else:
    phi, loss_PS, unroll = engine.valued(fleet.phi, batches, weight, outer)
  online_run.record(one, state, sharding.gather(loss_PS)[:, -1], steps)
  return fleet._replace(phi=phi, age=fleet.age + steps), unroll


def _charge(one: Setting, fleet: Fleet) -> Fleet:
  """With the cost of an event of all runs, its training steps among it."""
  world, plan, runs = one.world, one.plan, len(one.runs)
  charges = asked(
    plan, world.rows, world.model.unroll_cost, outer_rows=_outer_rows(one)
  )
  for rows, passes in charges:
    fleet = fleet.charge(world, runs * rows, passes)
  return fleet


def asked(
  plan: Plan, rows: int, cost: UnrollCost, *, outer_rows: int
) -> Charges:
  """What an event of one run takes, its training steps among it.

  Args:
    plan: of the events.
    rows: of a training step.
    cost: of the hypergradient.
    outer_rows: of all targets together, see `outer_rows_of`.
  """
  # What trains is differentiated; a copy is trained beside it.
  inner = cost.inner_passes + GRADIENT * plan.cooldown
  return (
    (plan.unroll * rows, inner),
    (outer_rows * cost.outer_gradients, GRADIENT),
    (plan.probe_rows, PROBE),
  )


def most(
  plan: Plan, rows: int, cost: UnrollCost, *, steps: int, targets: int
) -> Charges:
  """What the events of one run take beside its training."""
  number = events(plan, steps)
  outer_rows = targets * outer_rows_of(plan, rows, targets)
  each = asked(plan, rows, cost, outer_rows=outer_rows)
  beside = ((-number * plan.unroll * rows, GRADIENT),)
  return tuple((number * some, passes) for some, passes in each) + beside


def work(plan: Plan, steps: int, rows: int) -> float:
  """Work of one run, in plain training rows; events as if by differences."""
  event = plan.unroll * rows + plan.outer_rows + plan.probe_rows
  return float(steps * rows + events(plan, steps) * event)


def _outer_rows(one: Setting) -> int:
  """Rows of all targets together: full batches of each."""
  return len(one.world.target_names) * _rows_of_each(one)


def _rows_of_each(one: Setting) -> int:
  return outer_rows_of(one.plan, one.world.rows, len(one.world.target_names))


def outer_rows_of(plan: Plan, rows: int, targets: int) -> int:
  """Rows of each target for one event, full batches of `rows`."""
  return max(1, round(plan.outer_rows / targets / rows)) * rows


def _targets(one: Setting, own: Own, number: int):
  """(streams, (rows of the targets [P, C, B, T], weights in bits per byte)).

  Events of even and odd number see one half of a target's documents each, so that
  what judges a step has read no text that the step was fitted to.
  """
  world, rows = one.world, _rows_of_each(one)
  assert world.targets is not None
  half_N = _half(world.targets, np.asarray(world.target_of_N))
  streams, drawn = [], []
  for of_run in own.targets:
    moved, parts = [], []
    for target, stream in enumerate(of_run):
      own_N = world.target_of_N == target
      now_N = own_N & (half_N == number % 2)
      # A target of a single document has no second half.
      weight_N = world.target_weight_N * (now_N if now_N.any() else own_N)
      cursor, batch = fleets.draw(world.targets, stream, weight_N, rows)
      moved.append(fleets.settled(cursor))
      parts.append(stack_rows(batch, world.rows))
    streams.append(tuple(moved))
    drawn.append(Batch(*(np.concatenate(x) for x in zip(*parts, strict=True))))
  batches = Batch(*(np.stack(x) for x in zip(*drawn, strict=True)))
  of_PCBT = world.target_of_N[batches.document_BT]
  weight_T = one.target_weight_T / (rows * world.pool.row_tokens)
  scale = world.target_scale_N[batches.document_BT] * weight_T[of_PCBT]
  return tuple(streams), (batches, scale.astype(np.float32))


def _half(targets: Sampler, of_N: np.ndarray) -> np.ndarray:
  """0 or 1 for every document: in the order of keys, in turn within a target."""
  key_N = targets.key[targets.pieces.number == 0]
  half_N = np.zeros(len(of_N), int)
  for target in np.unique(of_N):
    mine = np.flatnonzero(of_N == target)
    half_N[mine[np.argsort(key_N[mine])]] = np.arange(len(mine)) % 2
  return half_N


def _probes(
  one: Setting, own: Own, weight_PN: list[np.ndarray], had: list[Looks]
) -> tuple[Batch, tuple[SamplerState, ...], list[np.ndarray]]:
  """(documents to probe [P, C, B, T], streams, density of all that are valued).

  They are drawn as the corpus has them, of those that may still be drawn.
  """
  world, plan = one.world, one.plan
  trained, drawn, streams, density = plan.unroll * world.rows, [], [], []
  for p, run in enumerate(one.runs):
    left_N = had[p].left_N > 0
    natural_N = left_N / (one.seen[p].mass_N @ left_N)
    # Arrival points of their own, or they were the documents that train.
    sampler = run.pool._replace(seed=run.pool.seed + _APART)
    cursor, batch = fleets.draw(
      sampler, own.probes[p], natural_N, plan.probe_rows
    )
    streams.append(fleets.settled(cursor))
    drawn.append(batch)
    total = trained + plan.probe_rows
    density.append(
      (trained * weight_PN[p] + plan.probe_rows * natural_N) / total
    )
  return fleets.by_member(drawn, world.rows), tuple(streams), density


_APART = (
  500_000  # between the seeds of draws that train and of those that probe
)


def _centered(found: Valued, weight_N: np.ndarray) -> tuple[Valued, float]:
  """Values minus their mean under the weights that trained, and their spread there."""
  trained_N = found.tokens * weight_N[found.document]
  trained_N = trained_N / np.exp(found.log_proposal)
  trained_N = trained_N / trained_N.sum()
  value_NT = found.value_NT - trained_N @ found.value_NT
  spread = np.sqrt(trained_N @ value_NT[:, 0] ** 2)
  return found._replace(value_NT=value_NT), float(spread)


def _with_values(own: Own, member: int, found: Valued) -> Own:
  """With the centered values of an event."""
  sum_PN, count_PN = own.sum_PN.copy(), own.count_PN.copy()
  np.add.at(sum_PN[member], found.document, found.value_NT[:, 0])
  np.add.at(count_PN[member], found.document, 1.0)
  return own._replace(sum_PN=sum_PN, count_PN=count_PN)


def mean_value_N(own: Own, member: int) -> np.ndarray:
  """Mean value of every document; NaN where it was never valued."""
  with np.errstate(invalid="ignore"):
    return own.sum_PN[member] / own.count_PN[member]


def _signals(one: Setting, run: Run, found: Valued, number: int) -> Signals:
  """What the method of a run reads of an event."""
  world, plan = one.world_of(run), one.plan
  signals = shown.signals(
    world,
    [found],
    shown.Sampling(run.facts.seed, SAMPLE).draw(world, number),
    one.target_weight_T,
    size=2 * (plan.unroll * world.rows + plan.probe_rows),
  )
  # The learner fits to proxies of one parity and judges by those of the other, the
  # newest alone; the parities change places with every round.
  voice_N = world.subpools.key_N % np.uint64(VOICES)
  voice_B = voice_N[np.asarray(signals.index_B)].astype(np.int32)
  proxy_B = jnp.asarray(2 * voice_B + (number + 1) % 2, jnp.int32)
  return signals._replace(proxy_B=proxy_B).only(one.method.signals)
