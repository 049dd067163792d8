"""DoGE and DGA follow the hypergradient through one small step of SGD."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import one_step, problem
from cmtree_jax.bilevel.problem import InnerLoss, Problem
from cmtree_jax.methods import dga, doge
from cmtree_jax.methods.base import Signals
from cmtree_jax.signals import gradients as domain_gradients
from tests.methods.world import facts_of

K, B, D, H, C = 4, 3, 5, 6, 2
FACTS = facts_of([0.25] * K)


def losses(params, batch):
  """A network with one hidden layer; the loss of every output, [B, 2]."""
  hidden_BH = jnp.tanh(batch["x_BD"] @ params["first"])
  return (hidden_BH @ params["second"] - batch["y_BT"]) ** 2 / 2


@pytest.fixture(scope="module")
def world():
  """(params, domains [K, B], target [C, B])."""
  rng = np.random.default_rng(0)

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  params = {"first": draw(D, H), "second": draw(H, 2)}
  domains = {"x_BD": draw(K, B, D), "y_BT": draw(K, B, 2)}
  return params, domains, {"x_BD": draw(C, B, D), "y_BT": draw(C, B, 2)}


def hypergradient(world, rate):
  """d target loss after a step of SGD / d alpha, per unit of the rate."""
  params, domains, target = world
  rows = jax.tree.map(lambda x: x.reshape(1, K * B, -1), domains)
  flat = jax.tree.map(lambda x: x.reshape(C * B, -1), target)

  def weights(alpha_K, batches):
    # alpha times the mean over a domain's tokens.
    size = batches["y_BT"].shape
    return jnp.broadcast_to(jnp.repeat(alpha_K, B)[:, None] / B / 2, size)

  optimizer = optax.sgd(rate)
  case = Problem(
    lambda params, batch: jnp.mean(losses(params, batch)),
    InnerLoss(losses, weights),
    jnp.full(K, 1 / K),
    problem.init_inner(params, optimizer),
    rows,
    flat,
  )
  return one_step(case, optimizer=optimizer, step_size=1.0).grad_theta


def signals_of(world):
  params, domains, target = world
  weight_CBT = jnp.full((C, B, 2), 1 / C / B / 2)
  found = domain_gradients.gradient_products(
    losses,
    params,
    domains,
    jnp.ones((K, B, 2)),
    target=(target, weight_CBT),
  )
  return Signals(gram_KK=found.gram_KK, target_dot_K=found.target_dot_K)


def log_steps(method, signals):
  """What one observation adds to log alpha, up to a constant."""
  state, _ = method.step(method.init(jax.random.key(0), FACTS), signals)
  return np.log(np.asarray(state.mixture_K, np.float64) * K)


def test_products_are_the_limit_of_the_hypergradient(world):
  exact_K = -signals_of(world).target_dot_K
  scale = np.abs(exact_K).max()
  np.testing.assert_allclose(
    hypergradient(world, 1e-7), exact_K, atol=1e-5 * scale
  )
  # It is a limit: the error is of the first order in the rate.
  two, one = (
    np.abs(hypergradient(world, rate) - exact_K).max() / scale
    for rate in (2e-3, 1e-3)
  )
  assert one > 1e-3
  np.testing.assert_allclose(two / one, 2.0, rtol=0.1)


def test_dga_steps_along_minus_the_hypergradient(world):
  step_K = log_steps(dga.make(step_size=0.1, ema=1.0), signals_of(world))
  down_K = -0.1 * np.asarray(hypergradient(world, 1e-7))
  np.testing.assert_allclose(
    step_K - step_K.mean(),
    down_K - down_K.mean(),
    atol=1e-5 * np.abs(down_K).max(),
  )


def test_doge_steps_along_minus_the_hypergradient_where_that_is_a_gain(world):
  # Neither clip binds but that at zero.
  method = doge.make(learning_rate=0.1, mu=1.0, clip_norm=1e6, max_score=1e6)
  signals = signals_of(world)
  step_K = log_steps(method, signals)
  mean_norm = np.sqrt(np.diag(signals.gram_KK)).mean()
  down_K = -0.1 * np.asarray(hypergradient(world, 1e-7)) / mean_norm
  assert (down_K > 0).sum() >= 2 and (down_K < 0).any()
  gain_K = np.maximum(down_K, 0)
  np.testing.assert_allclose(
    step_K - step_K.min(), gain_K, atol=1e-5 * gain_K.max()
  )
