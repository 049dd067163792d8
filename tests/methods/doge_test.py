"""DoGE: its scores by hand, their clips, and planted gradients."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import doge
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

FACTS = world.facts_of([0.5, 0.3, 0.2])
GRADIENT_KP = np.array([[2.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
TARGET_P = np.array([1.0, 1.0])
NORM_K = np.array([2.0, np.sqrt(2), 1.0])


def log_shares(method, gradient_KP=GRADIENT_KP, target_P=TARGET_P, facts=FACTS):
  """Logarithms of alpha after one observation, from the lowest."""
  signals = planted.gradients(gradient_KP, target_P)
  state, info = method.step(method.init(jax.random.key(0), facts), signals)
  np.testing.assert_allclose(info.alpha_K, method.ask(state).mixture_K)
  log_K = np.log(np.asarray(method.ask(state).mixture_K, np.float64))
  return log_K - log_K.min()


def test_scores_toward_a_target_by_hand():
  # Products with the target: 2, 2, -1; a negative one counts as none.
  found_K = log_shares(doge.make(learning_rate=0.03, mu=0.1))
  expected_K = 0.3 * np.array([2.0, 2.0, 0.0]) / NORM_K.mean()
  np.testing.assert_allclose(found_K, expected_K, rtol=1e-5)


@pytest.mark.parametrize(
  ("objective", "alignment_K"),
  [
    ("domains", [2 - 2, 2 - 1, -2 - 1]),  # the others
    ("all_domains", [4 + 2 - 2, 2 + 2 - 1, -2 - 1 + 1]),
  ],
)
def test_scores_toward_the_domains_by_hand(objective, alignment_K):
  method = doge.make(objective=objective, learning_rate=0.03, mu=0.1)
  expected_K = 0.3 * np.maximum(alignment_K, 0.0) / NORM_K.mean()
  np.testing.assert_allclose(
    log_shares(method), expected_K, rtol=1e-5, atol=1e-6
  )


def test_mu_is_five_times_smaller_without_a_target():
  one = doge.make(objective="domains")
  two = doge.make(objective="domains", mu=0.05)
  np.testing.assert_allclose(log_shares(one), 5 * log_shares(two), rtol=1e-4)
  np.testing.assert_allclose(
    log_shares(doge.make()), log_shares(doge.make(mu=0.05)), rtol=1e-6
  )
  rates = doge.make(learning_rate=5e-3, mu=0.5)
  np.testing.assert_allclose(
    log_shares(doge.make()), log_shares(rates), rtol=1e-4
  )


def test_gradients_are_clipped_to_norm_five():
  # The first is as if its norm were 5, in every product and in the mean norm.
  large_KP = GRADIENT_KP * [[50.0], [1.0], [1.0]]
  clipped_KP = GRADIENT_KP * [[2.5], [1.0], [1.0]]
  for objective in ("target", "domains", "all_domains"):
    method = doge.make(
      objective=objective, learning_rate=0.03, mu=0.1, max_score=100.0
    )
    np.testing.assert_allclose(
      log_shares(method, large_KP), log_shares(method, clipped_KP), rtol=1e-5
    )
    assert not np.allclose(
      log_shares(doge.make(objective=objective, clip_norm=1e9), large_KP),
      log_shares(doge.make(objective=objective, clip_norm=1e9), clipped_KP),
    )


def test_a_score_is_at_most_five_times_the_rate():
  found_K = log_shares(
    doge.make(learning_rate=0.03, mu=0.1), target_P=100 * TARGET_P
  )
  np.testing.assert_allclose(found_K, [1.5, 1.5, 0.0], rtol=1e-5)


def test_the_result_is_the_mean_after_each_step():
  method = doge.make(learning_rate=0.03, mu=0.1)
  facts = world.facts_of([0.4, 0.3, 0.2, 0.1], steps=4)
  states, _, asks = planted.drive(method, facts, planted.PlantedGradients())
  mixture_SK = np.stack([ask.mixture_K for ask in asks])
  last = doge.make(learning_rate=0.03, mu=0.1, output="last")
  for one, state, expected_K in (
    (method, states[0], np.full(4, 1 / 4)),
    (method, states[-1], mixture_SK.mean(axis=0)),
    (last, states[-1], mixture_SK[-1]),
  ):
    recipe_K = world.recipe(one, state, facts)
    np.testing.assert_allclose(recipe_K, expected_K, rtol=1e-5)


@pytest.mark.parametrize("objective", ["target", "domains"])
def test_domains_without_documents_stay_without(objective):
  method = doge.make(objective=objective)
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2])
  signals = planted.gradients(GRADIENT_KP, TARGET_P)
  among = Signals(
    gram_KK=np.insert(
      np.insert(signals.gram_KK, 1, np.nan, axis=0), 1, np.nan, axis=1
    ),
    target_dot_K=np.insert(signals.target_dot_K, 1, np.nan),
  )
  state, _ = method.step(method.init(jax.random.key(0), facts), among)
  alone, _ = method.step(method.init(jax.random.key(0), FACTS), signals)
  assert state.mixture_K[1] == 0
  np.testing.assert_allclose(
    np.delete(state.mixture_K, 1), alone.mixture_K, rtol=1e-6
  )
  assert world.recipe(method, state, facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (
      dict(objective="tasks"),
      "Unknown objective 'tasks'. Known: all_domains, dom",
    ),
    (dict(mu=0.0), "mu = 0.0 must be above 0"),
    (dict(learning_rate=-1.0), "learning_rate = -1.0 must be above 0"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    doge.make(**options)


@pytest.mark.parametrize("objective", ["target", "domains"])
def test_it_orders_a_planted_world_by_alignment(objective):
  # Noise agrees with the target by chance; scores below zero are cut, so it
  # gains a little, and what opposes the target gains nothing. Duplicates cannot
  # be told apart. Without the target, the two that agree win all the same.
  method = doge.make(objective=objective)
  facts = world.facts_of([0.25] * 4, steps=300)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  recipe_K = world.recipe(method, states[-1], facts)
  best, noise, copy, opposed = recipe_K
  np.testing.assert_allclose(best, copy, rtol=1e-4)
  assert best > 2 * noise
  assert noise > opposed
  assert method.targeted == (objective == "target")
