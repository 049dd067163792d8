"""One training run that moves its own weights: what it trains on, keeps and costs."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import budget, sharding
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.data.draw import looks
from cmtree_jax.loops import fleet, online, online_values
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods.base import Ask, DomainWeights, Method, Signals
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.ledger import GRADIENT, PROBE
from cmtree_jax.tree import replay
from cmtree_jax.types import UserError
from tests import toy
from tests.loops import planted
from tests.loops.steer_test import scripted
from tests.methods import world
from tests.toy import ROWS, T

STEPS = 16
PLAN = online.Plan(
  on=True, unroll=2, every=2, outer_rows=2 * ROWS, probe_rows=2 * ROWS, saves=3
)
EVENTS = [4, 8, 12]  # not at the end
COST = UnrollCost(6, 1)
TREE = world.make("cmtree")  # one object, so that its step is compiled once


@functools.cache
def engine(**mesh: int) -> engines.Engine:
  """As of a final training: its learning rate falls over all of its steps."""
  optimizer = optim.adamw(
    3e-2, warmup_steps=2, total_steps=STEPS, weight_decay=0.01, eps_root=1e-8
  )
  return engines.make(
    toy.CONFIG,
    optimizer,
    estimator="difference",
    mesh=sharding.make_mesh(**mesh) if mesh else None,
  )


class Info(NamedTuple):
  """What the method below tells."""

  documents: jax.Array


def moving(*log_w_K: float, to=None) -> Method:
  """Weights of domains that are known by heart, others after the second event."""
  first_K = jnp.asarray(log_w_K)
  last_K = first_K if to is None else jnp.asarray(to)

  def step(state, signals):
    return state + 1, Info(jnp.sum(signals.mass_B > 0))

  return Method(
    init=lambda key, facts: jnp.zeros(()),
    step=step,
    finalize=lambda state: DomainWeights(jnp.where(state < 2, first_K, last_K)),
    signals=frozenset({"mass_B"}),
    loop="values",
  )


STILL = moving(0.0, 0.0, 0.0, 0.0)


def run(
  method,
  folder,
  *,
  plan=PLAN,
  seeds=(0,),
  stop=None,
  advance=lambda work, text: None,
  made=None,
  corpus=None,
  most=1e9,
  epochs=0.0,
):
  """What runs of some seeds leave.

  Args:
    epochs: that they see of a part of the pool; 0: they see all of it.
    most: draws of a document.
  """
  corpus = corpus or planted.corpus()
  model = fleet.Model(made or engine(), toy.FLOPS, COST)
  tokens = int(corpus.world.pool.tokens.pairs_N.sum())
  capped = budget.make(
    budget.Plan(
      epochs=epochs or 1.0,
      max_epochs=most,
      min_documents=1 if epochs else 10**6,
    ),
    prepared_tokens=tokens,
    parameters=1,
  )
  subpools = corpus.world.subpools._replace(budget=capped)
  with toy.session(folder, stop) as session:
    return online.run(
      method,
      corpus.world._replace(model=model, subpools=subpools),
      plan,
      session._replace(advance=advance),
      [
        online.Run(
          f"run {seed}",
          seed,
          corpus.world.pool._replace(seed=seed),
          corpus.facts._replace(
            num_proxies=online_values.PROXIES,
            steps=STEPS,
            r_star=5.0,
            seed=seed,
          ),
          corpus.world.domain_N,
        )
        for seed in seeds
      ],
      steps=STEPS,
    )


def assert_same(found, expected, **close):
  def compare(a, b):
    if close:
      np.testing.assert_allclose(a, b, **close)
    else:
      np.testing.assert_array_equal(a, b)

  jax.tree.map(compare, found, expected)


def test_events_do_not_disturb_the_training(tmp_path):
  (with_events,) = run(STILL, tmp_path / "a")
  (without,) = run(STILL, tmp_path / "b", plan=PLAN._replace(every=99))
  assert [stage.begin for stage in with_events.stages] == [0, *EVENTS]
  assert [stage.begin for stage in without.stages] == [0]
  assert_same(with_events.params, without.params, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(with_events.count_N, without.count_N)


def test_values_through_a_copy_disturb_it_no_more(tmp_path):
  (copied,) = run(STILL, tmp_path / "a", plan=PLAN._replace(cooldown=True))
  (without,) = run(STILL, tmp_path / "b", plan=PLAN._replace(every=99))
  assert_same(copied.params, without.params, rtol=1e-6, atol=1e-7)
  (own,) = run(STILL, tmp_path / "c")
  assert np.nanmax(np.abs(copied.value_N - own.value_N)) > 1e-4


def test_all_is_charged(tmp_path):
  (plain,) = run(STILL, tmp_path / "a")
  (copied,) = run(STILL, tmp_path / "b", plan=PLAN._replace(cooldown=True))
  inner, outer, probes = (T * rows for rows in (2 * ROWS, 2 * ROWS, 2 * ROWS))
  passes = inner * (COST.inner_passes - GRADIENT)
  passes += outer * GRADIENT + probes * PROBE
  assert plain.cost.flops == pytest.approx(
    len(EVENTS) * passes * toy.FLOPS, rel=1e-9
  )
  more = len(EVENTS) * inner * GRADIENT * toy.FLOPS
  assert copied.cost.flops - plain.cost.flops == pytest.approx(more, rel=1e-9)


def test_a_run_that_is_stopped_goes_on_as_if_nothing_had_happened(tmp_path):
  (alone,) = run(TREE, tmp_path / "alone", most=3)
  stop, calls = StopFlag(), []

  def advance(work, text):
    del work, text
    calls.append(1)
    # The flag is raised while the next stretch trains.
    stop.raised = len(calls) == 2

  with pytest.raises(Interrupted):
    run(TREE, tmp_path / "cut", most=3, stop=stop, advance=advance)
  (resumed,) = run(TREE, tmp_path / "cut", most=3)
  drop = {"time_overhead": 0.0}
  assert_same(resumed._replace(**drop), alone._replace(**drop))


def test_runs_that_train_at_once_are_those_of_each_alone(tmp_path):
  apart = [run(TREE, tmp_path / f"{seed}", seeds=[seed])[0] for seed in (0, 1)]
  # On two devices, one run on each.
  made = engine(population=2, data=1)
  together = run(TREE, tmp_path / "both", seeds=(0, 1), made=made)
  for found, alone in zip(together, apart, strict=True):
    assert_same(found.params, alone.params, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.count_N, alone.count_N)
    assert found.cost == pytest.approx(alone.cost)
  assert (together[0].count_N != together[1].count_N).any()


def test_no_document_is_drawn_more_often_than_is_allowed(tmp_path):
  """Over four epochs of what the run sees of the pool."""
  wanted = moving(9.0, 0.0, -9.0, -9.0)
  (free,) = run(wanted, tmp_path / "free", epochs=4.0)
  (kept,) = run(wanted, tmp_path / "kept", epochs=4.0, most=6)
  first_N = planted.GROUP_N == 0
  assert free.count_N[first_N].max() > 8
  # What the first domain may not give, others do: as many tokens are drawn.
  seen_N = kept.count_N > 0
  assert kept.count_N.max() == 6
  assert (kept.count_N[first_N & seen_N] >= 5).all()
  tokens_N = planted.corpus().world.pool.tokens.pairs_N
  assert kept.count_N @ tokens_N >= STEPS * ROWS * T
  assert kept.count_N[~first_N].sum() > free.count_N[~first_N].sum()


def test_values_of_what_was_seen_are_discounted():
  had = looks.Looks(np.array([0, 1, 10]), np.ones(3))
  np.testing.assert_allclose(
    had.worth(5.0), [1.0, np.exp(-0.2), np.exp(-2.0)], rtol=1e-12
  )


class Planted(planted.Proxies):
  """Models whose steps are worth what the planted documents in them are."""

  def __init__(self, fades: float = 1.0):
    """What documents are worth falls by a factor from event to event."""
    super().__init__()
    self._fades = fades
    self.judged: list[set[int]] = []
    self.engine = self.engine._replace(valued=self._valued, probe=self._probed)

  def _valued(self, phi, batches, weight, outer):
    """To the mean of both targets alike."""
    targets, _ = outer
    self.judged.append(set(targets.document_BT.ravel().tolist()))
    phi, loss_PS = self._train(phi, batches, weight, np.ones(1, bool))
    unroll = engines.Unroll(
      np.zeros(len(weight)), self._worth(batches), np.array(0)
    )
    return phi, loss_PS, unroll

  def _probed(self, params, adjoint, batches):
    del params, adjoint
    return self._worth(batches)

  def _worth(self, batches):
    mean_N = planted.values().mean(axis=1)[batches.document_BT]
    return self._fades ** len(self.judged) * mean_N


def test_weights_move_to_what_the_model_says_is_worth_more(tmp_path):
  proxies = Planted()
  (found,) = run(TREE, tmp_path, made=proxies.engine, plan=LONG)
  assert sum(row["stepped"] for row in found.history[1:]) > 0
  first, last = (mean_value(found.stages[at].weights) for at in (0, -1))
  assert last > first + 0.02
  # The first event has nobody to judge it.
  start, judged = (one.weights for one in found.stages[:2])
  assert_same(judged, start)


LONG = PLAN._replace(every=1, probe_rows=4 * ROWS)


def mean_value(weights) -> float:
  """Of the planted documents that such weights train on."""
  corpus = planted.corpus()
  log_w_N = weights.log_w(
    Signals(
      mass_B=corpus.world.mass_N,
      domain_B=planted.GROUP_N,
      embedding_BE=planted.features(),
    )
  )
  mass_N = corpus.world.mass_N * np.exp(np.asarray(log_w_N, np.float64))
  return float(mass_N @ planted.values().mean(axis=1) / mass_N.sum())


def test_values_that_fade_alike_for_all_documents_change_nothing(tmp_path):
  fading = Planted(fades=0.5)
  (faded,) = run(TREE, tmp_path / "a", made=fading.engine, plan=LONG)
  (plain,) = run(TREE, tmp_path / "c", made=Planted().engine, plan=LONG)
  spreads = [row["spread"] for row in faded.history]
  assert spreads[1] == pytest.approx(spreads[0] / 2, rel=0.3)
  assert mean_value(faded.stages[-1].weights) == pytest.approx(
    mean_value(plain.stages[-1].weights), abs=2e-3
  )


def test_events_that_judge_each_other_read_other_texts(tmp_path):
  proxies = Planted()
  run(STILL, tmp_path, made=proxies.engine)
  first, second, third = proxies.judged
  assert first and second
  assert not first & second
  assert not second & third
  # And of every target.
  assert {x % 2 for x in first} == {x % 2 for x in second} == {0, 1}


def test_voices_of_an_event_judge_and_those_of_the_one_before_are_fitted_to(
  tmp_path,
):
  shown = []

  def step(state, signals):
    jax.debug.callback(
      lambda *x: shown.append(x), signals.proxy_B, signals.mass_B
    )
    return STILL.step(state, signals)

  method = STILL._replace(step=step, signals=frozenset({"mass_B", "proxy_B"}))
  run(method, tmp_path, made=Planted().engine)
  jax.effects_barrier()
  assert len(shown) == len(EVENTS)
  for number, (proxy_B, mass_B) in enumerate(shown):
    there = set(np.asarray(proxy_B)[np.asarray(mass_B) > 0].tolist())
    assert replay.judges(np.array(sorted(there)), number).all()
    assert not replay.judges(np.array(sorted(there)), number + 1).any()
    assert len(there) == online_values.VOICES


class Spy:
  """An engine that remembers which domains it trained on, and at which step."""

  def __init__(self):
    self.trained: list[tuple[int, set[int]]] = []
    self.engine = engine()._replace(train=self._train)

  def _train(self, phi, batches, weight, which):
    document = batches.document_BT
    domain_N = toy.corpus().world.domain_N
    shown = set(domain_N[document[document >= 0]].tolist())
    self.trained.append((batches.tokens_BT.shape[1], shown))
    return engine().train(phi, batches, weight, which)


def steered(asks, folder, **more):
  """(what a run leaves, what its engine trained on) under a script of asks."""
  spy, fields = Spy(), {"every": 4} | more.pop("fields", {})
  method = scripted(asks, **fields)
  (found,) = run(method, folder, made=spy.engine, corpus=toy.corpus(), **more)
  return found, spy.trained


ONE, TWO, THREE = np.eye(toy.K)[:3]


def test_a_steered_run_trains_on_what_its_method_asks_for(tmp_path):
  asks = [Ask(toy.mixture(*row)) for row in (ONE, TWO, TWO, THREE)]
  found, trained = steered(asks, tmp_path)
  assert trained == [(4, {0}), (4, {1}), (4, {1}), (4, {2})]
  # A stage for every change of the mixture; the first is before any observation.
  assert [one.begin for one in found.stages] == [0, 0, 4, 12]
  mass_K = toy.corpus().facts.domain_mass_K
  weights: list[Any] = [one.weights for one in found.stages]
  shares = [mass_K * np.exp(one.log_w_K) for one in weights]
  np.testing.assert_allclose(
    shares, [mass_K, ONE, TWO, THREE], rtol=1e-6, atol=1e-9
  )
  assert found.cost == pytest.approx((0.0, 0.0))  # it looked at nothing


def test_what_a_method_takes_back_is_trained_anew_and_charged(tmp_path):
  one, two = toy.mixture(*ONE), toy.mixture(*TWO)
  asks = [Ask(one), Ask(one, mark=True), Ask(two, back=True), Ask(two)]
  found, trained = steered(asks, tmp_path)
  # Four steps were taken back, so the last mixture is trained on four more.
  assert trained == [(4, {0}), (4, {0}), *[(4, {1})] * 3]
  tokens = 4 * ROWS * T
  assert found.cost.flops == pytest.approx(tokens * GRADIENT * toy.FLOPS)
  drawn = found.count_N @ toy.corpus().world.pool.tokens.pairs_N
  assert STEPS * ROWS * T <= drawn < (STEPS + 4) * ROWS * T


def test_a_steered_run_goes_on_where_it_was_stopped(tmp_path):
  one, two = toy.mixture(*ONE), toy.mixture(*TWO)
  asks = [Ask(one), Ask(one, mark=True), Ask(two), Ask(two, back=True)]
  alone, _ = steered(asks, tmp_path / "alone", most=3)
  stop = StopFlag()

  def advance(work, text):
    del work
    stop.raised = text.startswith("step 8")

  with pytest.raises(Interrupted):
    steered(asks, tmp_path / "cut", most=3, stop=stop, advance=advance)
  resumed, _ = steered(asks, tmp_path / "cut", most=3)
  drop = {"time_overhead": 0.0}
  assert_same(resumed._replace(**drop), alone._replace(**drop))


def test_no_run_trains_on_the_texts_of_the_targets(tmp_path):
  with pytest.raises(UserError, match="texts of the targets"):
    steered([Ask(toy.mixture(*ONE), target_share=0.5)] * 4, tmp_path)


def test_a_training_of_no_whole_number_of_unrolls_is_refused(tmp_path):
  with pytest.raises(ValueError, match="unroll = 3 must divide"):
    run(TREE, tmp_path, plan=PLAN._replace(unroll=3))
