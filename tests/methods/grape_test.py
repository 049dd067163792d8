"""GRAPE: its updates by hand, the game that it plays, and planted gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import grape
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

FACTS = world.facts_of([0.5, 0.3, 0.2], np.full((2, 3), 1 / 3))
F_TK = np.log([[1.0, 2.0, 4.0], [8.0, 1.0, 1.0]])


def signals_of(f_TK, nats_T=(1.0, 1.0), norm_K=None):
  """Of short gradients of logarithms, at any losses."""
  nats_T = np.asarray(nats_T)
  if norm_K is None:
    norm_K = np.zeros(f_TK.shape[1])
  return Signals(
    target_dot_TK=jnp.asarray(f_TK * nats_T[:, None], jnp.float32),
    domain_norm_K=jnp.asarray(norm_K, jnp.float32),
    target_norm_T=jnp.asarray(0.5 * nats_T, jnp.float32),
    target_nats_T=jnp.asarray(nats_T, jnp.float32),
  )


def after(method, f_TK, facts=FACTS, steps=1, **more):
  """(state, info) after so many equal observations."""
  step, signals = jax.jit(method.step), signals_of(f_TK, **more)
  state, info = step(method.init(jax.random.key(0), facts), signals)
  for _ in range(steps - 1):
    state, info = step(state, signals)
  return state, info


def test_the_updates_by_hand():
  method = grape.make(domain_step=2.0, task_step=3.0, smoothing=0.0)
  state, info = after(method, F_TK)
  # Uniform alpha improves both targets by log(8) / 3, so z stays as it was.
  np.testing.assert_allclose(info.rate_T, np.log(8) / 3, rtol=1e-6)
  np.testing.assert_allclose(state.task_T, 0.5, rtol=1e-6)
  # Squares of the factors sqrt(1 * 8), sqrt(2), sqrt(4).
  expected_K = np.array([8, 2, 4]) / 14
  np.testing.assert_allclose(method.ask(state).mixture_K, expected_K, rtol=1e-5)
  # Then the second target gains more, and the first one counts for more.
  second, info = method.step(state, signals_of(F_TK))
  rate_T = F_TK @ expected_K
  assert rate_T[1] > rate_T[0]
  z_T = np.exp(-3 * rate_T) / np.exp(-3 * rate_T).sum()
  np.testing.assert_allclose(second.task_T, z_T, rtol=1e-5)
  alpha_K = expected_K * np.exp(2 * z_T @ F_TK)
  np.testing.assert_allclose(info.alpha_K, alpha_K / alpha_K.sum(), rtol=1e-5)
  np.testing.assert_allclose(
    world.recipe(method, second, FACTS),
    (expected_K + alpha_K / alpha_K.sum()) / 2,
    rtol=1e-4,
  )


def test_a_target_s_unit_of_loss_is_nothing():
  method = grape.make()
  one, _ = after(method, F_TK, steps=3)
  two, _ = after(method, F_TK, steps=3, nats_T=(0.2, 7.0))
  np.testing.assert_allclose(one.course.total_K, two.course.total_K, rtol=1e-5)


def test_long_gradients_are_clipped():
  method = grape.make()
  _, plain = after(method, F_TK)
  # The first domain's gradient is four times too long, the targets' twice.
  signals = signals_of(F_TK, norm_K=[4.0, 1.0, 0.2])
  signals = signals._replace(target_norm_T=2 * jnp.ones(2))
  _, info = method.step(method.init(jax.random.key(0), FACTS), signals)
  short_TK = F_TK / 2 / [4.0, 1.0, 1.0]
  np.testing.assert_allclose(info.rate_T, short_TK.mean(axis=1), rtol=1e-5)
  assert np.abs(info.rate_T - plain.rate_T).min() > 0.1
  _, loose = grape.make(clip_norm=4.0).step(
    method.init(jax.random.key(0), FACTS), signals
  )
  np.testing.assert_allclose(loose.rate_T, plain.rate_T, rtol=1e-5)


def test_smoothing_keeps_a_target_that_gains_most():
  f_TK = np.array([[9.0, 9.0, 9.0], [0.0, 0.0, 0.0]])
  hard, _ = after(grape.make(smoothing=0.0, task_step=100.0), f_TK, steps=2)
  soft, _ = after(grape.make(smoothing=0.1, task_step=100.0), f_TK, steps=2)
  assert hard.task_T[0] < 1e-30
  np.testing.assert_allclose(soft.task_T, [0.05, 0.95], rtol=1e-5)


def test_the_mean_solves_the_game_of_the_slowest_target():
  # The first domain gives the first target ten times what the second gives the
  # second. Where both gain as much, alpha is 1 : 10, and so are the targets; noise
  # gives nothing to either.
  f_TK = np.array([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0]])
  game = grape.make(domain_step=1.0, task_step=1.0, smoothing=0.0)
  state, _ = after(game, f_TK, steps=3000)
  mean_K = world.recipe(game, state, FACTS)
  np.testing.assert_allclose(mean_K, [1 / 11, 10 / 11, 0], atol=0.03)
  # Targets that hardly move: all for the one that is improved already.
  fixed = grape.make(domain_step=1.0, task_step=1e-9, smoothing=0.0)
  state, _ = after(fixed, f_TK, steps=3000)
  assert world.recipe(fixed, state, FACTS)[0] > 0.9


def test_domains_without_documents_stay_without():
  method = grape.make()
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2], np.full((2, 4), 0.25))
  state, info = after(method, np.insert(F_TK, 1, np.nan, axis=1), facts)
  alone, _ = after(method, F_TK)
  assert np.isfinite(info.rate_T).all()
  np.testing.assert_allclose(
    np.delete(state.course.mixture_K, 1), alone.course.mixture_K, rtol=1e-6
  )
  assert world.recipe(method, state, facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(domain_step=0.0), "domain_step = 0.0 must be above 0"),
    (dict(task_step=-1.0), "task_step = -1.0 must be above 0"),
    (dict(clip_norm=0.0), "clip_norm = 0.0 must be above 0"),
    (dict(smoothing=2.0), "smoothing = 2.0 must be from 0 to 1"),
    (dict(every=0), "every = 0 must be at least 1"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    grape.make(**options)


def test_it_orders_a_planted_world_by_alignment_with_the_target():
  method = grape.make()
  facts = world.facts_of([0.25] * 4, steps=40 * method.every)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  best, noise, copy, opposed = world.recipe(method, states[-1], facts)
  np.testing.assert_allclose(best, copy, rtol=1e-4)
  assert best > 2 * noise > 3 * opposed
