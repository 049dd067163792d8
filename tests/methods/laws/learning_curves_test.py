"""Learning curves: planted laws, and the smoothing against scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from cmtree_jax.methods.laws import learning_curves

LAWS = learning_curves.Law(
  a=np.array([1.5, -2.0, 1.5, 0.5]),
  e=np.array([0.7, 1.6, 0.7, 1.2]),
  alpha=np.array([0.3, 0.2, 0.3, 0.5]),
)


def test_planted_laws_are_recovered():
  n_N = 1.0 + 10 * np.arange(40)
  loss_NK = np.array(learning_curves.predict(LAWS, n_N[:, None]))
  loss_NK[:4] = 99.0  # not used
  loss_NK = np.column_stack([loss_NK, np.full(40, np.nan)])
  law = jax.jit(
    lambda loss_NK: learning_curves.fit_laws(
      loss_NK,
      jnp.asarray(n_N),
      jnp.arange(40) >= 4,
      starts=learning_curves.grid(4),
      num_steps=100,
    )
  )(jnp.asarray(loss_NK))
  assert np.isnan(law.e[4])  # rejected by whoever asks
  # The second falls by .04 nats in all, so only its level can be known.
  for domain in (0, 2, 3):
    for found_K, planted_K in zip(law, LAWS, strict=True):
      assert abs(found_K[domain] - planted_K[domain]) < 0.02
  found_NK = learning_curves.predict(
    jax.tree.map(lambda x: x[:4], law), n_N[4:, None]
  )
  np.testing.assert_allclose(found_NK, loss_NK[4:, :4], rtol=1e-3)


@pytest.mark.parametrize("count", [11, 25, 40])
def test_the_smoothing_is_that_of_scipy(x64, count):
  loss_NK = np.random.default_rng(0).normal(3, 1, (40, 2))
  found_NK = learning_curves.smooth(loss_NK, count, width=11)
  expected_NK = np.asarray(signal.savgol_filter(loss_NK[:count], 11, 3, axis=0))
  np.testing.assert_allclose(found_NK[:count], expected_NK, rtol=1e-9)


def test_the_grid_has_512_starts_of_the_published_ranges():
  starts = learning_curves.grid()
  assert starts.a.shape == (512,)
  for found, least, most in [
    (starts.a, -2, 5),
    (starts.e, -2, 1.5),
    (starts.alpha, 0, 0.7),
  ]:
    np.testing.assert_allclose((found.min(), found.max()), (least, most))
  assert learning_curves.grid(4).a.shape == (8,)


def test_laws_in_closed_form_are_those_of_their_grid():
  planted = learning_curves.Law(
    a=np.log([3.0, 2.0, 1.0]),
    e=np.log([2.0, 1.0, 1e-9]),
    alpha=np.array([0.5, 1.2, 0.1]),
  )
  n_N = 1.0 + 10 * np.arange(30)
  loss_NK = np.asarray(learning_curves.predict(planted, n_N[:, None]))
  rising_N = 3 + 0.01 * np.arange(30)
  loss_NK = np.column_stack([loss_NK, rising_N])
  loss_NK[:2] = 99.0  # not used
  law = learning_curves.closed_form_laws(
    jnp.asarray(loss_NK), jnp.asarray(n_N), jnp.arange(30) >= 2
  )
  np.testing.assert_allclose(law.alpha[:3], planted.alpha, rtol=1e-5)
  np.testing.assert_allclose(
    learning_curves.predict(law, 1000.0),
    [2 + 3 * 1000**-0.5, 1 + 2 * 1000**-1.2, 1000**-0.1, rising_N[2:].mean()],
    rtol=2e-3,
  )


def test_no_law_in_closed_form_falls_below_zero():
  n_N = 1.0 + np.arange(10)
  loss_N = n_N**-3.0  # steeper than the grid
  law = learning_curves.closed_form_laws(
    jnp.asarray(loss_N)[:, None], jnp.asarray(n_N), n_N > 0
  )
  x_N = n_N ** -float(law.alpha[0])
  np.testing.assert_allclose(np.exp(law.e), 0, atol=1e-6)
  np.testing.assert_allclose(
    np.exp(law.a), x_N @ loss_N / (x_N @ x_N), rtol=1e-4
  )
