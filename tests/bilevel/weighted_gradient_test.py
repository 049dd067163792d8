"""The primitive against JAX's own derivatives, in value and in both cotangents."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.bilevel.weighted_gradient import InTurns, weighted_gradient


def losses(params, batch):
  """Nonlinear in every parameter; looks up rows by integers."""
  hidden_BH = jnp.tanh(params["table"][batch["row_B"]] * batch["x_B"][:, None])
  return (hidden_BH @ params["second"] - batch["x_B"]) ** 2 / 2


def plain(params, weight_B, batch):
  """The same gradient by reverse mode, differentiable by reverse mode again."""
  return jax.grad(lambda p: jnp.sum(weight_B * losses(p, batch)))(params)


def primitive(params, weight_B, batch):
  return weighted_gradient(losses, params, weight_B, batch)[0]


@pytest.fixture
def case(x64):
  """(params, weight_B, batch with integers, direction like params)."""
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
  params = {"table": draw(4, 3), "second": draw(3)}
  batch = {"row_B": jnp.array([0, 2, 2, 1, 3]), "x_B": draw(5)}
  direction = {"table": draw(4, 3), "second": draw(3)}
  return params, draw(5), batch, direction


def along(function, direction, batch):
  """<direction, function's gradient>: a scalar of parameters and weights."""

  def product(params, weight_B):
    pairs = jax.tree.map(jnp.vdot, function(params, weight_B, batch), direction)
    return sum(jax.tree.leaves(pairs))

  return product


def assert_close(found, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected
  )


def test_value_is_the_gradient_of_the_weighted_sum(case):
  params, weight_B, batch, _ = case
  gradient, loss_B = weighted_gradient(losses, params, weight_B, batch)
  assert_close(gradient, plain(params, weight_B, batch), rtol=1e-12)
  assert_close(loss_B, losses(params, batch), rtol=1e-12)


def test_derivatives_are_those_of_reverse_over_reverse(case):
  params, weight_B, batch, direction = case
  found, expected = (
    jax.jit(jax.grad(along(f, direction, batch), argnums=(0, 1)))(
      params, weight_B
    )
    for f in (primitive, plain)
  )
  assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_derivatives_are_finite_differences(case):
  params, weight_B, batch, direction = case
  product = along(primitive, direction, batch)
  slope_params, slope_B = jax.grad(product, argnums=(0, 1))(params, weight_B)
  rng = np.random.default_rng(1)
  move = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
  move_B = rng.normal(size=5)

  def at(size):
    moved = jax.tree.map(lambda p, m: p + size * m, params, move)
    return product(moved, weight_B + size * move_B)

  step = 1e-5  # truncation of order 1e-10, rounding of 1e-16 / 1e-5
  expected = (at(step) - at(-step)) / (2 * step)
  slope = slope_B @ move_B + sum(
    jax.tree.leaves(jax.tree.map(jnp.vdot, slope_params, move))
  )
  np.testing.assert_allclose(slope, expected, rtol=1e-8)


def test_the_weights_may_depend_on_the_parameters(case):
  params, weight_B, batch, direction = case

  def product(function):
    inner = along(function, direction, batch)
    return lambda p: inner(p, weight_B * jnp.sum(p["second"] ** 2))

  found, expected = (jax.grad(product(f))(params) for f in (primitive, plain))
  assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_no_derivative_flows_through_the_losses(case):
  params, weight_B, batch, _ = case
  slopes = jax.grad(
    lambda p, w: jnp.sum(weighted_gradient(losses, p, w, batch)[1] ** 2),
    argnums=(0, 1),
  )(params, weight_B)
  assert all((np.asarray(x) == 0).all() for x in jax.tree.leaves(slopes))


def test_weights_keep_their_own_precision(case):
  params, weight_B, batch, direction = case
  weight_B = weight_B.astype(jnp.float32)
  slope_B = jax.grad(along(primitive, direction, batch), argnums=1)(
    params, weight_B
  )
  assert slope_B.dtype == jnp.float32
  expected_B = jax.grad(along(plain, direction, batch), argnums=1)(
    params, weight_B.astype(jnp.float64)
  )
  np.testing.assert_allclose(slope_B, expected_B, rtol=1e-6)


@pytest.mark.parametrize("curvature", ["exact", "difference", "none"])
def test_documents_in_turns_change_nothing_but_memory(case, curvature):
  params, weight_B, batch, direction = case
  two = lambda x: jnp.concatenate([x, 0.5 * x]).astype(x.dtype)  # noqa: E731
  weight_B, batch = jax.tree.map(two, (weight_B, batch))

  def found(losses):
    def gradient(params, weight_B, batch):
      return weighted_gradient(
        losses, params, weight_B, batch, curvature=curvature
      )[0]

    product = along(gradient, direction, batch)
    _, loss_B = weighted_gradient(losses, params, weight_B, batch)
    return (
      gradient(params, weight_B, batch),
      loss_B,
      jax.grad(product, argnums=(0, 1))(params, weight_B),
    )

  whole, divided = found(losses), found(InTurns(losses, lambda batch: 2))
  # A difference of gradients has their rounding over its step.
  tolerance = 1e-7 if curvature == "difference" else 1e-12
  assert_close(divided, whole, rtol=tolerance, atol=tolerance)


def test_documents_in_turns_keep_what_one_part_needs():
  """Of the gradient and of its derivative, in the compiled program."""
  rows, width, layers = 1024, 32, 16

  def deep(params, x_BD):
    def layer(x_BD, w_DD):
      return jnp.tanh(x_BD @ w_DD), None

    return jnp.sum(jax.lax.scan(layer, x_BD, params)[0], axis=1)

  w, x_BD = jnp.ones((layers, width, width)), jnp.ones((rows, width))

  def temporary(losses):
    def run(w, weight_B):
      gradient, _ = weighted_gradient(losses, w, weight_B, x_BD)
      return jnp.sum(gradient**2)

    compiled = jax.jit(jax.grad(run)).lower(w, jnp.ones(rows)).compile()
    memory: Any = compiled.memory_analysis()
    return memory.temp_size_in_bytes

  divided = temporary(InTurns(deep, lambda batch: 16))
  assert divided < temporary(deep) / 8
