"""ADO: planted scaling laws, the smoothing against scipy, and the policy by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from cmtree_jax.methods import ado
from cmtree_jax.methods.base import Signals
from cmtree_jax.methods.laws import learning_curves
from tests.methods import planted_proxy as planted

SMALL: dict[str, Any] = dict(every=10, thin=4, num_steps=60)  # 8 starts
STEPS = 400
LAWS = learning_curves.Law(
  a=np.array([1.5, -2.0, 1.5, 0.5, 0.0]),
  e=np.array([0.7, 1.6, 0.7, 1.2, 0.0]),
  alpha=np.array([0.3, 0.2, 0.3, 0.5, 0.0]),
)


class LawProxy:
  """Every domain's loss follows its law of the steps, whatever is trained on."""

  def __init__(self):
    self.steps = 0

  def train(self, ask, steps):
    del ask
    self.steps += steps

  def observe(self):
    loss_K = np.asarray(learning_curves.predict(LAWS, 1.0 + self.steps))
    return Signals(loss_K=np.append(loss_K[:4], np.nan))


@pytest.fixture
def quick(monkeypatch):
  """Fits find a law at once: levels from the last loss, NaN where that is."""

  def fit_laws(loss_NK, n_N, is_used_N, **settings):
    del n_N, settings
    last = jnp.sum(is_used_N) + jnp.argmax(is_used_N) - 1
    law = jax.tree.map(jnp.float32, LAWS)
    return law._replace(a=law.a + 1e-3 * loss_NK[last])

  monkeypatch.setattr(learning_curves, "fit_laws", fit_laws)


@functools.cache
def quick_run(**settings):
  method = ado.make(**SMALL, **settings)
  return method, *planted.drive(method, planted.facts(STEPS), LawProxy())


def test_a_fit_sees_smoothed_losses_after_those_ignored(monkeypatch):
  seen = {}

  def fit_laws(loss_NK, n_N, is_used_N, *, starts, num_steps, least_e):
    seen.update(count=len(starts.a), num_steps=num_steps, least_e=least_e)
    law_K = jnp.sum(jnp.where(is_used_N[:, None], loss_NK, 0.0), axis=0)
    at = jnp.sum(jnp.where(is_used_N, n_N, 0.0))
    return learning_curves.Law(
      law_K, jnp.full_like(law_K, at), jnp.ones_like(law_K)
    )

  monkeypatch.setattr(learning_curves, "fit_laws", fit_laws)
  rng = np.random.default_rng(0)
  loss_NK = rng.normal(3, 1, (40, 5)).astype(np.float32)
  method = ado.make(every=10, window=7, num_steps=9, least_e=0.1)
  step = planted.Compiled(method)
  state = method.init(jax.random.key(0), planted.facts(STEPS))
  first = 4 + 7 - 1
  for loss_K in loss_NK[: first + 1]:
    state, *_ = step(state, Signals(loss_K=loss_K))
  assert seen == dict(count=512, num_steps=9, least_e=0.1)
  smooth_NK = np.asarray(
    signal.savgol_filter(loss_NK[: first + 1], 7, 3, axis=0)
  )
  np.testing.assert_allclose(
    state.law.a[:4], smooth_NK[4:, :4].sum(axis=0), rtol=1e-5
  )
  np.testing.assert_allclose(
    state.law.e, (1 + 10 * np.arange(4, first + 1)).sum(), rtol=1e-6
  )


def test_before_the_first_fit_the_policy_is_the_token_share(quick):
  _, states, _, asks = quick_run()
  # 4 observations are ignored (a tenth of 40), then 11 make the first window.
  first = 4 + 11 - 1
  for ask in asks[:first]:
    np.testing.assert_allclose(ask.mixture_K, planted.Q_K, rtol=1e-6)
  assert not states[first].is_fitted
  assert states[first + 1].is_fitted
  assert np.abs(asks[first].mixture_K - planted.Q_K).max() > 1e-3
  # Fitted anew every 4 observations (a tenth of 40), kept in between.
  levels = np.stack([state.law.a for state in states])
  changes = np.abs(np.diff(levels, axis=0)).max(axis=1) > 0
  assert list(np.flatnonzero(changes)) == list(range(first, 40, 4))


def by_hand(n, sampled_K, credit="root"):
  """rho of the laws, of the four domains that are there."""
  q_K = planted.Q_K[:4]
  alpha_K, a_K = LAWS.alpha[:4], LAWS.a[:4]
  speed_K = np.maximum(alpha_K, 0.05) * np.exp(a_K) * n**-alpha_K / n
  h_K = sampled_K[:4] * (1 - sampled_K[:4] if credit != "root" else 1)
  rho_K = speed_K * q_K * h_K**0.5
  rho_K = np.maximum(rho_K / rho_K.sum(), 0.01)
  return rho_K / rho_K.sum()


@pytest.mark.parametrize("credit", ado.CREDITS)
def test_the_preference_by_hand(credit):
  sampled_K = np.array([0.6, 0.1, 0.2, 0.1, 0.0])
  rho_K = ado.preference(LAWS, 51.0, planted.Q_K, sampled_K, credit=credit)
  expected_K = by_hand(51.0, sampled_K, credit)
  np.testing.assert_allclose(rho_K[:4], expected_K, rtol=1e-5)
  assert rho_K[4] == 0
  # The second law is so flat that the floor holds it.
  np.testing.assert_allclose(expected_K[1], 0.01, rtol=0.02)


def test_the_flattest_law_has_an_exponent_of_a_twentieth():
  law = learning_curves.Law(
    a=jnp.zeros(2), e=jnp.zeros(2), alpha=jnp.array([0.01, 0.1])
  )
  half_K = jnp.full(2, 0.5)
  rho_K = ado.preference(law, 100.0, half_K, half_K)
  np.testing.assert_allclose(
    rho_K[0] / rho_K[1], 0.05 * 100**-0.01 / (0.1 * 100**-0.1), rtol=1e-5
  )


def test_the_floor_cannot_exceed_uniform():
  law = learning_curves.Law(*(jnp.ones(3) for _ in range(3)))
  mass_K = jnp.array([0.9, 0.1, 0.0])
  rho_K = ado.preference(law, 10.0, mass_K, mass_K, floor=0.9)
  np.testing.assert_allclose(rho_K.sum(), 1, rtol=1e-6)
  assert rho_K[2] == 0 and rho_K[1] > 0.3


def test_the_policy_by_hand_for_given_laws(quick):
  method, states, _, _ = quick_run()
  law = jax.tree.map(jnp.float32, LAWS)
  time = 16  # no fit here
  state = states[time]._replace(
    law=law,
    is_fitted=jnp.array(True),
    mean_preference_K=jnp.array([0.4, 0.3, 0.2, 0.1, 0]),
    sampled_K=jnp.array([0.1, 0.2, 0.3, 0.4, 0]),
  )
  before_K = np.asarray(state.course.mixture_K)
  step = planted.Compiled(method)
  state, info, ask = step(state, LawProxy().observe())
  keep = 0.9**10  # ten steps between observations
  sampled_K = keep * np.array([0.1, 0.2, 0.3, 0.4, 0]) + (1 - keep) * before_K
  np.testing.assert_allclose(state.sampled_K, sampled_K, rtol=1e-5)
  rho_K = np.append(by_hand(161.0, sampled_K), 0)
  np.testing.assert_allclose(info.preference_K, rho_K, rtol=1e-4)
  mean_K = np.array([0.4, 0.3, 0.2, 0.1, 0])
  np.testing.assert_allclose(
    ask.mixture_K, 0.9 * mean_K + 0.1 * rho_K, rtol=1e-4
  )
  np.testing.assert_allclose(
    state.mean_preference_K, mean_K + (rho_K - mean_K) / 17, rtol=1e-4
  )


def test_a_fit_that_is_not_finite_leaves_the_last_good_one(quick):
  method, states, _, _ = quick_run()
  time = 4 + 11 - 1 + 4  # of the second fit
  step = planted.Compiled(method)
  signals = LawProxy().observe()
  state, _, ask = step(
    states[time], signals._replace(loss_K=np.full(5, np.nan))
  )
  for new, old in zip(state.law, states[time].law, strict=True):
    np.testing.assert_array_equal(new, old)
  np.testing.assert_allclose(ask.mixture_K.sum(), 1, rtol=1e-5)
  # And before any good one, the token shares stay.
  state, _, ask = step(states[14], signals._replace(loss_K=np.full(5, np.nan)))
  assert not state.is_fitted
  np.testing.assert_allclose(ask.mixture_K, planted.Q_K, rtol=1e-6)


@pytest.mark.parametrize("output", ["mean", "last"])
def test_the_recipe_counts_from_the_first_fit(quick, output):
  _, states, _, asks = quick_run()
  method = ado.make(**SMALL, output=output)
  mixtures = np.stack([ask.mixture_K for ask in asks])
  expected_K = mixtures[14:].mean(axis=0) if output == "mean" else mixtures[-1]
  np.testing.assert_allclose(
    planted.recipe(method, states[-1]), expected_K, rtol=1e-4
  )


@pytest.mark.slow
def test_planted_noise_comes_last_and_the_target_is_not_known():
  # The law of a loss that does not fall has several lowest points: from a few starts
  # it depends on the processor which is found.
  options: dict[str, Any] = {**SMALL, "thin": 2}
  method = ado.make(**options)
  states, infos, _ = planted.drive(
    method, planted.facts(STEPS), planted.PlantedProxy()
  )
  assert not method.targeted
  rho_K = np.asarray(infos[-1].preference_K)
  np.testing.assert_allclose(rho_K[1], 0.01 / 1.01, rtol=1e-3)  # the floor
  # Domain and duplicate differ by their shares alone. Domain 3 falls as fast as
  # they do or faster, and nothing says that the target does not need it.
  credit_K = planted.Q_K * np.sqrt(np.asarray(states[-1].sampled_K))
  speed_K = rho_K[:4] / credit_K[:4]
  np.testing.assert_allclose(speed_K[0], speed_K[2], rtol=1e-3)
  assert speed_K[3] > speed_K[0] > 10 * speed_K[1]
  p_K = planted.recipe(method, states[-1])
  assert np.argmin(p_K[:4] / planted.Q_K[:4]) == 1
  assert p_K[4] == 0


def test_a_run_too_short_for_a_fit_stays_natural():
  method = ado.make(every=10)
  state = method.init(jax.random.key(0), planted.facts(30))
  np.testing.assert_allclose(
    planted.recipe(method, state), planted.Q_K, rtol=1e-5
  )


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(credit="none"), "Known: root, root_of_variance"),
    (dict(window=10), "window 10 must be odd"),
    (dict(refit=0), "refit = 0 must be at least 1"),
    (dict(floor=1.0), "floor 1.0 must be at least 0"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      ado.make(**settings)
