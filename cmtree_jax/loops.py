"""The drivers: the only code that feeds documents to methods and to proxies.

`pass_over_corpus` runs methods that only look, `train_proxy` those that learn from
a proxy in training, `mixture_runs` trains and scores one model per recipe and seed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.batch import Batch
from cmtree_jax.checkpoint import Checkpointer, StopFlag
from cmtree_jax.data.sampler import Sampler, SamplerState
from cmtree_jax.engine import Engine
from cmtree_jax.evaluate import perplexity
from cmtree_jax.ledger import (
  FORWARD,
  GRADIENT,
  HYPERGRADIENT,
  PROBE,
  Cost,
)
from cmtree_jax.methods.base import Facts, Method, Signals, Weights
from cmtree_jax.types import Fault

Advance = Callable[[float, str], None]  # (work done, what is being done)


def pass_over_corpus(
  method: Method, facts: Facts, signals: Signals, *, batch: int
) -> Weights:
  """One pass over documents in batches, for methods that need no proxy.

  Args:
    method: reads `signals` of pool and target documents.
    facts: what is known beforehand.
    signals: of all documents; only the declared fields are passed on.
    batch: documents per step; the last batch is filled up with mass zero.
  """
  size = len(signals.mass_B)
  steps = -(-size // batch)

  def batches(name, value):
    if value is None or name not in method.signals:
      return None
    pad = [(0, steps * batch - size)] + [(0, 0)] * (value.ndim - 1)
    padded = np.pad(value, pad)
    return jnp.asarray(padded.reshape(steps, batch, *value.shape[1:]))

  stacked = Signals(
    *(batches(n, v) for n, v in zip(Signals._fields, signals, strict=True))
  )
  state, _ = jax.jit(lambda s, x: jax.lax.scan(method.step, s, x))(
    method.init(jax.random.key(0), facts), stacked
  )
  return method.finalize(state)


class SearchData(NamedTuple):
  """What a search draws from."""

  pool: Sampler
  embedding_NE: np.ndarray
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
  life: int  # steps after which a proxy is born anew
  infancy: int  # steps that a newborn proxy trains before it is asked
  window: int  # steps that are differentiated through
  rows: int  # per step
  outer_rows: int  # of targets per window
  probe_rows: int  # of documents valued per window
  stride: int  # steps that proxies train on between rounds
  lookahead: int  # steps by which every change is measured, on either side
  natural_share: float  # of the draws of probes and windows


class Search(NamedTuple):
  """The state of a search; all of it is saved."""

  method: Any
  proxies: tuple[Any, ...]  # phi of each
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
    method: of the train loop.
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
  driver = _SearchDriver(method, data, plan, engine, seed, flops_per_token)
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
  raising = plan.population * plan.infancy + (plan.life - plan.infancy) / 2
  proxy = window_work(plan) + plan.stride * plan.rows
  one_round = plan.population * proxy + lookahead_work(plan)
  return plan.rows * raising + plan.rounds * one_round


def window_work(plan: SearchPlan) -> float:
  """Work of valuing with one proxy, in plain training rows."""
  inner = plan.window * plan.rows * HYPERGRADIENT
  other = plan.outer_rows * GRADIENT + plan.probe_rows * PROBE
  return (inner + other) / GRADIENT


def lookahead_work(plan: SearchPlan) -> float:
  """Work of measuring one change, in plain training rows."""
  return 2.0 * plan.population * plan.lookahead * plan.rows


def stack_rows(batch: Batch, rows: int) -> Batch:
  """Rows [S * B, T] as steps [S, B, T]."""
  return Batch(*(x.reshape(-1, rows, x.shape[1]) for x in batch))


class _SearchDriver:
  """One search's fixed parts; its methods take the state and return it."""

  def __init__(self, method, data, plan, engine, seed, flops_per_token):
    self._method, self._data, self._plan = method, data, plan
    self._engine, self._flops = engine, flops_per_token
    self._seed, self._key = seed, jax.random.key(seed)
    self._step = jax.jit(method.step)
    embedding_NE = jnp.asarray(data.embedding_NE)
    mass_N = jnp.asarray(data.mass_N, jnp.float32)
    signals = Signals(mass_B=mass_N, embedding_BE=embedding_NE)
    self._log_w_N = jax.jit(lambda state: method.finalize(state).log_w(signals))

  def start(self, facts: Facts) -> Search:
    """Newborn proxies, staggered so that they never grow old together."""
    plan, data = self._plan, self._data
    state = self._method.init(jax.random.fold_in(self._key, 0), facts)
    proxies = tuple(
      self._engine.init(self._birth_key(i)) for i in range(plan.population)
    )
    _, info = jax.eval_shape(self._step, state, self._signals([], 0))
    self.fields = (*info._fields, *LOOP_FIELDS)
    size = len(data.mass_N)
    return Search(
      method=state,
      proxies=proxies,
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
    log_w_N = np.asarray(self._log_w_N(search.method), np.float64)
    found, outer = [], []
    for index in range(plan.population):
      search = self._grow(search, index, np.exp(log_w_N), advance)
      search, probes, loss = self._value(search, index, np.exp(log_w_N))
      found.append(probes)
      outer.append(loss)
      advance(window_work(plan), f"round {int(search.round) + 1}: values")
    state, info = self._step(
      search.method, self._signals(found, int(search.round))
    )
    search = self._note_values(search._replace(method=state), found, log_w_N)
    search, gain, loss = self._look_ahead(search, log_w_N)
    advance(lookahead_work(plan), f"round {int(search.round) + 1}: measured")
    row = [float(x) for x in info] + [np.mean(outer), loss, gain]
    history = search.history.copy()
    history[int(search.round)] = row
    return search._replace(
      method=self._method.judge(search.method, jnp.float32(gain)),
      history=history,
      round=search.round + 1,
    )

  def _grow(self, search, index, weight_N, advance):
    """Trains a proxy on to its next asking, or its successor to its first."""
    plan = self._plan
    phi, age = search.proxies[index], int(search.age[index])
    if age >= plan.life:
      phi, age = self._engine.init(self._birth_key(int(search.births))), 0
      search = search._replace(births=search.births + 1)
    goal = plan.infancy
    if search.round == 0:
      # Staggered: the first ages are spread over a life.
      goal += index * (plan.life - plan.infancy) // plan.population
    goal = max(goal, age + plan.stride)
    while age < goal:
      pool, batch = self._data.pool.draw(
        search.pool, weight_N, plan.stride * plan.rows
      )
      batches = self._chunks(batch)
      phi, _ = self._engine.train(phi, batches, _ones(batches))
      age += plan.stride
      search = self._charge(
        search._replace(pool=pool), plan.stride * plan.rows, GRADIENT
      )
      advance(plan.stride * plan.rows, "raising proxies")
    return self._with_proxy(search, index, phi, age)

  def _value(self, search, index, weight_N):
    """One window of one proxy: (search, values of pieces, outer loss)."""
    plan, data = self._plan, self._data
    share = plan.natural_share
    proposal_N = (1 - share) * weight_N + share
    pool, batch = data.pool.draw(
      search.pool, proposal_N, plan.window * plan.rows
    )
    pool, probes = data.pool.draw(pool, proposal_N, plan.probe_rows)
    targets, outer = data.targets.draw(
      search.targets, data.target_weight_N, plan.outer_rows
    )
    batches, outer = self._chunks(batch), self._chunks(outer)
    probes = self._chunks(probes)
    ratio_SBT = (weight_N / proposal_N)[batches.document_BT]
    scale = data.target_scale_N[outer.document_BT]
    outer_weight = (scale / outer.document_BT.size).astype(np.float32)
    phi = search.proxies[index]
    window = self._engine.window(
      phi, batches, ratio_SBT.astype(np.float32), (outer, outer_weight)
    )
    value = self._engine.probe(phi.params, window.adjoint, probes)
    found = [
      _by_piece(batches, np.asarray(window.value_SBT)),
      _by_piece(probes, np.asarray(value)),
    ]
    search = search._replace(pool=pool, targets=targets)
    for rows, passes in (
      (plan.window * plan.rows, HYPERGRADIENT),
      (plan.outer_rows, GRADIENT),
      (plan.probe_rows, PROBE),
    ):
      search = self._charge(search, rows, passes)
    pieces = [np.concatenate(x) for x in zip(*found, strict=True)]
    log_proposal = np.log(proposal_N[pieces[0]])
    return search, (*pieces, log_proposal), float(window.outer_loss)

  def _look_ahead(self, search, old_log_w_N):
    """Measures the last change: (search, fall of the loss, loss after it).

    Every proxy is cooled down on the old and on the new weights, with paired
    draws; it goes on from where it was.
    """
    plan, data = self._plan, self._data
    log_w_N = np.asarray(self._log_w_N(search.method), np.float64)
    losses = []
    for phi in search.proxies:
      for weight_N in (np.exp(old_log_w_N), np.exp(log_w_N)):
        pool, batch = data.pool.draw(
          search.pool, weight_N, plan.lookahead * plan.rows
        )
        batches = self._chunks(batch)
        params = self._engine.cooled(phi, batches, _ones(batches))
        loss = self._engine.weighted_nats(params, data.validation)
        losses.append(float(loss))
      search = search._replace(pool=pool)
    rows = len(losses) * plan.lookahead * plan.rows
    search = self._charge(search, rows, GRADIENT)
    rows = len(losses) * data.validation[1][..., 0].size
    search = self._charge(search, rows, FORWARD)
    old, new = np.mean(losses[::2]), np.mean(losses[1::2])
    return search, float(old - new), float(new)

  def _chunks(self, batch: Batch) -> Batch:
    return stack_rows(batch, self._plan.rows)

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
    rows = plan.population * (plan.window * plan.rows + plan.probe_rows)
    size = 2 * rows  # more pieces than that are left out: they are a sample
    columns = [np.concatenate(x)[:size] for x in zip(*found, strict=True)]
    if not columns:
      columns = [np.zeros(0, np.int64)] + [np.zeros(0)] * 3
    document, value, mass, log_proposal = (
      np.pad(column, (0, size - len(column))) for column in columns
    )
    sample_NE, sample_mass_N = self._sample(number)
    full = Signals(
      mass_B=jnp.asarray(mass, jnp.float32),
      embedding_BE=jnp.asarray(self._data.embedding_NE[document]),
      value_B=jnp.asarray(value, jnp.float32),
      log_proposal_B=jnp.asarray(log_proposal, jnp.float32),
      sample_NE=sample_NE,
      sample_mass_N=sample_mass_N,
    )
    return Signals(
      *(
        value if name in self._method.signals else None
        for name, value in full._asdict().items()
      )
    )

  def _charge(self, search, rows, passes):
    tokens = rows * self._data.pool.row_tokens
    cost = Cost(*search.cost).plus(tokens, passes, self._flops)
    return search._replace(cost=np.array(cost))

  def _with_proxy(self, search, index, phi, age):
    proxies = (
      *search.proxies[:index],
      phi,
      *search.proxies[index + 1 :],
    )
    ages = search.age.copy()
    ages[index] = age
    return search._replace(proxies=proxies, age=ages)

  def _birth_key(self, number: int):
    return jax.random.fold_in(jax.random.fold_in(self._key, 1), number)


def _by_piece(batches: Batch, value_SBT: np.ndarray):
  """(document, mean value, tokens) of every piece of a draw."""
  piece = batches.segment_BT.ravel()
  tokens = np.bincount(piece)
  total = np.bincount(piece, value_SBT.ravel().astype(np.float64))
  document = np.zeros(len(tokens), np.int64)
  document[piece] = batches.document_BT.ravel()
  seen = tokens > 0
  return document[seen], (total / np.maximum(tokens, 1))[seen], tokens[seen]


class RunPlan(NamedTuple):
  """The final training, equal for every recipe."""

  steps: int
  rows: int
  steps_per_call: int  # drawn and compiled together; divides `steps`
  calls_per_save: int


class Runs(NamedTuple):
  """The state of all final runs; all of it is saved."""

  bpb: np.ndarray  # [recipes, seeds, targets], NaN where not yet measured
  cell: np.ndarray  # index of the run in progress
  step: np.ndarray  # its training steps so far
  phi: Any
  pool: SamplerState


def mixture_runs(
  log_w: Mapping[str, np.ndarray],
  samplers: Sequence[Sampler],
  eval_sets: Sequence[perplexity.EvalSet],
  plan: RunPlan,
  engine: Engine,
  *,
  checkpointer: Checkpointer,
  stop: StopFlag,
  advance: Advance,
) -> np.ndarray:
  """Trains one model per recipe and seed on equal tokens and scores it.

  A seed fixes the parameters at the start and the arrival points of documents, so
  runs of one seed are paired. Seeds are the outer loop: what is finished early
  is comparable.

  Args:
    log_w: recipe name -> log-weights of the documents.
    samplers: one per seed.
    eval_sets: frozen, one per target.
    plan: the training.
    engine: compiled functions.
    checkpointer: of this stage.
    stop: set when the job is asked to stop.
    advance: told of progress.
  Returns:
    Bits per byte [recipes, seeds, targets].
  Raises:
    Fault: a loss is not finite.
    Interrupted: after saving.
  """
  names = list(log_w)
  runs = Runs(
    bpb=np.full((len(names), len(samplers), len(eval_sets)), np.nan),
    cell=np.array(0),
    step=np.array(0),
    phi=engine.init(_run_key(0)),
    pool=samplers[0].init(),
  )
  runs = checkpointer.restore(runs) or runs
  while runs.cell < len(names) * len(samplers):
    seed, recipe = divmod(int(runs.cell), len(names))
    if runs.step == 0:
      runs = runs._replace(
        phi=engine.init(_run_key(seed)), pool=samplers[seed].init()
      )
    advance(0, f"final training, seed {seed}, {names[recipe]}")
    runs, loss = _train_call(
      runs, samplers[seed], np.exp(log_w[names[recipe]]), plan, engine
    )
    finished = runs.step == plan.steps
    if finished:
      bpb = runs.bpb.copy()
      bpb[recipe, seed] = [
        _score(engine, runs.phi.params, one) for one in eval_sets
      ]
      runs = runs._replace(bpb=bpb, cell=runs.cell + 1, step=np.array(0))
    calls = int(runs.step) // plan.steps_per_call
    if (
      not math.isfinite(loss)
      or finished
      or stop.raised
      or (calls % plan.calls_per_save == 0)
    ):
      done = int(runs.cell) * plan.steps + int(runs.step)
      checkpointer.save(done, runs)
    if not math.isfinite(loss):
      raise Fault(
        f"The loss of {names[recipe]}, seed {seed}, is not finite at step "
        f"{int(runs.step)} (saved). Lower config.optimizer.learning_rate and "
        "start anew with --overwrite."
      )
    advance(plan.steps_per_call * plan.rows, "")
    stop.check()
  return runs.bpb


def _train_call(runs, sampler, weight_N, plan, engine):
  pool, batch = sampler.draw(
    runs.pool, weight_N, plan.steps_per_call * plan.rows
  )
  batches = stack_rows(batch, plan.rows)
  phi, loss_S = engine.train(runs.phi, batches, _ones(batches))
  step = runs.step + plan.steps_per_call
  return runs._replace(phi=phi, pool=pool, step=step), float(loss_S[-1])


def _ones(batches: Batch) -> np.ndarray:
  """Weights of batches that were drawn by the weights themselves."""
  return np.ones(batches.tokens_BT.shape, np.float32)


def _score(engine, params, one: perplexity.EvalSet) -> float:
  nats = engine.weighted_nats(params, (one.batches, one.weight_CBT))
  return perplexity.bits_per_byte(float(nats), one.num_bytes)


def _run_key(seed: int):
  return jax.random.fold_in(jax.random.key(7), seed)
