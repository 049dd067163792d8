"""Values: against inner products, and the engine's against changes of weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import values
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy.model import ProxyConfig

S, B, T = 4, 3, 6
CONFIG = ProxyConfig(vocab_size=11, width=8, layers=1, heads=2)


def test_a_value_is_minus_the_product_of_gradient_and_adjoint(x64):
  rng = np.random.default_rng(0)
  params, adjoint = jnp.asarray(rng.normal(size=(2, 4)))
  batch = jnp.asarray(rng.normal(size=(5, 4)))
  losses = lambda params, batch: jnp.tanh(batch @ params) ** 2  # noqa: E731
  loss_B, value_B = values.probe(losses, params, adjoint, batch)
  each_BD = jax.jacobian(losses)(params, batch)
  np.testing.assert_allclose(loss_B, losses(params, batch), rtol=1e-14)
  np.testing.assert_allclose(value_B, -each_BD @ adjoint, rtol=1e-12)


def rows(rng, *shape):
  """Random rows; each is one document."""
  tokens = rng.integers(0, 11, (*shape, T + 1)).astype(np.int32)
  number = np.arange(np.prod(shape), dtype=np.int32).reshape(*shape, 1)
  document = np.broadcast_to(number, (*shape, T))
  return Batch(tokens[..., :-1], tokens[..., 1:], document, document)


@pytest.fixture(scope="module")
def setting():
  """A function of the rate: (engine, phi, batches, outer batch)."""
  rng = np.random.default_rng(0)
  batches, outer = rows(rng, S, B), rows(rng, 2, 4)
  weighted = outer, np.full(outer.tokens_BT.shape, 1 / 8 / T, np.float32)
  # The rate is part of phi, so one program serves all rates.
  optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=1.0)
  engine = engines.make(CONFIG, optimizer)

  def make(rate):
    phi = engine.init(jax.random.key(0)[None])
    state: Any = phi.opt_state
    state.hyperparams["learning_rate"] = jnp.full(1, rate, jnp.float32)
    return Alone(engine), phi, batches, weighted

  return make


class Alone:
  """An engine with one member, whose axis only phi and trees like it have."""

  def __init__(self, engine):
    self.engine = engine

  def unroll(self, phi, batches, weight_SBT, outer):
    found = self.engine.unroll(
      phi, *jax.tree.map(lambda x: x[None], (batches, weight_SBT, outer))
    )
    return found._replace(outer_loss=found.outer_loss[0], value=found.value[0])

  def cooled(self, phi, batches, weight_SBT):
    args = jax.tree.map(lambda x: x[None], (batches, weight_SBT))
    return self.engine.cooled(phi, *args)

  def probe(self, params, adjoint, batches):
    one = jax.tree.map(lambda x: x[None], batches)
    return np.asarray(self.engine.probe(params, adjoint, one))[0]

  def weighted_nats(self, params, weighted):
    return self.engine.weighted_nats(params, weighted)[0]


def test_values_of_tokens_are_the_slope_along_their_weights(setting):
  engine, phi, batches, outer = setting(0.3)
  ones_SBT = np.ones((S, B, T), np.float32)
  unroll = engine.unroll(phi, batches, ones_SBT, outer)
  # Documents 1, 3 and 8: a row each.
  share_SBT = np.isin(batches.document_BT, [1, 3, 8]).astype(np.float32)

  def loss_at(size):
    params = engine.cooled(phi, batches, ones_SBT + size * share_SBT)
    return float(engine.weighted_nats(params, outer))

  def difference(step):
    return (loss_at(step) - loss_at(-step)) / (2 * step)

  # The loss, 2.4, is known to 1e-7, so steps are large, and two extrapolations
  # remove their truncation up to the sixth order: 1e-7 / 0.05 / 0.05 = 4e-5.
  h, half, quarter = (difference(0.2 / 2**k) for k in range(3))
  expected = (64 * quarter - 20 * half + h) / 45
  slope = -np.sum(share_SBT * unroll.value) / ones_SBT.size
  assert abs(expected) > 0.05
  np.testing.assert_allclose(slope, expected, rtol=2e-4)


def test_the_outer_loss_is_that_after_cooling_down(setting):
  engine, phi, batches, outer = setting(0.3)
  weight_SBT = np.random.default_rng(1).uniform(0.5, 2, (S, B, T))
  weight_SBT = weight_SBT.astype(np.float32)
  unroll = engine.unroll(phi, batches, weight_SBT, outer)
  expected = engine.weighted_nats(
    engine.cooled(phi, batches, weight_SBT), outer
  )
  np.testing.assert_allclose(unroll.outer_loss, expected, rtol=1e-5)


def test_the_scale_of_a_step_s_weights_does_not_matter(setting):
  engine, phi, batches, outer = setting(0.3)
  ones_SBT = np.ones((S, B, T), np.float32)
  scale_S11 = np.array([1, 4, 1, 1], np.float32)[:, None, None]
  weight_SBT = scale_S11 * ones_SBT
  one = engine.unroll(phi, batches, ones_SBT, outer)
  two = engine.unroll(phi, batches, weight_SBT, outer)
  np.testing.assert_allclose(two.outer_loss, one.outer_loss, rtol=1e-6)
  np.testing.assert_allclose(
    two.value * scale_S11, one.value, rtol=1e-3, atol=1e-4
  )
  # So a step's values have mean zero under its weights.
  mean_S = np.sum(two.value * weight_SBT, axis=(1, 2)) / B / T
  np.testing.assert_allclose(mean_S, 0, atol=1e-5)


def test_probes_and_unrolls_agree_where_parameters_hardly_move(setting):
  rate = 1e-3
  engine, phi, batches, outer = setting(rate)
  ones_SBT = np.ones((S, B, T), np.float32)
  unroll = engine.unroll(phi, batches, ones_SBT, outer)
  value_SBT = np.asarray(engine.probe(phi.params, unroll.adjoint, batches))
  # An unroll's values count from the mean of their step, whose weights are
  # normalized, and its steps count by their share of the cooldown.
  value_SBT = value_SBT - np.mean(value_SBT, axis=(1, 2), keepdims=True)
  factor_S = 1 - np.arange(S) / S
  value_SBT *= (factor_S / factor_S.mean())[:, None, None]
  scale = np.abs(value_SBT).max()
  # Parameters move by S * rate times gradients of order one.
  np.testing.assert_allclose(
    unroll.value / scale, value_SBT / scale, atol=5 * S * rate
  )


def test_a_probe_is_the_slope_along_a_document_s_gradient(setting):
  engine, phi, batches, outer = setting(0.3)
  ones_SBT = np.ones((S, B, T), np.float32)
  unroll = engine.unroll(phi, batches, ones_SBT, outer)
  probes = rows(np.random.default_rng(3), 2, 5)
  value_CBT = engine.probe(phi.params, unroll.adjoint, probes)

  def loss_at(size):
    moved = jax.tree.map(lambda p, u: p + size * u, phi.params, unroll.adjoint)
    return float(engine.weighted_nats(moved, (probes, np.ones((2, 5, T)))))

  # The adjoint is of order one, the loss of 60 tokens known to 1e-5.
  step = 0.1
  expected = -(4 * (loss_at(step / 2) - loss_at(-step / 2)) / step) / 3
  expected += (loss_at(step) - loss_at(-step)) / (2 * step) / 3
  np.testing.assert_allclose(np.sum(value_CBT), expected, rtol=1e-3)
