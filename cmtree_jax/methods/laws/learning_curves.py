"""Learning curves: how to smooth them, and the scaling laws that they follow.

All of it can be compiled, so that laws are fitted while a run goes on.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax import shapes
from cmtree_jax.methods.laws import fitting

ORDER = 3  # degree of the smoothing polynomials


class Law(NamedTuple):
  """A domain's scaling law exp(e) + exp(a) / n^alpha; arrays of any shape."""

  a: shapes.Array
  e: shapes.Array
  alpha: shapes.Array


def predict(law: Law, n: shapes.Array) -> shapes.Array:
  """The law's loss after n steps."""
  return jnp.exp(law.e) + jnp.exp(law.a) * n**-law.alpha


def grid(thin: int = 1) -> Law:
  """The starts of a fit, 512 without thinning."""
  axes = np.meshgrid(
    np.arange(-2.0, 6.0)[::thin],
    np.arange(-2.0, 2.0, 0.5)[::thin],
    np.arange(8)[::thin] / 10,
    indexing="ij",
  )
  return Law(*(jnp.asarray(axis.ravel(), float) for axis in axes))


def fit_laws(
  loss_NK: shapes.Array,
  n_N: shapes.Array,
  is_used_N: shapes.Array,
  *,
  starts: Law,
  num_steps: int = 200,
  least_e: float = 0.5,
) -> Law:
  """The laws of the domains' losses, which minimize Huber losses of logarithms.

  Args:
    loss_NK: smoothed losses.
    n_N: steps at which they were observed.
    is_used_N: which of the observations count.
    starts: where L-BFGS starts, see `grid`.
    num_steps: L-BFGS steps.
    least_e: below it a hinge penalizes e.
  Returns:
    A law for each domain; NaN where no start has a finite end.
  References:
    Jiang et al., `Adaptive Data Optimization
    <https://arxiv.org/abs/2410.11820>`_, 2024, section 3.
  """

  def fit_law(loss_N):
    log_loss_N = jnp.log(jnp.where(is_used_N, loss_N, 1.0))

    def cost(law):
      log_n_N = jnp.log(n_N)
      log_law_N = jnp.logaddexp(law.a - law.alpha * log_n_N, law.e)
      huber_N = optax.losses.huber_loss(log_law_N, log_loss_N, delta=1e-3)
      return (
        jnp.sum(jnp.where(is_used_N, huber_N, 0.0))
        + jnp.maximum(law.alpha - 0.8, 0)
        + jnp.maximum(1e-3 - law.alpha, 0)
        + jnp.maximum(law.a - 6.5, 0)
        + jnp.maximum(least_e - law.e, 0)
      )

    found = fitting.fit(cost, starts, num_steps=num_steps)
    is_good = jnp.isfinite(found.loss)
    return jax.tree.map(lambda x: jnp.where(is_good, x, jnp.nan), found.params)

  return jax.vmap(fit_law, in_axes=1)(loss_NK)


def closed_form_laws(
  loss_NK: shapes.Array, n_N: shapes.Array, is_used_N: shapes.Array
) -> Law:
  """The laws of the least squared error, with one of 15 exponents, .1 to 1.5.

  For a given exponent the rest is a regression on one number, so a fit costs next to
  nothing and never fails; it is coarser than `fit_laws`. Where a loss does not fall,
  its law is its mean.

  Args:
    loss_NK: losses.
    n_N: steps at which they were observed, from one on.
    is_used_N: which of the observations count; at least one.
  """
  used_N1 = jnp.asarray(is_used_N, float)[:, None]

  def mean(x_NK):
    return jnp.sum(used_N1 * x_NK, axis=0) / jnp.sum(used_N1)

  def fit(alpha):
    x_N1 = (n_N**-alpha)[:, None]
    x_1, loss_K = mean(x_N1), mean(loss_NK)
    spread_1 = jnp.maximum(mean((x_N1 - x_1) ** 2), 1e-12)
    c_K = mean((x_N1 - x_1) * (loss_NK - loss_K)) / spread_1
    e_K = loss_K - jnp.maximum(c_K, 0) * x_1
    # No loss falls below zero: the best law through it then.
    through_K = mean(x_N1 * loss_NK) / mean(x_N1**2)
    c_K = jnp.where(e_K < 0, through_K, jnp.maximum(c_K, 0))
    e_K = jnp.maximum(e_K, 0)
    return e_K, c_K, mean((loss_NK - e_K - c_K * x_N1) ** 2)

  alpha_A = jnp.arange(1, 16) / 10
  e_AK, c_AK, error_AK = jax.vmap(fit)(alpha_A)
  best_1K = jnp.argmin(error_AK, axis=0)[None]
  e_K, c_K = (jnp.take_along_axis(x, best_1K, 0)[0] for x in (e_AK, c_AK))
  # Laws have logarithms; what is next to zero stands for zero.
  return Law(
    a=jnp.log(jnp.maximum(c_K, 1e-9)),
    e=jnp.log(jnp.maximum(e_K, 1e-9)),
    alpha=alpha_A[best_1K[0]],
  )


def smooth(
  loss_NK: shapes.Array, count: shapes.Array | int, *, width: int
) -> shapes.Array:
  """Savitzky-Golay: each of the first `count` rows from a cubic around it.

  The first and last half windows are read off the first and last cubic. The rows
  from `count` on mean nothing.

  Args:
    loss_NK: rows in time.
    count: at least `width`.
    width: odd; one leaves the rows as they are.
  Returns:
    As large as loss_NK.
  """
  if width == 1:
    return loss_NK
  powers = np.vander(np.linspace(-1, 1, width), ORDER + 1)
  project_WW = jnp.asarray(powers @ np.linalg.pinv(powers), float)
  row_N = jnp.arange(len(loss_NK))
  first_N = jnp.clip(row_N - width // 2, 0, count - width)
  window_NWK = loss_NK[first_N[:, None] + jnp.arange(width)]
  place_N = jnp.minimum(row_N - first_N, width - 1)
  return jnp.einsum("nw,nwk->nk", project_WW[place_N], window_NWK)


def odd_window(window: int, length: int) -> int:
  """A window for a short run: odd, at most half of it, or one where none helps."""
  half = length // 2
  width = min(window, half - (half % 2 == 0))
  return width if width > ORDER + 1 else 1
