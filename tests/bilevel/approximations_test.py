"""The cheaper estimators: each where it is exact, and how far off elsewhere."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import (
  cg,
  first_order,
  neumann,
  one_step,
  problem,
  truncated,
  unrolled,
)
from cmtree_jax.bilevel import difference as difference_
from cmtree_jax.bilevel.problem import InnerLoss, Problem
from cmtree_jax.bilevel.weighted_gradient import RELATIVE_STEP

ADAMW = optax.adamw(0.05, weight_decay=0.1, eps_root=1e-6)


def relative_error(found, exact) -> float:
  off = jax.tree.map(jnp.subtract, found, exact)
  return float(optax.tree.norm(off) / optax.tree.norm(exact))


def assert_close(found, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected
  )


def test_a_difference_is_off_by_about_its_step(toy):
  exact = toy.run(unrolled, ADAMW)
  found = toy.run(difference_, ADAMW)
  assert_close(found.loss, exact.loss, rtol=1e-14)
  assert_close(found.phi_next, exact.phi_next, rtol=1e-14)
  # Truncation is first order in the relative step: not nil, and not far off.
  error = relative_error(found.grad_theta, exact.grad_theta)
  assert 1e-3 * RELATIVE_STEP < error < 30 * RELATIVE_STEP


def test_a_difference_along_nothing_is_zero(toy):
  # The target reads no parameter, so every cotangent is zero.
  kind: Any = type(toy)

  class Blind(kind):
    @staticmethod
    def outer_loss(params, batch):
      del params
      return jnp.mean(batch["y_B"])

  found = Blind(*toy).run(difference_, ADAMW)
  assert all(
    (np.asarray(x) == 0).all() for x in jax.tree.leaves(found.grad_theta)
  )


def test_first_order_is_exact_without_curvature(toy):
  # Linear losses have no Hessian; the optimizer's states are followed all the same.
  linear = toy._replace(
    inner_loss=InnerLoss(
      lambda params, batch: (
        batch["x_BD"] @ params["first"].sum(axis=1)
        + batch["y_B"] * params["second"].sum()
      ),
      toy.inner_loss.weights,
    )
  )
  exact = linear.run(unrolled, ADAMW)
  assert_close(
    linear.run(first_order, ADAMW).grad_theta, exact.grad_theta, rtol=1e-12
  )
  curved = toy.run(unrolled, ADAMW).grad_theta
  assert relative_error(toy.run(first_order, ADAMW).grad_theta, curved) > 1e-3


def test_one_window_of_all_steps_is_exact(toy):
  exact = toy.run(unrolled, ADAMW)
  found = toy.run(truncated, ADAMW, window=6)
  assert_close(found, exact, rtol=1e-12)


def test_windows_add_up_their_own_hypergradients(toy):
  found = toy.run(truncated, ADAMW, window=2)
  phi, total = problem.init_inner(toy.params, ADAMW), 0.0
  for begin in (0, 2, 4):
    case = Problem(
      toy.outer_loss,
      toy.inner_loss,
      toy.theta,
      phi,
      jax.tree.map(lambda x, b=begin: x[b : b + 2], toy.batches),
      toy.outer_batch,
    )
    part = unrolled(case, optimizer=ADAMW)
    phi = part.phi_next
    total = optax.tree.add(total, part.grad_theta) if begin else part.grad_theta
  assert_close(found.grad_theta, total, rtol=1e-12)
  assert_close(found.loss, part.loss, rtol=1e-12)
  assert_close(found.phi_next, phi, rtol=1e-12)


def test_windows_must_divide_the_steps(toy):
  with pytest.raises(ValueError, match="6 inner steps .* window = 4"):
    toy.run(truncated, ADAMW, window=4)


def test_one_step_is_one_unrolled_step_of_sgd(toy):
  rate = 0.3
  toy = toy._replace(batches=jax.tree.map(lambda x: x[:1], toy.batches))
  exact = toy.run(unrolled, optax.sgd(rate))
  found = toy.run(one_step, optax.sgd(rate), step_size=rate)
  assert_close(found, exact, rtol=1e-12)


def test_one_step_is_the_sum_of_windows_of_one_step_of_sgd(toy):
  rate = 0.3
  windows = toy.run(truncated, optax.sgd(rate), window=1)
  found = toy.run(one_step, optax.sgd(rate), step_size=rate)
  assert_close(found, windows, rtol=1e-12)


@pytest.fixture
def at_minimum(x64):
  """A weighted least-squares fit, started at its minimum; every step sees it all.

  Gives a function of (estimator, number of steps, options).
  """
  rng = np.random.default_rng(0)
  x_ND, y_N = (
    jnp.asarray(rng.normal(size=(9, 3))),
    jnp.asarray(rng.normal(size=9)),
  )
  theta_N = jnp.asarray(rng.uniform(0.5, 1.5, 9))
  goal_D = jnp.asarray(rng.normal(size=3))

  def minimum(theta_N):
    hessian = jnp.einsum("n,nd,ne->de", theta_N, x_ND, x_ND)
    return jnp.linalg.solve(hessian, (theta_N * y_N) @ x_ND)

  def outer_loss(params, goal_D):
    return jnp.sum((params - goal_D) ** 2)

  def run(estimator, num_steps, **options):
    optimizer = optax.sgd(options.pop("rate", 0.05))
    batches = x_ND, y_N
    case = Problem(
      outer_loss,
      InnerLoss(
        lambda params, batch: (batch[0] @ params - batch[1]) ** 2 / 2,
        lambda theta_N, _: jnp.tile(theta_N, (num_steps, 1)),
      ),
      theta_N,
      problem.init_inner(minimum(theta_N), optimizer),
      jax.tree.map(
        lambda x: jnp.tile(x, (num_steps,) + (1,) * x.ndim), batches
      ),
      goal_D,
    )
    return estimator(case, optimizer=optimizer, **options).grad_theta

  exact = jax.grad(lambda theta: outer_loss(minimum(theta), goal_D))(theta_N)
  return run, exact


def test_a_neumann_series_is_unrolled_descent_at_the_minimum(at_minimum):
  run, _ = at_minimum
  np.testing.assert_allclose(
    run(neumann, 1, terms=7, step_size=0.05), run(unrolled, 7), rtol=1e-10
  )


def test_implicit_hypergradients_are_those_of_the_minimum(at_minimum):
  run, exact = at_minimum
  np.testing.assert_allclose(
    run(neumann, 2, terms=4000, step_size=0.05), exact, rtol=1e-9
  )
  # Three unknowns: three conjugate directions.
  np.testing.assert_allclose(
    run(cg, 2, iterations=3, damping=0.0), exact, rtol=1e-9
  )
  damped = run(cg, 2, iterations=3, damping=1.0)
  assert np.linalg.norm(damped) < np.linalg.norm(exact)


def test_what_approximates_follows_the_path_too(toy):
  exact = toy.run(unrolled, ADAMW, along_path=True)
  found = toy.run(difference_, ADAMW, along_path=True)
  assert_close(found.loss, exact.loss, rtol=1e-14)
  assert relative_error(found.grad_theta, exact.grad_theta) < (
    30 * RELATIVE_STEP
  )
  rough = toy.run(first_order, ADAMW, along_path=True)
  assert_close(rough.loss, exact.loss, rtol=1e-14)
  at_end = toy.run(unrolled, ADAMW)
  # The part without curvature is most of it, and not that of the loss at the end.
  assert relative_error(rough.grad_theta, exact.grad_theta) < relative_error(
    at_end.grad_theta, exact.grad_theta
  )
