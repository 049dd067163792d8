"""R&B: its softmax on a given Gram matrix, its limits, and planted gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import rnb
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

GRAM_KK = np.array([[2.0, 1.0, 0.0], [1.0, 1.0, -1.0], [0.0, -1.0, 3.0]])
# Two targets, whose mean is a half, a half, nothing.
TARGET_TK = [[0.6, 0.4, 0.0], [0.4, 0.6, 0.0]]
FACTS = world.facts_of([0.5, 0.3, 0.2], TARGET_TK)


def mixtures(method, grams, facts=FACTS):
  """(last state, what it asks for after each observation)."""
  state, asks = method.init(jax.random.key(0), facts), []
  for gram_KK in grams:
    signals = Signals(head_gram_KK=jnp.asarray(gram_KK, jnp.float32))
    state, _ = method.step(state, signals)
    asks.append(np.asarray(method.ask(state).mixture_K))
  return state, asks


def test_the_softmax_on_a_given_gram_matrix():
  method = rnb.make()
  state, asks = mixtures(method, [GRAM_KK, GRAM_KK])
  np.testing.assert_allclose(asks[0], 1 / 3, rtol=1e-6)  # the first round
  # G p = (1.5, 1, -.5), whose norm is sqrt(3.5); lambda = 3.
  expected_K = np.exp(3 * np.array([1.5, 1.0, -0.5]) / np.sqrt(3.5))
  expected_K /= expected_K.sum()
  np.testing.assert_allclose(
    expected_K, [0.671591, 0.301228, 0.027181], rtol=1e-5
  )
  np.testing.assert_allclose(asks[1], expected_K, rtol=1e-5)
  np.testing.assert_allclose(
    world.recipe(method, state, FACTS),
    (1 / 3 + expected_K) / 2,
    rtol=1e-5,
  )
  np.testing.assert_allclose(
    world.recipe(rnb.make(output="last"), state, FACTS),
    expected_K,
    rtol=1e-5,
  )


def test_shares_are_refreshed_and_have_no_scale():
  _, asks = mixtures(rnb.make(), [GRAM_KK] * 4)
  _, scaled = mixtures(rnb.make(), [1e-6 * GRAM_KK] * 4)
  np.testing.assert_allclose(asks[3], asks[1], rtol=1e-6)
  np.testing.assert_allclose(scaled, asks, rtol=1e-4)


def test_where_nothing_serves_the_evaluation_the_last_mixture_stays():
  nothing_KK = np.diag([0.0, 0.0, 3.0])  # only the domain without evaluation
  _, asks = mixtures(rnb.make(), [nothing_KK, nothing_KK, GRAM_KK, nothing_KK])
  np.testing.assert_allclose(asks[1], 1 / 3, rtol=1e-6)
  assert asks[2][0] > 0.6
  np.testing.assert_array_equal(asks[3], asks[2])


def test_domains_without_documents_stay_without():
  # Half of the evaluation falls into a domain that cannot be trained on.
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2], [[0.25, 0.5, 0.25, 0.0]])
  gram_KK = np.insert(np.insert(GRAM_KK, 1, np.nan, axis=0), 1, np.nan, axis=1)
  method = rnb.make()
  state, asks = mixtures(method, [gram_KK, gram_KK], facts)
  _, without = mixtures(method, [GRAM_KK, GRAM_KK])
  assert [ask[1] for ask in asks] == [0, 0]
  np.testing.assert_allclose(np.delete(asks, 1, axis=1), without, rtol=1e-5)
  assert world.recipe(method, state, facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(strength=0.0), "strength = 0.0 must be above 0"),
    (dict(every=0), "every = 0 must be at least 1"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    rnb.make(**options)


def test_it_orders_a_planted_world_by_what_serves_the_evaluation():
  # Domains: the evaluation's, noise, a duplicate of the first into which no
  # evaluation falls, the opposite. The duplicate is found by its gradient.
  method = rnb.make()
  facts = world.facts_of([0.25] * 4, [[1.0, 0, 0, 0]], steps=15 * method.every)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  recipe_K = world.recipe(method, states[-1], facts)
  best, noise, copy, opposed = recipe_K
  np.testing.assert_allclose(best, copy, rtol=1e-4)
  assert best > 2 * noise > 3 * opposed
