"""Head alignment: its gradient against autodiff, Adam's steps, planted gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.methods import head_alignment
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

FACTS = world.facts_of([0.5, 0.3, 0.2])
DOT_SK = np.array([[3.0, 1.0, -1.0], [-2.0, 1.0, 1.0], [0.5, 0.1, 0.4]])


def mixtures(method, dot_SK, facts=FACTS):
  """(last state, what it asks for after each observation)."""
  state, asks = method.init(jax.random.key(0), facts), []
  for dot_K in dot_SK:
    signals = Signals(head_dot_K=jnp.asarray(dot_K, jnp.float32))
    state, _ = method.step(state, signals)
    asks.append(np.asarray(method.ask(state).mixture_K))
  return state, asks


def test_the_steps_are_adam_s_on_the_loss_after_one_step_of_the_proxy():
  method = head_alignment.make(learning_rate=0.1)
  state, asks = mixtures(method, DOT_SK)
  # A quadratic target of the output layer, of which a step is exact to first order:
  # -rate * <p, v>, whatever the rate is.
  optimizer = optax.adam(0.1, b1=0.9, b2=0.95, eps=1e-20)
  z_K = jnp.zeros(3)
  adam = optimizer.init(z_K)
  for dot_K, ask_K in zip(DOT_SK, asks, strict=True):
    slope = jax.grad(lambda z, v=dot_K: -1e-2 * jax.nn.softmax(z) @ v)
    update_K, adam = optimizer.update(slope(z_K), adam)
    z_K = jnp.asarray(optax.apply_updates(z_K, update_K))
    np.testing.assert_allclose(ask_K, jax.nn.softmax(z_K), rtol=1e-5)
  np.testing.assert_allclose(
    world.recipe(method, state, FACTS), asks[-1], rtol=1e-5
  )
  mean = head_alignment.make(learning_rate=0.1, output="mean")
  np.testing.assert_allclose(
    world.recipe(mean, state, FACTS), np.mean(asks, axis=0), rtol=1e-5
  )


def test_products_have_no_scale():
  method = head_alignment.make(learning_rate=0.1)
  _, asks = mixtures(method, DOT_SK)
  _, tiny = mixtures(method, 1e-7 * DOT_SK)
  np.testing.assert_allclose(tiny, asks, rtol=1e-3)


def test_what_serves_as_much_as_the_mixture_does_stays():
  _, asks = mixtures(head_alignment.make(), [np.full(3, 2.0)] * 3)
  np.testing.assert_allclose(asks, 1 / 3, rtol=1e-6)


def test_domains_without_documents_stay_without():
  method = head_alignment.make(learning_rate=0.1)
  facts = world.facts_of([0.5, 0.0, 0.3, 0.2])
  state, asks = mixtures(method, np.insert(DOT_SK, 1, np.nan, axis=1), facts)
  _, alone = mixtures(method, DOT_SK)
  np.testing.assert_allclose(np.delete(asks, 1, axis=1), alone, rtol=1e-5)
  assert world.recipe(method, state, facts)[1] == 0


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(learning_rate=0.0), "learning_rate = 0.0 must be above 0"),
    (dict(every=0), "every = 0 must be at least 1"),
    (dict(output="best"), "Unknown output 'best'. Known: last, mean"),
  ],
)
def test_nonsense_is_told(options, message):
  with pytest.raises(ValueError, match=message):
    head_alignment.make(**options)


def test_it_finds_what_serves_the_target_and_does_not_order_the_rest():
  # Adam takes steps of one size: noise and what opposes the target are both below
  # the mixture's mean, and sink alike.
  method = head_alignment.make(learning_rate=0.1)
  facts = world.facts_of([0.25] * 4, steps=40 * method.every)
  states, _, _ = planted.drive(method, facts, planted.PlantedGradients())
  best, noise, copy, opposed = world.recipe(method, states[-1], facts)
  np.testing.assert_allclose(best, copy, rtol=1e-4)
  assert best > 10 * noise
  np.testing.assert_allclose(noise, opposed, rtol=0.1)
