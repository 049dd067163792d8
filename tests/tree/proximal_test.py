"""The proximal step: on a linear gain, whose optimum is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.tree import proximal

SLOPE = np.array([0.6, -0.8])  # of the gain; of length one
TRUST = 0.2  # nats


def linear(theta, key=None, *, slope=SLOPE):
  """(cost, KL divergence): a gain of slope * theta, half the squared distance."""
  del key
  return -slope @ theta, jnp.sum(theta**2) / 2


@jax.jit
def solve(step_size, scale=1.0):
  objective = functools.partial(linear, slope=scale * SLOPE)
  return proximal.solve(
    objective,
    objective,
    jnp.zeros(2),
    jax.random.key(0),
    optimizer=optax.adam(0.05),
    num_steps=80,
    step_size=step_size,
    trust=TRUST,
  )


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_step_of_unknown_size_goes_as_far_as_it_is_trusted(scale):
  theta = solve(0.0, scale)
  # An iterate may be a fifth above the bound; no other goes further uphill.
  kl = np.sum(theta**2) / 2
  assert kl <= 1.2 * TRUST
  most = np.sqrt(2 * 1.2 * TRUST)
  gain = SLOPE @ theta
  assert 0.85 * most < gain <= most  # Adam starts along the diagonal
  # At the bound the slope is beta times the distance, and eta is 1 / beta.
  eta = proximal.step_size(scale * gain, kl, trust=TRUST)
  assert 0.9 < eta / (np.sqrt(2 * TRUST) / scale) < 1.1
  # A step of that size goes as far again; and a short one tells the same size.
  again = solve(eta, scale)
  np.testing.assert_allclose(np.sum(again**2) / 2, TRUST, rtol=0.2)
  short = proximal.step_size(scale * gain / 10, kl / 100, trust=TRUST)
  np.testing.assert_allclose(short, eta, rtol=1e-5)


def test_a_step_without_a_gain_has_no_size():
  for gain in (-0.1, 0.0):
    found = proximal.step_size(np.float32(gain), np.float32(0.2), trust=TRUST)
    assert found == 0


def test_a_known_step_size_is_obeyed_where_it_is_within_the_trust_region():
  np.testing.assert_allclose(solve(0.3), 0.3 * SLOPE, atol=0.01)


def test_a_known_step_size_gives_way_to_the_trust_region():
  theta = solve(5.0)
  assert 0.9 <= np.sum(theta**2) / 2 / TRUST <= 1.2


def test_what_is_held_out_chooses_among_the_iterates():
  # It says that every step uphill is a loss: the first is the least of them.
  theta = proximal.solve(
    linear,
    functools.partial(linear, slope=-SLOPE),
    jnp.zeros(2),
    jax.random.key(0),
    optimizer=optax.adam(0.02),
    num_steps=50,
    step_size=jnp.float32(0.0),
    trust=100.0,
  )
  np.testing.assert_allclose(theta, 0.02 * np.sign(SLOPE), rtol=1e-3)
