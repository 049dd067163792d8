"""DataRater: its meta-gradient, what it learns, and how it filters."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import problem, unrolled
from cmtree_jax.bilevel.problem import InnerLoss, Problem
from cmtree_jax.methods import datarater
from cmtree_jax.methods.base import Signals
from cmtree_jax.tree import replay
from tests.methods.world import (
  POOL,
  SIGNALS,
  VALUE_ET,
  facts,
  take,
)

CASES = pathlib.Path(__file__).parents[1] / "bilevel" / "cases"


@pytest.fixture
def case(x64):
  """Two steps of SGD and a linear rater, from the paper's equations."""
  return dict(np.load(CASES / "derived_datarater.npz"))


def test_values_and_the_chain_rule_are_the_meta_gradient(case):
  optimizer = optax.sgd(float(case["lr"]))

  def losses(params, batch):
    return (batch["x"] @ params - batch["y"]) ** 2 / 2

  eta, features = jnp.asarray(case["eta"]), jnp.asarray(case["features"])
  weight_SB = jax.nn.softmax(features @ eta)
  valued = unrolled(
    Problem(
      lambda params, batch: jnp.mean(losses(params, batch)),
      InnerLoss(losses, lambda weight_SB, _: weight_SB),
      weight_SB,
      problem.init_inner(jnp.asarray(case["theta0"]), optimizer),
      {"x": case["inner_x"], "y": case["inner_y"]},
      {"x": case["outer_x"], "y": case["outer_y"]},
    ),
    optimizer=optimizer,
  )
  value_SB = -valued.grad_theta
  slope = jax.grad(datarater.rated_value)
  found = sum(
    slope(eta, x_BE, v_B, jnp.zeros(len(v_B)))
    for x_BE, v_B in zip(features, value_SB, strict=True)
  )
  np.testing.assert_allclose(-found, case["meta_grad"], rtol=1e-8)


def test_acceptance_is_that_of_the_paper(case):
  found = datarater.accepted(
    case["p"], batch=int(case["B"]), kept=int(case["K"])
  )
  np.testing.assert_allclose(found, case["p_accept"], rtol=1e-8, atol=1e-12)


def test_a_batch_s_filter_keeps_as_much_as_it_says_and_sharpens():
  p_N = (np.arange(10_000) + 0.5) / 10_000
  for batch, kept in ((4, 3), (32, 8), (1000, 250)):
    found = datarater.accepted(p_N, batch=batch, kept=kept)
    assert (np.diff(found) >= 0).all()
    assert found.mean() == pytest.approx(kept / batch, rel=1e-3)
  # Of a large batch it is the cut at the quantile.
  assert found[p_N < 0.7].max() < 1e-3 and found[p_N > 0.8].min() > 0.999


def test_what_is_not_in_the_batch_does_not_count():
  rng = np.random.default_rng(0)
  x_BE, value_B = rng.normal(size=(6, 3)), rng.normal(size=6)
  log_q_B = np.where(np.arange(6) < 4, 0.0, -1e9)
  eta_E = rng.normal(size=3)
  slope = jax.grad(datarater.rated_value)
  np.testing.assert_allclose(
    slope(eta_E, x_BE, value_B, log_q_B),
    slope(eta_E, x_BE[:4], value_B[:4], log_q_B[:4]),
    rtol=1e-5,
  )


def rounds(method, number=4):
  known = facts(4.0)
  state = before = method.init(jax.random.key(0), known)
  info = None
  shown = SIGNALS._replace(log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B))
  for _ in range(number):
    before = state
    state, info = jax.jit(method.step)(
      state, take(method, np.arange(POOL), shown)
    )
  return known, before, state, info


def test_ratings_rise_along_what_is_worth_more():
  method = datarater.make()
  _, before, state, info = rounds(method)
  direction = VALUE_ET.mean(axis=1)
  eta_E = np.asarray(state.weights.eta_E)
  cosine = eta_E @ direction / np.linalg.norm(eta_E) / np.linalg.norm(direction)
  assert cosine > 0.8
  assert info is not None and info.rated_value > info.natural_value
  # The soft weights on the way, with mean one and capped.
  pool = take(method, np.arange(POOL))
  w_N = np.exp(np.asarray(state.weights.log_w(pool), np.float64))
  assert w_N @ SIGNALS.mass_B[:POOL] == pytest.approx(1, rel=1e-5)
  assert w_N.max() <= 4.0 + 1e-4
  back = method.undo(state)
  jax.tree.map(
    np.testing.assert_array_equal,
    (back.weights, back.moments_P),
    (before.weights, before.moments_P),
  )


@pytest.mark.parametrize("number", [0, 1])
def test_a_step_is_not_fitted_to_those_who_judge_it(number):
  method = datarater.make()
  state = method.init(jax.random.key(0), facts(4.0))._replace(
    round=jnp.int32(number)
  )
  signals = take(method, np.arange(POOL))
  judges_B = replay.judges(np.asarray(signals.proxy_B), np.array(number))

  def stepped(of_B):
    sign_B = np.where(of_B, -1.0, 1.0)[:, None]
    other = signals._replace(value_BT=signals.value_BT * sign_B)
    return np.asarray(method.step(state, other)[0].weights.eta_E)

  as_it_is = stepped(np.zeros(POOL, bool))
  np.testing.assert_array_equal(stepped(judges_B), as_it_is)
  assert np.abs(stepped(~judges_B) - as_it_is).max() > 0.01


@pytest.mark.parametrize("kind", datarater.KINDS)
def test_the_lowest_ratings_are_dropped_in_the_end(kind):
  method = datarater.make(kind=kind, drop=0.5, batch=64)
  known, _, state, _ = rounds(method)
  assert method.conclude is not None
  found = method.conclude(state, jax.random.key(0), known, np.zeros(POOL))
  w_N = np.exp(
    np.asarray(found.weights.log_w(Signals(index_B=np.arange(POOL))))
  )
  q_N = SIGNALS.mass_B[:POOL]
  rating_N = SIGNALS.embedding_BE[:POOL] @ np.asarray(state.weights.eta_E)
  assert w_N @ q_N == pytest.approx(1, rel=1e-4)
  order = np.argsort(-rating_N)
  assert (np.diff(w_N[order]) <= 1e-4).all()
  assert q_N[w_N > 1].sum() == pytest.approx(0.5, abs=0.06)


def test_without_a_step_all_weigh_the_same():
  method = datarater.make()
  state = method.init(jax.random.key(0), facts())
  log_w_N = method.finalize(state).log_w(take(method, np.arange(POOL)))
  np.testing.assert_array_equal(log_w_N, np.zeros(POOL))


@pytest.mark.parametrize(
  "wrong",
  [
    dict(kind="soft"),
    dict(drop=1.0),
    dict(drop=-0.1),
    dict(batch=1),
    dict(rate=0.0),
    dict(meta_steps=0),
    dict(decay=-1.0),
  ],
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    datarater.make(**wrong)
