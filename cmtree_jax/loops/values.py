"""The search: a population of proxies in training values documents, a method learns.

A round lets the proxies grow under the current weights, asks each for the values of
documents by a hypergradient through a window of its steps, gives them to the method,
and measures what the changed weights are worth by training on from where it is.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.bilevel import population
from cmtree_jax.bilevel.cost import WindowCost
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch, stack_rows
from cmtree_jax.data.draw.sampler import Sampler, SamplerState
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.loops.final import Advance
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, PROBE, Cost
from cmtree_jax.types import Fault

CHUNK = 65_536  # documents that are weighed at a time; bounds memory


class SearchData(NamedTuple):
  """What a search draws from."""

  pool: Sampler
  embedding_NE: np.ndarray
  domain_N: np.ndarray  # int32, of the partition that is given
  mass_N: np.ndarray
  sample_size: int  # documents that stand for the corpus in a round
  targets: Sampler  # training documents of all targets together
  target_weight_N: np.ndarray  # draws every target equally often
  target_scale_N: np.ndarray  # bits per byte per nat, by target document
  validation: tuple[Batch, np.ndarray]  # [C, B, T] and weights in bits per byte


class SearchPlan(NamedTuple):
  """How much of everything a search does; rows are of `row_tokens` tokens."""

  rounds: int
  population: int  # proxies
  max_age: int  # steps after which a proxy is born anew
  min_age: int  # steps that a newborn proxy trains before it is asked
  unroll: int  # steps that are differentiated through
  rows: int  # per step
  cost: WindowCost  # of the hypergradient through a window
  outer_rows: int  # of targets per window
  probe_rows: int  # of documents valued per window
  steps_between_rounds: int  # steps that proxies train on between rounds
  # Steps by which every change is measured, on either side; 0: it is not measured.
  lookahead: int
  natural_share: float  # of the draws of probes and windows


class Search(NamedTuple):
  """The state of a search; all of it is saved."""

  method: Any
  phi: Any  # all proxies, [P, ...]
  age: np.ndarray  # training steps of each
  births: np.ndarray  # how many proxies have been born
  pool: SamplerState
  targets: SamplerState
  round: np.ndarray
  cost: np.ndarray  # tokens, FLOPs
  history: np.ndarray  # [rounds, fields of the method's info and LOOP_FIELDS]
  value_sum_N: np.ndarray  # of the centered values measured of each document
  value_count_N: np.ndarray


class SearchResult(NamedTuple):
  """What a search leaves behind."""

  weights: Weights
  cost: Cost
  history: list[dict[str, float]]  # one row per round
  value_N: np.ndarray  # mean centered value; NaN where never measured


# What the loop adds to the info of the method, in bits per byte.
LOOP_FIELDS = ("outer_loss", "validation_loss", "gain")


def train_proxy(
  method: Method,
  facts: Facts,
  data: SearchData,
  plan: SearchPlan,
  engine: Engine,
  *,
  seed: int,
  flops_per_token: float,
  checkpointer: Checkpointer,
  stop: StopFlag,
  advance: Advance,
) -> SearchResult:
  """Rounds of: value documents with the proxies, step the method, train on.

  Args:
    method: of the loop `values`.
    facts: what is known beforehand.
    data: what is drawn from.
    plan: how much of everything.
    engine: compiled functions.
    seed: of proxies and of the method.
    flops_per_token: of one forward pass, for the ledger.
    checkpointer: of this stage.
    stop: set when the job is asked to stop.
    advance: told of progress.
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving, if the job is asked to stop.
  """
  driver = _Driver(method, data, plan, engine, seed, flops_per_token)
  search = driver.start(facts)
  search = checkpointer.restore(search) or search
  while search.round < plan.rounds:
    search = driver.play_round(search, advance)
    checkpointer.save(int(search.round), search)
    if not np.isfinite(search.history[int(search.round) - 1]).all():
      raise Fault(
        f"A loss is not finite in round {int(search.round)} of the search "
        "(saved). Lower config.optimizer.learning_rate or raise "
        "config.optimizer.eps_root, and start anew with --overwrite."
      )
    stop.check()
  with np.errstate(invalid="ignore"):
    value_N = search.value_sum_N / search.value_count_N
  return SearchResult(
    weights=method.finalize(search.method),
    cost=Cost(*search.cost),
    history=[
      dict(zip(driver.fields, row.tolist(), strict=True))
      for row in search.history
    ],
    value_N=value_N,
  )


def search_work(plan: SearchPlan) -> float:
  """Work of a whole search in plain training rows."""
  raising = plan.population * plan.min_age  # and the sum of `first_ages`
  raising += (plan.population - 1) * (plan.max_age - plan.min_age) / 2
  proxy = window_work(plan) + plan.steps_between_rounds * plan.rows
  one_round = plan.population * proxy + lookahead_work(plan)
  return plan.rows * raising + plan.rounds * one_round


def window_work(plan: SearchPlan) -> float:
  """Work of valuing with one proxy, in plain training rows."""
  inner = plan.unroll * plan.rows * plan.cost.inner_passes
  outer = plan.outer_rows * plan.cost.outer_gradients * GRADIENT
  other = outer + plan.probe_rows * PROBE
  return (inner + other) / GRADIENT


def lookahead_work(plan: SearchPlan) -> float:
  """Work of measuring one change, in plain training rows."""
  return 2.0 * plan.population * plan.lookahead * plan.rows


class _Driver:
  """One search's fixed parts; its methods take the state and return it."""

  def __init__(self, method, data, plan, engine, seed, flops_per_token):
    self._method, self._data, self._plan = method, data, plan
    self._engine, self._flops = engine, flops_per_token
    self._seed, self._key = seed, jax.random.key(seed)
    self._step = jax.jit(method.step)
    self._log_w_B = jax.jit(lambda state, x: method.finalize(state).log_w(x))

  def _log_w_N(self, state) -> np.ndarray:
    """Log-weights of all documents, some at a time; float64."""
    data = self._data
    found = [
      self._log_w_B(
        state,
        Signals(
          mass_B=data.mass_N[rows].astype(np.float32),
          domain_B=data.domain_N[rows],
          embedding_BE=np.asarray(data.embedding_NE[rows]),
        ),
      )
      for rows in packing.chunks(len(data.mass_N), CHUNK)
    ]
    return np.concatenate([np.asarray(x, np.float64) for x in found])

  def start(self, facts: Facts) -> Search:
    """Newborn proxies, staggered so that they never grow old together."""
    plan, data = self._plan, self._data
    state = self._method.init(jax.random.fold_in(self._key, 0), facts)
    _, info = jax.eval_shape(self._step, state, self._signals([], 0))
    self.fields = (*info._fields, *LOOP_FIELDS)
    size = len(data.mass_N)
    return Search(
      method=state,
      phi=self._engine.init(self._birth_keys(np.arange(plan.population))),
      age=np.zeros(plan.population, np.int64),
      births=np.array(plan.population),
      pool=data.pool.init(),
      targets=data.targets.init(),
      round=np.array(0),
      cost=np.zeros(2),
      history=np.zeros((plan.rounds, len(self.fields))),
      value_sum_N=np.zeros(size),
      value_count_N=np.zeros(size),
    )

  def play_round(self, search: Search, advance: Advance) -> Search:
    """Values from every proxy, one step of the method, and its measured gain."""
    plan = self._plan
    log_w_N = self._log_w_N(search.method)
    number = int(search.round) + 1
    search = self._grow(search, np.exp(log_w_N), advance)
    search, found, outer = self._value(search, np.exp(log_w_N))
    advance(plan.population * window_work(plan), f"round {number}: values")
    state, info = jax.block_until_ready(
      self._step(search.method, self._signals(found, number - 1))
    )
    advance(0, f"round {number}: the tree's step")
    search = self._note_values(search._replace(method=state), found, log_w_N)
    search, gain, loss = self._look_ahead(search, log_w_N)
    advance(lookahead_work(plan), f"round {number}: measured")
    row = [float(x) for x in info] + [np.mean(outer), loss, gain]
    history = search.history.copy()
    history[number - 1] = row
    return search._replace(
      method=self._method.judge(search.method, jnp.float32(gain)),
      history=history,
      round=search.round + 1,
    )

  def _grow(self, search, weight_N, advance):
    """Trains proxies on to their next asking, successors of old ones to their first."""
    plan = self._plan
    age, phi = search.age, search.phi
    old = age >= plan.max_age
    if old.any():
      births = search.births + np.cumsum(old) - 1
      phi = self._engine.reset(phi, self._birth_keys(births), old)
      age = np.where(old, 0, age)
      search = search._replace(births=search.births + old.sum())
    goal = np.maximum(plan.min_age, age + plan.steps_between_rounds)
    if search.round == 0:
      ages = population.first_ages(
        plan.population, max_age=plan.max_age, min_age=plan.min_age
      )
      goal = np.maximum(ages, plan.steps_between_rounds)
    sampler = self._data.pool
    pool = sampler.start(search.pool, weight_N)
    while (young := age < goal).any():
      drawn = []
      for wanted in young:
        rows = None
        if wanted:
          pool, rows = sampler.draw(pool, plan.steps_between_rounds * plan.rows)
        drawn.append(rows)
      batches = self._members(drawn)
      phi, _ = self._engine.train(phi, batches, _ones(batches), young)
      age = age + plan.steps_between_rounds * young
      rows = int(young.sum()) * plan.steps_between_rounds * plan.rows
      search = self._charge(search, rows, GRADIENT)
      advance(rows, "raising proxies")
    return search._replace(phi=phi, age=age, pool=pool.state())

  def _value(self, search, weight_N):
    """One window of every proxy: (search, values of pieces of each, outer losses)."""
    plan, data = self._plan, self._data
    share = plan.natural_share
    proposal_N = (1 - share) * weight_N + share
    pool = data.pool.start(search.pool, proposal_N)
    targets = data.targets.start(search.targets, data.target_weight_N)
    inner, probes, outer = [], [], []
    for _ in range(plan.population):
      pool, rows = data.pool.draw(pool, plan.unroll * plan.rows)
      inner.append(rows)
      pool, rows = data.pool.draw(pool, plan.probe_rows)
      probes.append(rows)
      targets, rows = data.targets.draw(targets, plan.outer_rows)
      outer.append(rows)
    batches, probes, outer = map(self._members, (inner, probes, outer))
    ratio = (weight_N / proposal_N)[batches.document_BT]
    scale = data.target_scale_N[outer.document_BT]
    outer_weight = scale / outer.document_BT[0].size
    window = self._engine.window(
      search.phi,
      batches,
      ratio.astype(np.float32),
      (outer, outer_weight.astype(np.float32)),
    )
    value = self._engine.probe(search.phi.params, window.adjoint, probes)
    window_value, probe_value = np.asarray(window.value), np.asarray(value)
    found = []
    for member in range(plan.population):
      pieces = [
        np.concatenate(x)
        for x in zip(
          _by_piece(_member(batches, member), window_value[member]),
          _by_piece(_member(probes, member), probe_value[member]),
          strict=True,
        )
      ]
      found.append((*pieces, np.log(proposal_N[pieces[0]])))
    search = search._replace(pool=pool.state(), targets=targets.state())
    for rows, passes in (
      (plan.unroll * plan.rows, plan.cost.inner_passes),
      (plan.outer_rows * plan.cost.outer_gradients, GRADIENT),
      (plan.probe_rows, PROBE),
    ):
      search = self._charge(search, plan.population * rows, passes)
    return search, found, np.asarray(window.outer_loss)

  def _look_ahead(self, search, old_log_w_N):
    """Measures the last change: (search, fall of the loss, loss after it).

    Every proxy is cooled down on the old and on the new weights, with paired
    draws; it goes on from where it was. Without a lookahead the loss is that of
    the proxies as they are, and nothing is said of the change.
    """
    plan, data = self._plan, self._data
    if not plan.lookahead:
      return (
        self._charge_validation(search, 1),
        0.0,
        self._validate(search.phi.params),
      )
    log_w_N = self._log_w_N(search.method)
    weights = np.exp(old_log_w_N), np.exp(log_w_N)
    pool, drawn = search.pool, ([], [])
    for _ in range(plan.population):
      for weight_N, mine in zip(weights, drawn, strict=True):
        cursor = data.pool.start(pool, weight_N)
        cursor, rows = data.pool.draw(cursor, plan.lookahead * plan.rows)
        mine.append(rows)
        pool = cursor.state()
    losses = []
    for mine in drawn:
      batches = self._members(mine)
      params = self._engine.cooled(search.phi, batches, _ones(batches))
      losses.append(self._validate(params))
    search = search._replace(pool=pool)
    rows = 2 * plan.population * plan.lookahead * plan.rows
    search = self._charge_validation(self._charge(search, rows, GRADIENT), 2)
    return search, losses[0] - losses[1], losses[1]

  def _validate(self, params) -> float:
    """Mean loss of the proxies on the validation rows, in bits per byte."""
    loss_P = self._engine.weighted_nats(params, self._data.validation)
    return float(np.mean(np.asarray(loss_P, np.float64)))

  def _charge_validation(self, search, times):
    rows = times * self._plan.population * self._data.validation[1][..., 0].size
    return self._charge(search, rows, FORWARD)

  def _members(self, drawn) -> Batch:
    """Rows of every proxy as steps, [P, S, B, T]; zeros for one that is left out."""
    steps = [
      None if rows is None else stack_rows(rows, self._plan.rows)
      for rows in drawn
    ]
    shape = next(one for one in steps if one is not None)
    blank = Batch(*(np.zeros_like(x) for x in shape))
    return Batch(
      *(np.stack(x) for x in zip(*(one or blank for one in steps), strict=True))
    )

  def _note_values(self, search, found, log_w_N):
    """Adds the round's values, less their mean under the current weights."""
    sums, counts = search.value_sum_N.copy(), search.value_count_N.copy()
    for document, value, tokens, log_proposal in found:
      trained = tokens * np.exp(log_w_N[document] - log_proposal)
      baseline = trained @ value / trained.sum()
      np.add.at(sums, document, value - baseline)
      np.add.at(counts, document, 1.0)
    return search._replace(value_sum_N=sums, value_count_N=counts)

  def _sample(self, number: int):
    """Features and masses that stand for the corpus in one round."""
    size, data = len(self._data.mass_N), self._data
    rng = np.random.default_rng([self._seed, number])
    wanted = min(data.sample_size, size)
    chosen = np.sort(rng.choice(size, wanted, replace=False))
    mass_N = data.mass_N[chosen]
    return (
      jnp.asarray(data.embedding_NE[chosen]),
      jnp.asarray(mass_N / mass_N.sum(), jnp.float32),
    )

  def _signals(self, found, number) -> Signals:
    """The round's documents, filled up to a fixed number with mass zero."""
    plan = self._plan
    rows = plan.population * (plan.unroll * plan.rows + plan.probe_rows)
    size = 2 * rows  # more pieces than that are left out: they are a sample
    columns = [np.concatenate(x)[:size] for x in zip(*found, strict=True)]
    if not columns:
      columns = [np.zeros(0, np.int64)] + [np.zeros(0)] * 3
    document, value, mass, log_proposal = (
      np.pad(column, (0, size - len(column))) for column in columns
    )
    sample_NE, sample_mass_N = self._sample(number)
    return Signals(
      mass_B=jnp.asarray(mass, jnp.float32),
      domain_B=jnp.asarray(self._data.domain_N[document]),
      embedding_BE=jnp.asarray(self._data.embedding_NE[document]),
      value_B=jnp.asarray(value, jnp.float32),
      log_proposal_B=jnp.asarray(log_proposal, jnp.float32),
      sample_NE=sample_NE,
      sample_mass_N=sample_mass_N,
    ).only(self._method.signals)

  def _charge(self, search, rows, passes):
    tokens = rows * self._data.pool.row_tokens
    cost = Cost(*search.cost).plus(tokens, passes, self._flops)
    return search._replace(cost=np.array(cost))

  def _birth_keys(self, numbers):
    """A key for every proxy ever born, by its number."""
    key = jax.random.fold_in(self._key, 1)
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(
      jnp.asarray(numbers)
    )


def _ones(batches: Batch) -> np.ndarray:
  """Weights of batches that were drawn by the weights themselves."""
  return np.ones(batches.tokens_BT.shape, np.float32)


def _member(batches: Batch, index: int) -> Batch:
  return Batch(*(x[index] for x in batches))


def _by_piece(batches: Batch, value_SBT: np.ndarray):
  """(document, mean value, tokens) of every piece of a draw."""
  piece = batches.segment_BT.ravel()
  tokens = np.bincount(piece)
  total = np.bincount(piece, value_SBT.ravel().astype(np.float64))
  document = np.zeros(len(tokens), np.int64)
  document[piece] = batches.document_BT.ravel()
  seen = tokens > 0
  return document[seen], (total / np.maximum(tokens, 1))[seen], tokens[seen]
