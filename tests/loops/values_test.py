"""The loop `values`: what a method is shown, what it leads to, what it costs."""

import itertools
import os
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.bilevel import HYPERGRADS, population
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.loops import fleet, values, values_plan
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods.base import DomainWeights, Method, Signals
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import ProxyConfig
from cmtree_jax.types import UserError
from experiments import hlo
from tests import toy
from tests.loops import planted
from tests.methods import world
from tests.toy import ROWS, T

PLAN = values.Plan(
  rounds=4,
  population=planted.PROXIES,
  max_age=8,
  min_age=4,
  unroll=2,
  outer_rows=3 * ROWS,
  probe_rows=2 * ROWS,
  validation_rows=ROWS,
  steps_between_rounds=2,
  lookahead=3,
  natural_share=0.5,
)
# Of the four proxies, when they are asked for values: the first ages are those that
# are spread from `min_age` on, in steps of two; then `steps_between_rounds` more, and
# one that has reached `max_age` is reset and raised to `min_age`.
AGES = [[4, 6, 6, 8], [6, 8, 8, 4], [8, 4, 4, 6], [4, 6, 6, 8]]
RAISED = 24 + (2 + 2 + 2 + 4) + (2 + 4 + 4 + 2) + (4 + 2 + 2 + 2)  # steps
TARGETS = len(planted.NAMES)


class Info(NamedTuple):
  """What the method below saw."""

  mismatch: jax.Array  # documents whose features are not those of their domain
  mistaken: jax.Array  # documents whose number is another's
  documents: jax.Array


def watching(*, moves: bool = False, domain_N=planted.GROUP_N) -> Method:
  """Looks at domains and features, and doubles the weight of domain 0.

  Args:
    moves: it changes its mind in every round.
    domain_N: of all documents.
  """
  domain_N = jnp.asarray(domain_N)
  log_w_K = jnp.log(jnp.array([2.0, 0.5, 0.5, 1.0]))

  def step(state, signals):
    near_B = jnp.argmax(signals.embedding_BE, axis=1) == signals.domain_B
    there_B = signals.mass_B > 0
    own_B = domain_N[signals.index_B] == signals.domain_B
    sampled_N = domain_N[signals.sample_index_N]
    mistaken = jnp.sum(there_B & ~own_B) + jnp.sum(
      jnp.argmax(signals.sample_NE, axis=1) != sampled_N
    )
    info = Info(jnp.sum(there_B & ~near_B), mistaken, jnp.sum(there_B))
    return state + 1, info

  return Method(
    init=lambda key, facts: jnp.zeros(()),
    step=step,
    finalize=lambda state: DomainWeights(log_w_K * (1 + 0.5 * moves * state)),
    signals=frozenset({"mass_B", "domain_B", "embedding_BE", "index_B"})
    | {"sample_NE", "sample_index_N"},
    loop="values",
  )


TREE = world.make("cmtree")  # one object, so that its step is compiled once


def run(
  method,
  folder,
  engine=None,
  *,
  corpus=None,
  plan=PLAN,
  unroll_cost=UnrollCost(11, 1),  # noqa: B008
  stop=None,
  advance=lambda work, text: None,
):
  """(result, the method's last state); the corpus is planted if it is not given."""
  corpus, last = corpus or planted.corpus(), []
  batch = jax.tree.map(lambda x: x[:1], corpus.view.eval_sets[0].batches)
  model = fleet.Model(engine or toy.engine(), toy.FLOPS, unroll_cost)
  finalize, names = method.finalize, corpus.world.target_names

  def remember(state):
    last[:] = [state]
    return finalize(state)

  of_TCBT = np.stack(
    [batch.document_BT % len(names) == target for target in range(len(names))]
  ).astype(np.float32)
  weight_TCBT = of_TCBT / of_TCBT.sum(axis=(1, 2, 3), keepdims=True)
  with toy.session(folder, stop) as session:
    result = values.run(
      method._replace(finalize=remember),
      corpus.facts._replace(num_proxies=plan.population),
      corpus.world._replace(model=model, validation=(batch, weight_TCBT)),
      plan,
      session._replace(advance=advance),
    )
  return result, last[0]


def weights_of(weights) -> np.ndarray:
  """Of all documents of the planted world."""
  signals = Signals(
    mass_B=planted.corpus().facts.sample_mass_N,
    domain_B=planted.GROUP_N,
    embedding_BE=planted.features(),
  )
  return np.exp(np.asarray(weights.log_w(signals), np.float64))


VALUE_N = planted.values().mean(axis=1)  # to both targets alike


def mean_value(weight_N, value_N=VALUE_N) -> float:
  """The planted value of what such weights train on."""
  mass_N = planted.corpus().facts.sample_mass_N * weight_N
  return mass_N @ value_N / mass_N.sum()


@pytest.mark.slow
def test_documents_come_with_their_domains(tmp_path):
  plan = PLAN._replace(rounds=2, min_age=2, outer_rows=ROWS, lookahead=2)
  corpus = toy.corpus()
  method = watching(moves=True, domain_N=corpus.world.domain_N)
  result, _ = run(method, tmp_path, corpus=corpus, plan=plan)
  for row in result.history:
    assert row["mismatch"] == row["mistaken"] == 0 < row["documents"]
    # Weights that read domains alone were enough to draw by.
    assert row["gain"] != 0 < row["gain_error"] < 1
    assert row["loss.goal"] == row["outer_loss"] > 0


def test_proxies_are_asked_at_the_ages_of_the_plan(tmp_path):
  proxies = planted.Proxies()
  run(watching(), tmp_path, proxies.engine)
  asked = proxies.asked("unroll")
  # For every target by itself, but at the same moment and through the same steps.
  assert len(asked) == TARGETS * PLAN.rounds
  for one, other in zip(asked[::2], asked[1::2], strict=True):
    np.testing.assert_array_equal(one.ages, other.ages)
  asked = asked[::TARGETS]
  assert [call.ages.tolist() for call in asked] == AGES
  resets = [call.which.tolist() for call in proxies.asked("reset")]
  new, old = True, False
  assert resets == [
    [old, old, old, new],
    [old, new, new, old],
    [new, old, old, old],
  ]
  # Those that are reset are new ones; nobody is born twice.
  births = np.array([call.births for call in asked])
  changes = births[1:] != births[:-1]
  np.testing.assert_array_equal(changes, resets)
  assert len(set(births.ravel())) == 4 + 4


@pytest.mark.parametrize(
  ("text", "weight_T"), [("equal", (0.5, 0.5)), ("near=3, far=1", (0.75, 0.25))]
)
def test_measured_values_are_the_planted_ones(tmp_path, text, weight_T):
  """Less their mean under the weights, whatever each proxy adds to all of its own."""
  # Several epochs of everything: no sampling error.
  rows = 64 * ROWS
  plan = PLAN._replace(
    unroll=64, outer_rows=rows, probe_rows=rows, target_weights=text
  )
  result, _ = run(watching(), tmp_path, planted.Proxies().engine, plan=plan)
  value_N = planted.values() @ weight_T
  mean = mean_value(weights_of(result.weights), value_N)
  assert result.value_N is not None
  np.testing.assert_allclose(result.value_N, value_N - mean, atol=0.01)
  # An unroll trains on the weights, though documents are drawn by a proposal.
  for row in result.history:
    losses = []
    for target, name in enumerate(planted.NAMES):
      value_N = planted.values()[:, target]
      harder = planted.HARDER * np.arange(target, planted.TARGETS, 2).mean()
      mean = mean_value(weights_of(result.weights), value_N)
      losses.append(planted.START + harder - mean)
      assert row[f"loss.{name}"] == pytest.approx(losses[-1], abs=0.01)
      assert row[f"weight.{name}"] == pytest.approx(weight_T[target])
    assert row["outer_loss"] == pytest.approx(
      weight_T @ np.array(losses), abs=0.01
    )


def test_a_target_without_a_weight_is_told(tmp_path):
  plan = PLAN._replace(target_weights="near=1,other=2")
  with pytest.raises(UserError, match="no weight for 'far'.* near, far"):
    run(watching(), tmp_path, planted.Proxies().engine, plan=plan)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  return run(TREE, tmp_path_factory.mktemp("learned"), planted.Proxies().engine)


def start_of(method):
  return method.init(
    jax.random.fold_in(jax.random.key(0), 0), planted.corpus().facts
  )


def test_weights_move_to_where_the_value_is(learned):
  result, _ = learned
  weight_N = weights_of(result.weights)
  start_N = weights_of(TREE.finalize(start_of(TREE)))
  spread = VALUE_N.std()
  assert mean_value(weight_N) > mean_value(start_N) + spread / 2
  by_group = weight_N.reshape(planted.GROUPS, -1).mean(axis=1)
  assert by_group.argmax() == 0
  # What is measured is what follows from the planted values.
  gains = [row["gain"] for row in result.history]
  assert min(gains) >= 0 and sum(gains) > spread / 2


def test_what_it_was_on_its_way_is_handed_over(learned, misled):
  result, _ = learned
  names, weights = zip(*result.candidates, strict=True)
  kept = [n for n, row in enumerate(result.history, 1) if row["kept"]]
  assert names == ("start", *(f"round {n}" for n in kept))
  assert len(kept) > 1
  start = TREE.finalize(start_of(TREE))
  jax.tree.map(np.testing.assert_array_equal, weights[0], start)
  jax.tree.map(np.testing.assert_array_equal, weights[-1], result.weights)
  # Each is worth more than the one before.
  worth = [mean_value(weights_of(one)) for one in weights]
  assert worth == sorted(worth)
  assert [name for name, _ in misled[0].candidates] == ["start"]


def test_more_counts_the_target_that_falls_behind(tmp_path):
  plan = PLAN._replace(target_weights="dro")
  result, _ = run(TREE, tmp_path, planted.Proxies().engine, plan=plan)
  first, *_, last = result.history
  assert first["weight.near"] == first["weight.far"] == pytest.approx(0.5)
  fallen = [last[f"loss.{x}"] / first[f"loss.{x}"] for x in planted.NAMES]
  assert fallen[0] < fallen[1]
  assert last["weight.near"] < 0.45
  assert last["weight.near"] + last["weight.far"] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def misled(tmp_path_factory):
  """The same, but all that values say lowers the loss raises it."""
  proxies = planted.Proxies(lies=True)
  # Steps that are halved more often change no draw of so few rows.
  plan = PLAN._replace(rounds=2)
  return run(TREE, tmp_path_factory.mktemp("misled"), proxies.engine, plan=plan)


def test_a_step_that_does_harm_is_taken_back(misled):
  result, state = misled
  for row in result.history:
    assert row["stepped"] and not row["kept"]  # it tried
    assert row["gain"] + row["gain_error"] < 0
  jax.tree.map(np.testing.assert_array_equal, state.theta, start_of(TREE).theta)
  # And every one is smaller than the one before.
  sizes = [row["step_size"] for row in result.history]
  assert all(b <= a / 2 for a, b in itertools.pairwise(sizes))


def test_where_proxies_disagree_nothing_is_done_and_nothing_charged(tmp_path):
  proxies, told = planted.Proxies(quarrel=True), []
  result, state = run(
    TREE, tmp_path, proxies.engine, advance=lambda work, text: told.append(text)
  )
  for row in result.history:
    assert row["heldout_gain"] < 0 == row["stepped"] == row["kept"]
    assert row["gain"] == row["gain_error"] == 0 == row["step_size"]
  jax.tree.map(np.testing.assert_array_equal, state.theta, start_of(TREE).theta)
  assert not proxies.asked("cooled") and not proxies.asked("losses")
  expected = flops(PLAN._replace(lookahead=0), "unrolled")
  assert result.cost.flops == pytest.approx(sum(expected.values()), rel=1e-12)
  last = result.history[-1]
  line = f"{last['heldout_gain']:+.4f} +- {last['heldout_error']:.4f}"
  assert f"round 4: no step: held-out gain {line}" in told


def test_the_replay_holds_the_planted_values(misled):
  """Less their mean under the weights, which are those of the start in all rounds."""
  _, state = misled
  kept = np.asarray(state.replay.weight_R) > 0
  feature_RE = np.asarray(state.replay.features)[kept]
  differ_RN = np.abs(feature_RE[:, None] - planted.features()).sum(axis=2)
  assert differ_RN.min(axis=1).max() == 0
  value_RT = np.asarray(state.replay.value_RT)[kept]
  weight_N = weights_of(TREE.finalize(state))
  for target in range(TARGETS):
    value_N = planted.values()[:, target]
    value_N = value_N - mean_value(weight_N, value_N)
    expected_R = value_N[differ_RN.argmin(axis=1)]
    # What each proxy adds to all of its values is gone; means are of samples.
    assert np.std(value_RT[:, target] - expected_R) < planted.DRIFT / 2
    assert np.corrcoef(value_RT[:, target], expected_R)[0, 1] > 0.95


def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(
  learned, tmp_path
):
  stop, seen = StopFlag(), []

  def advance(work, text):
    stop.raised |= text == "round 2: values" and text not in seen
    if text == "round 4: values" and text not in seen:
      seen.append(text)
      raise RuntimeError("killed in the middle of a round")
    seen.append(text)

  for expected in (Interrupted, RuntimeError):
    with pytest.raises(expected):
      run(TREE, tmp_path, planted.Proxies().engine, stop=stop, advance=advance)
    stop.raised = False
  result, state = run(
    TREE, tmp_path, planted.Proxies().engine, stop=stop, advance=advance
  )
  assert [seen.count(f"round {i}: values") for i in (1, 2, 3, 4)] == [
    1, 1, 1, 2,
  ]  # fmt: skip
  jax.tree.map(np.testing.assert_array_equal, state, learned[1])
  assert result.history == learned[0].history
  assert result.cost == learned[0].cost
  np.testing.assert_array_equal(result.value_N, learned[0].value_N)
  (names, weights), (expected_names, expected) = (
    zip(*one.candidates, strict=True) for one in (result, learned[0])
  )
  assert names == expected_names
  jax.tree.map(np.testing.assert_array_equal, weights, expected)


# FLOPs of the matrix products, of N parameters per token: 2 N forward and 4 N
# backward (Kaplan et al., 2020, section 2.1).
FORWARD, TRAINING = toy.FLOPS, 3 * toy.FLOPS
# Of an inner step of the unroll and its derivative.
UNROLL = {
  # A step, and the Hessian-vector product of mixed mode: 11/3 of plain training.
  "unrolled": 11 / 3 * TRAINING,
  "truncated": 11 / 3 * TRAINING,
  # A step, and one more gradient beside it.
  "difference": 2 * TRAINING,
  # A step, and the slope of its losses along a direction: a pass and its tangent.
  "one_step": TRAINING + 3 * FORWARD,
}
OUTER = {  # gradients of the outer loss
  "unrolled": 1,
  "truncated": PLAN.unroll,
  "difference": 1,
  "one_step": PLAN.unroll,
}


def flops(plan, estimator) -> dict[str, float]:
  """Of a search, by the function of the engine that takes them."""
  validation = planted.corpus().view.eval_sets[0].batches.tokens_BT[0]
  asked = plan.rounds * plan.population * TARGETS
  inner = plan.unroll * ROWS * UNROLL[estimator]
  outer_rows = 2 * ROWS  # one and a half full batches for each target
  outer = outer_rows * OUTER[estimator] * TRAINING
  # One half of the proxies measures a change, on either side.
  cooled = plan.rounds * 2 * plan.population / 2
  looks = cooled if plan.lookahead else 0
  return {
    "train": RAISED * ROWS * T * TRAINING,
    "unroll": asked * (inner + outer) * T,
    # A forward pass and its tangent, two products for each of its own.
    "probe": asked * plan.probe_rows * T * 3 * FORWARD,
    "cooled": cooled * plan.lookahead * ROWS * T * TRAINING,
    "losses": looks * validation.size * FORWARD,
  }


@pytest.mark.parametrize("lookahead", [3, 0])
@pytest.mark.parametrize("estimator", list(UNROLL))
def test_the_ledger_follows_the_published_formulas(
  tmp_path, estimator, lookahead
):
  options = {"window": 1} if estimator == "truncated" else {}
  told = HYPERGRADS[estimator].cost(num_steps=PLAN.unroll, **options)
  plan, engine = PLAN._replace(lookahead=lookahead), planted.Proxies().engine
  result, _ = run(
    watching(moves=True), tmp_path, engine, plan=plan, unroll_cost=told
  )
  expected = sum(flops(plan, estimator).values())
  assert result.cost.flops == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
  """Of the engine, by a search."""
  proxies = planted.Proxies()
  folder = tmp_path_factory.mktemp("calls")
  run(watching(moves=True), folder, proxies.engine)
  return proxies.calls


@pytest.mark.slow
@pytest.mark.parametrize(
  ("estimator", "others"),
  [
    ("unrolled", ["train", "probe", "cooled", "losses"]),
    ("one_step", []),
  ],
)
def test_the_formulas_are_the_products_of_the_compiled_programs(
  calls, estimator, others, monkeypatch
):
  """For the very calls that a search makes."""
  config = ProxyConfig(vocab_size=64, width=32, layers=2, heads=2)
  optimizer = optim.adamw(
    1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-6
  )
  monkeypatch.setattr(sharding, "put", lambda tree, mesh, spec: tree)
  engine = engines.make(config, optimizer, estimator=estimator)
  keys = jax.random.split(jax.random.key(0), PLAN.population)
  phi = jax.eval_shape(engine.init, keys)
  # Where both factors of a product depend on the parameters, as in attention, a
  # Hessian-vector product takes nine forward passes; for all others it is eight.
  attention = 4 * config.layers * config.width * T / config.flops_per_token(T)
  options: dict[str, bool | str] = {"xla_backend_optimization_level": "0"}
  if "fusion_emitters" in os.environ["XLA_FLAGS"]:  # they leave a product out
    options["xla_cpu_use_fusion_emitters"] = "True"
  for name in ("unroll", *others):
    told = flops(PLAN, estimator)[name] / toy.FLOPS * config.flops_per_token(T)
    # All calls have the same shapes; an adjoint has those of the parameters.
    _, *rest = calls_of = [call for call in calls if call.name == name]
    members = len(calls_of[0].ages)
    mine = jax.tree.map(
      lambda x, n=members: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), phi
    )
    first = mine if name in ("train", "unroll", "cooled") else mine.params
    shapes = calls_of[0].shapes
    assert all(call.shapes == shapes for call in rest)
    if name == "probe":
      shapes = phi.params, *shapes[1:]
    lowered = jax.jit(getattr(engine, name)).lower(first, *shapes)
    compiled = lowered.compile(options)
    busy = sum(call.which.mean() for call in calls_of)
    counted = hlo.count(compiled).flops * busy
    assert counted == pytest.approx(told, rel=attention / 8), name


def test_the_estimate_of_raising_is_the_sum_of_first_ages():
  for members, life in ((4, 10**6), (5, 300), (4, 308)):
    plan = PLAN._replace(
      population=members, max_age=life, min_age=100, rounds=0
    )
    ages = population.first_ages(members, max_age=life, min_age=100)
    found = values.work(plan, toy.ROWS, UnrollCost(1, 1), targets=3)
    assert found == toy.ROWS * ages.sum()


@pytest.mark.parametrize("lookahead", [3, 0])
def test_the_estimate_of_a_round_is_what_it_is_charged(lookahead):
  plan = PLAN._replace(lookahead=lookahead)
  cost = UnrollCost(11, 1)
  told = plan.population * values_plan.unroll_work(
    plan, ROWS, cost, targets=TARGETS
  ) + values_plan.lookahead_work(plan, ROWS)
  charged = flops(plan, "unrolled")
  charged = sum(charged[name] for name in ("unroll", "probe", "cooled"))
  assert told * plan.rounds * T * TRAINING == pytest.approx(charged)


@pytest.mark.parametrize(
  ("fields", "words"),
  [
    (dict(population=3), "population = 3 must be at least 4"),
    (dict(target_weights="worst"), '"dro", or weights'),
    (dict(target_weights="a=1,b=-1"), "of zero or more"),
  ],
)
def test_plans_that_cannot_work_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    PLAN._replace(**fields).check(ROWS)
