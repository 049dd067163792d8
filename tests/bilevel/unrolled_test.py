"""Exact hypergradients against brute force, finite differences and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import HYPERGRADS, problem
from cmtree_jax.bilevel.problem import Inner, InnerLoss, Problem
from cmtree_jax.bilevel.training import inner_step
from cmtree_jax.bilevel.unrolled import unrolled
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig

OPTIMIZERS = {
  "adamw": lambda: optax.adamw(0.05, weight_decay=0.1, eps_root=1e-6),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9),
  # Clips at every step; the schedule's rate is zero at the first.
  "clipped": lambda: optax.chain(
    optax.clip_by_global_norm(0.05),
    optax.adamw(
      optax.schedules.warmup_cosine_decay_schedule(0.0, 0.05, 2, 6),
      eps_root=1e-6,
    ),
  ),
  # No derivative passes through the sign, so only the weight decay is left of phi.
  "lion": lambda: optax.lion(0.05, weight_decay=0.1),
  # Orthogonalizes matrices by a polynomial; Adam for the vector.
  "muon": lambda: optax.contrib.muon(0.05),
}
POLICIES = ["none", "steps", "tape", "sqrt"]


def brute_force(toy, theta, offset, phi, optimizer):
  """The outer loss after a Python loop of plain training; and phi."""
  params, opt_state = phi
  for batch in toy.each_batch():
    weight_B = toy.inner_loss.weights(theta, batch)
    gradient = jax.grad(
      lambda p, w=weight_B, b=batch: jnp.sum(w * toy.inner_loss.losses(p, b))
    )(params)
    gradient = jax.tree.map(jnp.add, gradient, offset)
    update, opt_state = optimizer.update(gradient, opt_state, params)
    params = optax.apply_updates(params, update)
  return toy.outer_loss(params, toy.outer_batch), Inner(params, opt_state)


def assert_close(found, expected, **tolerance):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **tolerance), found, expected
  )


@pytest.fixture
def brute(toy):
  """A function of the optimizer: ((loss, phi_next), (grad_theta, adjoint))."""

  def run(optimizer):
    phi = problem.init_inner(toy.params, optimizer)
    zeros = jax.tree.map(jnp.zeros_like, toy.params)
    return jax.jit(
      jax.value_and_grad(
        functools.partial(brute_force, toy, optimizer=optimizer),
        argnums=(0, 1),
        has_aux=True,
      )
    )(toy.theta, zeros, phi)

  return run


@pytest.mark.parametrize(
  ("name", "policy"),
  [(name, "tape") for name in OPTIMIZERS]
  + [("clipped", policy) for policy in POLICIES],
)
def test_it_is_the_gradient_through_a_plain_loop(toy, brute, name, policy):
  (loss, phi_next), (grad_theta, adjoint) = brute(OPTIMIZERS[name]())
  found = toy.run(unrolled, OPTIMIZERS[name](), policy=policy)
  tolerance = dict(rtol=1e-10, atol=1e-13)
  assert_close(found.loss, loss, **tolerance)
  assert_close(found.grad_theta, grad_theta, **tolerance)
  assert_close(found.adjoint, adjoint, **tolerance)
  assert_close(found.phi_next, phi_next, **tolerance)
  if name == "lion":
    assert (np.asarray(found.grad_theta["slope"]) == 0).all()
  else:
    assert np.abs(grad_theta["slope"]).min() > 1e-5


def test_the_next_phi_is_that_of_plain_training(toy):
  optimizer = OPTIMIZERS["adamw"]()
  found = toy.run(unrolled, optimizer)
  phi = problem.init_inner(toy.params, optimizer)
  for number, batch in enumerate(toy.each_batch()):
    weight_B = toy.inner_loss.weights(toy.theta, batch)
    before = phi.params
    phi, loss_B = inner_step(
      toy.inner_loss.losses, weight_B, phi, batch, optimizer=optimizer
    )
    if number == 0:
      assert_close(loss_B, toy.inner_loss.losses(before, batch), rtol=1e-12)
  assert_close(found.phi_next, phi, rtol=1e-12)


def test_the_adjoint_is_the_slope_along_an_offset_of_every_gradient(toy):
  optimizer = OPTIMIZERS["momentum"]()
  rng = np.random.default_rng(1)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape), toy.params)
  found = toy.run(unrolled, optimizer)

  @jax.jit
  def loss_along(size):
    offset = jax.tree.map(lambda x: size * x, direction)
    phi = problem.init_inner(toy.params, optimizer)
    return brute_force(toy, toy.theta, offset, phi, optimizer)[0]

  step = 1e-5  # truncation of order 1e-10, rounding of 1e-16 / 1e-5
  expected = (loss_along(step) - loss_along(-step)) / (2 * step)
  slope = optax.tree.vdot(found.adjoint, direction)
  np.testing.assert_allclose(slope, expected, rtol=1e-8)


def test_along_the_path_every_step_counts(toy):
  optimizer = OPTIMIZERS["adamw"]()

  def objective(theta):
    phi, total = problem.init_inner(toy.params, optimizer), 0.0
    for batch in toy.each_batch():
      weight_B = toy.inner_loss.weights(theta, batch)
      phi, _ = inner_step(
        toy.inner_loss.losses, weight_B, phi, batch, optimizer=optimizer
      )
      total += toy.outer_loss(phi.params, toy.outer_batch)
    return total

  loss, grad_theta = jax.jit(jax.value_and_grad(objective))(toy.theta)
  found = toy.run(unrolled, optimizer, along_path=True)
  assert_close(found.loss, loss, rtol=1e-12)
  assert_close(found.grad_theta, grad_theta, rtol=1e-10)


@pytest.mark.parametrize("num_steps", [1, 5, 16])
def test_quadratic_problem_in_closed_form(x64, num_steps):
  # phi -> phi - lr sum_b theta_b (phi - x_b): a geometric approach to the mean.
  x_B, theta_B = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 0.5, 0.9])
  phi_0, target, rate = jnp.asarray(2.0), 0.7, 0.2
  case = Problem(
    lambda phi, target: (phi - target) ** 2 / 2,
    InnerLoss(
      lambda phi, x_B: (phi - x_B) ** 2 / 2,
      lambda theta_B, _: jnp.tile(theta_B, (num_steps, 1)),
    ),
    theta_B,
    problem.init_inner(phi_0, optax.sgd(rate)),
    jnp.tile(x_B, (num_steps, 1)),
    target,
  )
  found = unrolled(case, optimizer=optax.sgd(rate))
  total = theta_B.sum()
  mean = theta_B @ x_B / total
  shrink = 1 - rate * total
  phi = mean + shrink**num_steps * (phi_0 - mean)
  slope_B = (1 - shrink**num_steps) * (x_B - mean) / total
  slope_B -= rate * num_steps * shrink ** (num_steps - 1) * (phi_0 - mean)
  np.testing.assert_allclose(found.phi_next.params, phi, rtol=1e-12)
  np.testing.assert_allclose(found.loss, (phi - target) ** 2 / 2, rtol=1e-12)
  np.testing.assert_allclose(
    found.grad_theta, (phi - target) * slope_B, rtol=1e-11
  )
  # An offset moves every step by -lr, shrunk by the steps after it.
  shrinks = float(sum(shrink**t for t in range(num_steps)))
  np.testing.assert_allclose(
    found.adjoint, -rate * (phi - target) * shrinks, rtol=1e-11
  )


def test_one_step_of_sgd_is_the_product_of_gradients(toy):
  rate, theta_B = 0.3, jnp.array([0.1, 0.5, 0.2, 0.9, 0.4])
  losses = toy.inner_loss.losses
  toy = toy._replace(
    inner_loss=InnerLoss(losses, lambda theta_B, _: theta_B[None]),
    theta=theta_B,
    batches=jax.tree.map(lambda x: x[:1], toy.batches),
  )
  found = toy.run(unrolled, optax.sgd(rate))
  outer = jax.grad(toy.outer_loss)(found.phi_next.params, toy.outer_batch)
  each_B = jax.jacobian(losses)(toy.params, next(toy.each_batch()))
  product_B = sum(
    jnp.einsum("b...,...->b", a, b)
    for a, b in zip(
      jax.tree.leaves(each_B), jax.tree.leaves(outer), strict=True
    )
  )
  assert_close(found.grad_theta, -rate * product_B, rtol=1e-12)
  assert_close(
    found.adjoint, jax.tree.map(lambda g: -rate * g, outer), rtol=1e-12
  )


def test_what_cannot_reach_the_target_has_exactly_no_gradient(x64):
  # Document b trains row b of a table; the target reads rows 0 and 1.
  rng = np.random.default_rng(0)
  table, goal = jnp.asarray(rng.normal(size=(2, 4, 3)))
  optimizer = OPTIMIZERS["momentum"]()
  case = Problem(
    lambda table, _: jnp.sum(table[:2] ** 2),
    InnerLoss(
      lambda table, goal: jnp.sum((table - goal) ** 2, axis=1),
      lambda theta, _: jnp.tile(theta["w_B"], (4, 1)),
    ),
    {"w_B": jnp.ones(4), "unused": jnp.ones(2)},
    problem.init_inner(table, optimizer),
    jnp.tile(goal, (4, 1, 1)),
    0,
  )
  found = unrolled(case, optimizer=optimizer)
  assert (np.asarray(found.grad_theta["w_B"][2:]) == 0).all()
  assert (np.abs(found.grad_theta["w_B"][:2]) > 1e-3).all()
  assert (np.asarray(found.grad_theta["unused"]) == 0).all()
  assert (np.asarray(found.adjoint[2:]) == 0).all()


@pytest.mark.parametrize("name", HYPERGRADS)
def test_the_weight_of_padding_has_exactly_no_gradient(toy, name):
  keep_B = jnp.array([True, False, True, True, False])
  losses = toy.inner_loss.losses
  toy = toy._replace(
    inner_loss=InnerLoss(
      lambda params, batch: jnp.where(keep_B, losses(params, batch), 0.0),
      lambda theta_B, _: jnp.tile(theta_B, (6, 1)),
    ),
    theta=jnp.ones(5),
  )
  options = {"window": 2} if name == "truncated" else {}
  found = toy.run(HYPERGRADS[name].run, OPTIMIZERS["adamw"](), **options)
  np.testing.assert_array_equal(found.grad_theta != 0, keep_B)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_the_number_of_segments_does_not_matter(toy, num_steps):
  toy = toy._replace(batches=jax.tree.map(lambda x: x[:num_steps], toy.batches))
  tape, steps = (
    toy.run(unrolled, OPTIMIZERS["momentum"](), policy=policy)
    for policy in ("tape", "steps")
  )
  assert_close(tape.grad_theta, steps.grad_theta, rtol=1e-12)


def test_optimizers_without_a_derivative_are_refused():
  problem.check_optimizer(optax.adamw(0.1, eps_root=1e-8))
  with pytest.raises(ValueError, match="needs? eps_root above 0"):
    problem.check_optimizer(optax.adamw(0.1))


def test_a_tiny_transformer_by_finite_differences(x64):
  # Theta weighs documents by the tokens that they start with.
  rng = np.random.default_rng(0)
  proxy = Proxy(
    ProxyConfig(vocab_size=11, width=8, layers=1, heads=2, dtype="float64")
  )
  token_losses = proxy_loss.token_losses(proxy)

  def rows(*shape):
    tokens = rng.integers(0, 11, (*shape, 7))
    zeros = np.zeros((*shape, 6), np.int64)
    return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)

  def mean_loss(params, batch):
    return jnp.mean(token_losses(params, batch).astype(jnp.float64))

  inner = InnerLoss(
    lambda params, batch: jnp.mean(token_losses(params, batch), axis=1),
    lambda theta, batch: jnp.exp(theta[batch.tokens_BT[..., 0]]),
  )
  params = jax.tree.map(
    lambda x: x.astype(jnp.float64), proxy_loss.init(proxy, jax.random.key(0))
  )
  optimizer = optax.adamw(0.05, eps_root=1e-2)
  phi = problem.init_inner(params, optimizer)
  theta_V = jnp.asarray(rng.normal(size=11))
  batches, outer_batch = rows(4, 3), rows(5)

  @jax.jit
  def loss_at(theta_V):
    phi_next, _ = jax.lax.scan(
      lambda phi, batch: inner_step(
        inner.losses,
        inner.weights(theta_V, batch),
        phi,
        batch,
        optimizer=optimizer,
      ),
      phi,
      batches,
    )
    return mean_loss(phi_next.params, outer_batch)

  found = jax.jit(
    lambda theta_V: unrolled(
      Problem(mean_loss, inner, theta_V, phi, batches, outer_batch),
      optimizer=optimizer,
    )
  )(theta_V)
  size = jnp.linalg.norm(found.grad_theta)
  direction_V = found.grad_theta / size

  def difference(step):
    ends = (loss_at(theta_V + sign * step * direction_V) for sign in (1, -1))
    return (next(ends) - next(ends)) / (2 * step)

  # The proxy's logits and attention are float32 whatever it computes in, so the
  # mean loss is known to some 3e-8: steps must be large, and two extrapolations
  # remove their truncation up to the sixth order. 3e-8 / 0.05 / |grad| = 1e-5.
  h, half, quarter = (difference(0.2 / 2**k) for k in range(3))
  expected = (64 * quarter - 20 * half + h) / 45
  assert size > 0.05
  np.testing.assert_allclose(size, expected, rtol=5e-5)
