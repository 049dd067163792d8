"""DGA: its update by hand, and planted gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import dga
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

FACTS = world.facts_of([0.5, 0.3, 0.2])
DOT_K = np.log([1.0, 2.0, 5.0])


def test_the_update_by_hand():
  method = dga.make(step_size=1.0)
  signals = Signals(target_dot_K=jnp.asarray(DOT_K, jnp.float32))
  state = method.init(jax.random.key(0), FACTS)
  first, _ = method.step(state, signals)
  # Factors 1, 2, 5 of a third each are a tenth of the new weights.
  expected_K = 0.1 * np.array([1, 2, 5]) / 8 + 0.9 / 3
  np.testing.assert_allclose(method.ask(first).mixture_K, expected_K, rtol=1e-6)
  second, _ = method.step(first, signals)
  updated_K = expected_K * [1, 2, 5]
  last_K = 0.1 * updated_K / updated_K.sum() + 0.9 * expected_K
  np.testing.assert_allclose(method.ask(second).mixture_K, last_K, rtol=1e-6)
  np.testing.assert_allclose(
    world.recipe(method, second, FACTS),
    (expected_K + last_K) / 2,
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    world.recipe(dga.make(output="last"), second, FACTS),
    last_K,
    rtol=1e-5,
  )


def test_the_step_size_multiplies_products():
  one, two = (
    method.step(
      method.init(jax.random.key(0), FACTS), Signals(target_dot_K=dot_K)
    )[0].mixture_K
    for method, dot_K in (
      (dga.make(step_size=2.0), jnp.asarray(DOT_K, jnp.float32)),
      (dga.make(step_size=1.0), jnp.asarray(2 * DOT_K, jnp.float32)),
    )
  )
  np.testing.assert_allclose(one, two, rtol=1e-6)


def test_domains_without_documents_stay_without():
  method = dga.make(step_size=1.0)
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2])
  dot_K = jnp.asarray(np.insert(DOT_K, 1, np.nan), jnp.float32)
  state, info = method.step(
    method.init(jax.random.key(0), facts), Signals(target_dot_K=dot_K)
  )
  expected_K = (
    0.1 * np.array([1, 0, 2, 5]) / 8 + 0.9 * np.array([1, 0, 1, 1]) / 3
  )
  np.testing.assert_allclose(state.mixture_K, expected_K, rtol=1e-6)
  assert np.isfinite(info.alignment_K).all()
  assert world.recipe(method, state, facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(step_size=0.0), "step_size = 0.0 must be above 0"),
    (dict(ema=0.0), "ema 0.0 must be above 0 and at most 1"),
    (dict(every=0), "every = 0 must be at least 1"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    dga.make(**options)


def test_it_orders_a_planted_world_by_alignment_with_the_target():
  # Domains: the target's, noise, a duplicate of the first, the opposite. What
  # opposes the target falls below noise, which agrees with it by chance alone.
  # Duplicates cannot be told apart.
  method = dga.make(step_size=1.0)
  facts = world.facts_of([0.25] * 4, steps=40 * method.every)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  recipe_K = world.recipe(method, states[-1], facts)
  best, noise, copy, opposed = recipe_K
  np.testing.assert_allclose(best, copy, rtol=1e-4)
  assert best > 2 * noise > 3 * opposed
