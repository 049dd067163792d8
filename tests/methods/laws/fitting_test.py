"""The lowest of many descents wins, and none that breaks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from cmtree_jax.methods.laws.fitting import fit


def two_valleys(x):
  return (x**2 - 4) ** 2 + x  # the deeper one is left of zero


def test_the_deeper_valley_wins_whatever_the_order():
  deep = scipy.optimize.brentq(lambda x: 4 * x * (x**2 - 4) + 1, -2.2, -1.8)
  for starts in ([3.0, -3.0], [-3.0, 3.0]):
    found = fit(two_valleys, jnp.array(starts), num_steps=20)
    np.testing.assert_allclose(found.params, deep, rtol=1e-4)
    np.testing.assert_allclose(found.loss, two_valleys(deep), rtol=1e-5)
  found = fit(two_valleys, jnp.array([3.0]), num_steps=20)
  assert found.params > 0


@pytest.mark.parametrize("broken", [jnp.nan, jnp.inf])
def test_starts_without_a_finite_loss_are_rejected(broken):
  starts = {"x": jnp.array([broken, 3.0])}
  found = fit(lambda p: two_valleys(p["x"]), starts, num_steps=20)
  assert 1.9 < found.params["x"] < 2.1
  assert jnp.isfinite(found.loss)
  none = fit(two_valleys, jnp.array([broken, broken]), num_steps=2)
  assert none.loss == jnp.inf


def test_a_start_that_breaks_on_the_way_keeps_what_it_had():
  # Defined above 1 alone, and falling towards it.
  def edge(x):
    return jnp.where(x > 1, jnp.sqrt(x - 1), jnp.nan)

  found = fit(edge, jnp.array([3.0]), num_steps=20)
  assert jnp.isfinite(found.loss)
  assert 1 < found.params <= 3


def test_rosenbrock_of_vectors_under_jit_and_vmap():
  def rosenbrock(params, top):
    x, y = params["xy"]
    return (top - x) ** 2 + 100 * (y - x**2) ** 2

  starts = {"xy": jnp.array([[-1.2, 1.0], [0.0, 0.0]])}
  found = jax.jit(
    jax.vmap(
      lambda top: fit(lambda p: rosenbrock(p, top), starts, num_steps=60)
    )
  )(jnp.array([1.0, 2.0]))
  np.testing.assert_allclose(
    found.params["xy"], [[1.0, 1.0], [2.0, 4.0]], rtol=1e-3
  )
