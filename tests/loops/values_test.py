"""The loop `values`: what a method is shown, what it leads to, what it costs."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.bilevel import HYPERGRADS, population
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.loops import fleet, values
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods.base import DomainWeights, Method, Signals
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import ProxyConfig
from experiments import hlo
from tests import toy
from tests.loops import planted
from tests.methods import world
from tests.toy import ROWS, T

PLAN = values.Plan(
  rounds=4,
  population=2,
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
# Of the two proxies, when they are asked for values: the first ages are those that
# are spread from `min_age` on; then `steps_between_rounds` more, and one that has
# reached `max_age` is reset and raised to `min_age`.
AGES = [[4, 6], [6, 8], [8, 4], [4, 6]]
RAISED = (4 + 6) + (2 + 2) + (2 + 4) + (4 + 2)  # steps, in the four rounds


class Info(NamedTuple):
  """What the method below saw."""

  mismatch: jax.Array  # documents whose features are not those of their domain
  documents: jax.Array


def watching() -> Method:
  """Looks at domains and features, and doubles the weight of domain 0."""
  log_w_K = jnp.log(jnp.array([2.0, 0.5, 0.5, 1.0]))

  def step(state, signals):
    near_B = jnp.argmax(signals.embedding_BE, axis=1) == signals.domain_B
    there_B = signals.mass_B > 0
    return state, Info(jnp.sum(there_B & ~near_B), jnp.sum(there_B))

  return Method(
    init=lambda key, facts: jnp.zeros(()),
    step=step,
    finalize=lambda state: DomainWeights(log_w_K),
    signals=frozenset({"mass_B", "domain_B", "embedding_BE"}),
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
  finalize = method.finalize

  def remember(state):
    last[:] = [state]
    return finalize(state)

  with toy.session(folder, stop) as session:
    result = values.run(
      method._replace(finalize=remember),
      corpus.facts,
      corpus.world._replace(
        model=model,
        validation=(batch, np.ones(batch.tokens_BT.shape, np.float32)),
      ),
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


def mean_value(weight_N) -> float:
  """The planted value of what such weights train on."""
  mass_N = planted.corpus().facts.sample_mass_N * weight_N
  return mass_N @ planted.values() / mass_N.sum()


@pytest.mark.parametrize("lookahead", [2, 0])
def test_documents_come_with_their_domains(tmp_path, lookahead):
  plan = PLAN._replace(
    rounds=2, population=1, min_age=2, outer_rows=ROWS, lookahead=lookahead
  )
  result, _ = run(watching(), tmp_path, corpus=toy.corpus(), plan=plan)
  for row in result.history:
    assert row["mismatch"] == 0 < row["documents"]
  # Weights that read domains alone were enough to draw by.
  gains = np.array([row["gain"] for row in result.history])
  assert (gains == 0).all()  # equal weights draw equal rows
  assert all(row["validation_loss"] > 0 for row in result.history)


def test_proxies_are_asked_at_the_ages_of_the_plan(tmp_path):
  proxies = planted.Proxies()
  run(watching(), tmp_path, proxies.engine)
  asked = proxies.asked("unroll")
  assert [call.ages.tolist() for call in asked] == AGES
  resets = [call.which.tolist() for call in proxies.asked("reset")]
  assert resets == [[False, True], [True, False]]
  # Those that are reset are new ones; nobody is born twice.
  births = [call.births for call in asked]
  born = {births[0][0], births[0][1], births[2][1], births[3][0]}
  assert len(born) == 4
  expected = [births[0], births[0], births[2], births[3]]
  np.testing.assert_array_equal(births, expected)
  assert births[2][0] == births[0][0] and births[3][1] == births[2][1]


def test_measured_values_are_the_planted_ones(tmp_path):
  """Less their mean under the weights, whatever each proxy adds to all of its own."""
  # Several epochs of everything: no sampling error.
  rows = 64 * ROWS
  plan = PLAN._replace(unroll=64, outer_rows=rows, probe_rows=rows)
  result, _ = run(watching(), tmp_path, planted.Proxies().engine, plan=plan)
  mean = mean_value(weights_of(result.weights))
  assert result.value_N is not None
  np.testing.assert_allclose(result.value_N, planted.values() - mean, atol=0.01)
  # An unroll trains on the weights, though documents are drawn by a proposal.
  harder = planted.HARDER * (planted.TARGETS - 1) / 2
  expected = planted.START + harder - mean
  for row in result.history:
    assert abs(row["outer_loss"] - expected) < 0.01


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
  return run(TREE, tmp_path_factory.mktemp("learned"), planted.Proxies().engine)


def test_weights_move_to_where_the_value_is(learned):
  result, _ = learned
  weight_N = weights_of(result.weights)
  start = TREE.init(
    jax.random.fold_in(jax.random.key(0), 0), planted.corpus().facts
  )
  start_N = weights_of(TREE.finalize(start))
  spread = planted.values().std()
  assert mean_value(weight_N) > mean_value(start_N) + spread / 2
  by_group = weight_N.reshape(planted.GROUPS, -1).mean(axis=1)
  assert by_group.argmax() == 0
  # What is measured is what follows from the planted values.
  gains = [row["gain"] for row in result.history]
  assert min(gains) >= 0 and sum(gains) > spread / 2


@pytest.fixture(scope="module")
def misled(tmp_path_factory):
  """The same, but all that values say lowers the loss raises it."""
  proxies = planted.Proxies(lies=True)
  return run(TREE, tmp_path_factory.mktemp("misled"), proxies.engine)


def test_a_step_that_does_not_help_is_taken_back(misled):
  result, state = misled
  tried = [row for row in result.history if row["kl_step"] > 0]
  assert tried and all(row["gain"] < 0 for row in tried)
  start = TREE.init(
    jax.random.fold_in(jax.random.key(0), 0), planted.corpus().facts
  )
  jax.tree.map(np.testing.assert_array_equal, state.theta, start.theta)
  # And every one is smaller than the one before.
  sizes = [row["step_size"] for row in tried]
  assert all(b <= a / 2 for a, b in itertools.pairwise(sizes))


def test_the_replay_holds_the_planted_values(misled):
  """Less their mean under the weights, which are those of the start in all rounds."""
  _, state = misled
  kept = np.asarray(state.replay.weight_R) > 0
  feature_RE = np.asarray(state.replay.features)[kept]
  differ_RN = np.abs(feature_RE[:, None] - planted.features()).sum(axis=2)
  assert differ_RN.min(axis=1).max() == 0
  value_N = planted.values() - mean_value(weights_of(TREE.finalize(state)))
  value_R = np.asarray(state.replay.value_R)[kept]
  expected_R = value_N[differ_RN.argmin(axis=1)]
  # What each proxy adds to all of its values stays: the tree does not see proxies.
  added = planted.DRIFT / np.sqrt(2)
  assert np.std(value_R - expected_R) < 1.5 * added
  assert abs(np.mean(value_R - expected_R)) < added
  assert np.corrcoef(value_R, expected_R)[0, 1] > 0.85


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
  looks = 2 if plan.lookahead else 1  # at the validation rows, by each proxy
  validation = planted.corpus().view.eval_sets[0].batches.tokens_BT[0]
  asked = plan.rounds * plan.population
  inner = plan.unroll * ROWS * UNROLL[estimator]
  outer = plan.outer_rows * OUTER[estimator] * TRAINING
  return {
    "train": RAISED * ROWS * T * TRAINING,
    "unroll": asked * (inner + outer) * T,
    # A forward pass and its tangent, two products for each of its own.
    "probe": asked * plan.probe_rows * T * 3 * FORWARD,
    "cooled": asked * 2 * plan.lookahead * ROWS * T * TRAINING,
    "weighted_nats": asked * looks * validation.size * FORWARD,
  }


@pytest.mark.parametrize("lookahead", [3, 0])
@pytest.mark.parametrize("estimator", list(UNROLL))
def test_the_ledger_follows_the_published_formulas(
  tmp_path, estimator, lookahead
):
  options = {"window": 1} if estimator == "truncated" else {}
  told = HYPERGRADS[estimator].cost(num_steps=PLAN.unroll, **options)
  plan, engine = PLAN._replace(lookahead=lookahead), planted.Proxies().engine
  result, _ = run(watching(), tmp_path, engine, plan=plan, unroll_cost=told)
  expected = sum(flops(plan, estimator).values())
  assert result.cost.flops == pytest.approx(expected, rel=1e-12)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
  """Of the engine, by a search."""
  proxies = planted.Proxies()
  run(watching(), tmp_path_factory.mktemp("calls"), proxies.engine)
  return proxies.calls


@pytest.mark.slow
@pytest.mark.parametrize(
  ("estimator", "others"),
  [
    ("unrolled", ["train", "probe", "cooled", "weighted_nats"]),
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
  for name in ("unroll", *others):
    told = flops(PLAN, estimator)[name] / toy.FLOPS * config.flops_per_token(T)
    first = phi if name in ("train", "unroll", "cooled") else phi.params
    # All calls have the same shapes; an adjoint has those of the parameters.
    _, *rest = calls_of = [call for call in calls if call.name == name]
    shapes = calls_of[0].shapes
    assert all(call.shapes == shapes for call in rest)
    if name == "probe":
      shapes = phi.params, *shapes[1:]
    lowered = jax.jit(getattr(engine, name)).lower(first, *shapes)
    compiled = lowered.compile({"xla_backend_optimization_level": "0"})
    busy = sum(call.which.mean() for call in calls_of)
    counted = hlo.count(compiled).flops * busy
    assert counted == pytest.approx(told, rel=attention / 8), name


def test_the_estimate_of_raising_is_the_sum_of_first_ages():
  for members, life in ((1, 10**6), (2, 300), (4, 308)):
    plan = PLAN._replace(
      population=members, max_age=life, min_age=100, rounds=0
    )
    ages = population.first_ages(members, max_age=life, min_age=100)
    assert (
      values.work(plan, toy.ROWS, UnrollCost(1, 1)) == toy.ROWS * ages.sum()
    )
