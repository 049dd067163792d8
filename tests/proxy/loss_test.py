"""Sums of losses over chunks equal those over all rows; hidden states of layers."""

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig

C, B, T, V = 5, 3, 8, 50


def some_losses(params, batch):
  """A loss that depends on parameters, inputs and labels."""
  return jnp.tanh(params * batch.tokens_BT) + batch.label_BT / V


def test_the_sum_is_that_of_the_rows_and_so_is_its_slope():
  rng = np.random.default_rng(0)
  batches = Batch(*rng.integers(0, V, (4, C, B, T)))
  weight_CBT = rng.uniform(size=(C, B, T)).astype(np.float32)
  flat = jax.tree.map(lambda x: x.reshape(-1, T), batches)

  def direct(params):
    return jnp.sum(weight_CBT.reshape(-1, T) * some_losses(params, flat))

  def chunked(params):
    total = proxy_loss.sum_over_chunks(some_losses)
    return total(params, (batches, weight_CBT))

  found, slope = jax.jit(jax.value_and_grad(chunked))(0.3)
  expected, expected_slope = jax.value_and_grad(direct)(0.3)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  np.testing.assert_allclose(slope, expected_slope, rtol=1e-5)


def test_hidden_states_of_a_layer_are_those_of_a_model_that_ends_there():
  size = dict(vocab_size=V, width=8, heads=2)
  whole = Proxy(ProxyConfig(**size, layers=3))
  params = proxy_loss.init(whole, jax.random.key(0))
  scale_D = np.linspace(0.5, 2.0, 8, dtype=np.float32)
  params["norm"]["scale"] = scale_D
  rng = np.random.default_rng(0)
  zeros = np.zeros((B, T), np.int32)
  tokens_BT = rng.integers(0, V, (B, T)).astype(np.int32)
  batch = Batch(tokens_BT, tokens_BT, zeros, zeros)
  found_BTH = jax.jit(proxy_loss.hidden_states(whole, 3))(params, batch)
  assert found_BTH.shape == (B, T, 3 * 8)
  for layers in (1, 2, 3):
    fewer = Proxy(ProxyConfig(**size, layers=layers))
    blocks = jax.tree.map(lambda x, n=layers: x[:n], params["blocks"])
    hidden_BTD, _ = proxy_loss.hidden_and_logits(fewer)(
      {**params, "blocks": blocks}, batch
    )
    expected = hidden_BTD if layers == 3 else hidden_BTD / scale_D
    part = found_BTH[..., 8 * (layers - 1) : 8 * layers]
    np.testing.assert_allclose(part, expected, rtol=1e-5, atol=1e-6)
  for layers in (1, 2):
    last = jax.jit(proxy_loss.hidden_states(whole, layers))(params, batch)
    np.testing.assert_allclose(
      last, found_BTH[..., -8 * layers :], rtol=1e-5, atol=1e-6
    )
