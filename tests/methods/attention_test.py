"""Attention: its parts against other implementations, and a planted world."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import covariance

from cmtree_jax.methods import attention
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

Q_K = np.array([0.5, 0.3, 0.2, 0.0])
HIDDEN_KRH = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
HIDDEN_KRH[0, 2] = HIDDEN_KRH[3] = 0.0  # a row, and a domain, without text
HIDDEN_KRH[:3] += np.where(HIDDEN_KRH[:3].any(axis=-1, keepdims=True), 2.0, 0.0)
TARGET_TH = np.random.default_rng(1).normal(2, 1, (2, 5)).astype(np.float32)
DOT_K = np.array([1.0, -1.0, 0.5, np.nan], np.float32)
SIGNALS = Signals(
  late_hidden_KRH=jnp.asarray(HIDDEN_KRH),
  target_late_hidden_TH=jnp.asarray(TARGET_TH),
  target_dot_K=jnp.asarray(DOT_K),
)
FACTS = world.facts_of(Q_K, steps=100)


def cosines_by_hand():
  """Of the three domains, by a root of the inverse covariance."""
  row_NH = HIDDEN_KRH.reshape(-1, 5)
  row_NH = row_NH[row_NH.any(axis=1)].astype(float)
  mean_H = row_NH.mean(axis=0)
  variance, turn_HH = np.linalg.eigh(covariance.oas(row_NH)[0])
  white_HH = turn_HH / np.sqrt(variance)
  keys = [x_RH[x_RH.any(axis=1)].mean(axis=0) for x_RH in HIDDEN_KRH[:3]]
  key_KH, query_TH = ((x - mean_H) @ white_HH for x in (keys, TARGET_TH))
  dot_TK = query_TH @ key_KH.T
  length_K = np.linalg.norm(key_KH, axis=1)
  return dot_TK / np.linalg.norm(query_TH, axis=1)[:, None] / length_K


def stepped(method, signals=SIGNALS, count=2):
  """(states, the last info) of the same observation again and again."""
  states, info = [method.init(jax.random.key(0), FACTS)], None
  step = planted.Compiled(method)
  for _ in range(count):
    state, info, _ = step(states[-1], world.declared(method, signals))
    states.append(state)
  return states, info


@pytest.mark.parametrize("count", [4, 30])
def test_a_covariance_is_shrunk_as_by_scikit_learn(count):
  x_NH = np.random.default_rng(0).normal(size=(count, 6)) * np.arange(1, 7)
  x_NH -= x_NH.mean(axis=0)
  found_HH = attention.shrunk(jnp.asarray(x_NH.T @ x_NH / count), count)
  expected_HH, _ = covariance.oas(x_NH, assume_centered=True)
  np.testing.assert_allclose(found_HH, expected_HH, rtol=1e-4, atol=1e-6)


def test_cosines_are_those_of_whitened_means_of_rows_with_text():
  found_TK = attention.cosines(
    SIGNALS.late_hidden_KRH, SIGNALS.target_late_hidden_TH
  )
  np.testing.assert_allclose(
    found_TK[:, :3], cosines_by_hand(), rtol=1e-3, atol=1e-4
  )
  assert (np.abs(found_TK[:, 3]) < 1e-6).all()


def test_the_slope_is_the_derivative():
  cosine_TK = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (2, 3)))
  mass_K, dot_K = jnp.asarray(Q_K[:3]), jnp.asarray(DOT_K[:3])

  def rate(log_tau):
    p_TK = attention.attended(mass_K, cosine_TK, jnp.exp(log_tau))
    return jnp.mean(p_TK, axis=0) @ dot_K

  for tau in (0.2, 1.0):
    expected = jax.grad(rate)(jnp.log(tau))
    found = attention.slope_by_log_tau(mass_K, cosine_TK, dot_K, tau)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_step_by_hand():
  method = attention.make(tau=0.5, tau_step=0.7)
  states, info = stepped(method)
  # Of a proxy that has not trained nothing is believed.
  np.testing.assert_allclose(method.ask(states[1]).mixture_K, Q_K, rtol=1e-6)
  assert states[1].log_tau == states[0].log_tau
  cosine_TK = cosines_by_hand()

  def attended(tau):
    p_TK = Q_K[:3] * np.exp(cosine_TK / tau)
    return p_TK / p_TK.sum(axis=1, keepdims=True)

  p_TK = attended(0.5)
  mean_T1 = (p_TK * cosine_TK).sum(axis=1, keepdims=True)
  slope = -(p_TK * (cosine_TK - mean_T1) @ DOT_K[:3]).mean() / 0.5
  slope /= Q_K[:3] @ np.abs(DOT_K[:3])
  assert info is not None
  np.testing.assert_allclose(info.slope, slope, rtol=1e-3)
  tau = 0.5 * np.exp(0.7 * slope)
  np.testing.assert_allclose(info.tau, tau, rtol=1e-4)
  found_K = method.ask(states[2]).mixture_K
  np.testing.assert_allclose(found_K[:3], attended(tau).mean(axis=0), rtol=1e-3)
  assert found_K[3] == 0
  mean_K = (Q_K + found_K) / 2
  for output, expected_K in (("mean", mean_K), ("last", found_K)):
    recipe_K = world.recipe(attention.make(output=output), states[2], FACTS)
    np.testing.assert_allclose(recipe_K, expected_K, rtol=1e-4, atol=1e-6)


def test_a_fixed_temperature_asks_for_no_gradients():
  method = attention.make(tau=0.5, tau_step=0.0)
  assert "target_dot_K" not in method.signals
  states, info = stepped(method, count=4)
  assert info is not None
  np.testing.assert_allclose(info.tau, 0.5, rtol=1e-6)
  p_TK = Q_K[:3] * np.exp(cosines_by_hand() / 0.5)
  p_K = (p_TK / p_TK.sum(axis=1, keepdims=True)).mean(axis=0)
  np.testing.assert_allclose(states[-1].course.mixture_K[:3], p_K, rtol=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_it_sharpens_where_what_is_alike_helps(sign):
  signals = SIGNALS._replace(
    target_late_hidden_TH=SIGNALS.target_late_hidden_TH.mean(
      axis=0, keepdims=True
    )
  )
  cosine_1K = attention.cosines(
    signals.late_hidden_KRH, signals.target_late_hidden_TH
  )
  dot_K = sign * jnp.where(Q_K > 0, cosine_1K[0], 0)
  method = attention.make(tau=0.3, tau_step=20.0)
  states, _ = stepped(method, signals._replace(target_dot_K=dot_K), count=8)
  taus = np.exp([float(state.log_tau) for state in states])
  assert (sign * np.diff(taus) <= 1e-6).all()
  assert sign * (0.3 - taus[-1]) > 0.1
  # And no further than a factor of thirty.
  assert taus.min() >= 0.3 / 30 * 0.999 and taus.max() <= 0.3 * 30 * 1.001


def test_it_orders_a_planted_world_by_likeness_to_the_target():
  method = attention.make(every=10)
  facts = world.facts_of([0.25] * 4, steps=400)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  best, noise, copy, opposed = world.recipe(method, states[-1], facts)
  np.testing.assert_allclose(best, copy, rtol=1e-3)
  assert best > noise > opposed


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(tau=0.0), "tau = 0.0 must be above 0"),
    (dict(tau_step=-1.0), "tau_step = -1.0 must be at least 0"),
    (dict(tau_step=float("inf")), "tau_step = inf must be a finite number"),
    (dict(every=0), "every = 0 must be at least 1"),
    (dict(output="best"), "Known: last, mean"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      attention.make(**settings)
