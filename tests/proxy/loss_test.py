"""Losses in chunks equal those over all rows, so do derivatives; hidden states."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

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


def case(dtype):
  """(proxy, params far from the start, a batch, a direction like the params)."""
  proxy = Proxy(
    ProxyConfig(vocab_size=V, width=16, layers=1, heads=2, dtype=dtype)
  )
  params = proxy_loss.init(proxy, jax.random.key(0))
  rng = np.random.default_rng(1)
  tokens_BT = rng.integers(0, V, (B, T + 1)).astype(np.int32)
  zeros = np.zeros((B, T), np.int32)
  batch = Batch(tokens_BT[:, :-1], tokens_BT[:, 1:], zeros, zeros)
  wide = jnp.promote_types(dtype, jnp.float32)
  draw = lambda x: jnp.asarray(rng.normal(size=x.shape), wide)  # noqa: E731
  params = jax.tree.map(lambda x: x.astype(wide) + 0.1 * draw(x), params)
  return proxy, params, batch, jax.tree.map(draw, params)


def derivatives(losses, params, batch, direction):
  """(losses, gradient, their derivatives: forward over reverse, and reverse twice)."""
  weight_BT = jnp.linspace(0.0, 1.0, B * T).reshape(B, T)

  def local(params):
    loss_BT, pullback = jax.vjp(lambda p: losses(p, batch), params)
    return loss_BT, pullback(weight_BT.astype(loss_BT.dtype))[0]

  def along(params):
    return optax.tree.vdot(local(params)[1], direction)

  @jax.jit
  def run(params):
    (loss_BT, gradient), moved = jax.jvp(local, (params,), (direction,))
    return loss_BT, gradient, *moved, jax.grad(along)(params)

  return run(params)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_chunks_of_tokens_give_the_loss_and_all_its_derivatives(request, dtype):
  if dtype == "float64":
    request.getfixturevalue("x64")
  proxy, *at = case(dtype)
  expected = derivatives(proxy_loss.token_losses(proxy), *at)
  # Seven of the 24 tokens at a time, so that the last chunk is filled up.
  chunked = proxy_loss.token_losses(proxy, whole=0, chunk=7 * 4 * V)
  found = derivatives(chunked, *at)
  tolerance = {"float32": 1e-6, "float64": 1e-13, "bfloat16": 2e-2}[dtype]

  def close(one, other):
    assert one.dtype == other.dtype
    largest = np.abs(other).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)

  jax.tree.map(close, found, expected)


def test_no_derivative_holds_the_logits_of_all_tokens():
  """Of the second derivative too, the compiled program has room for one chunk."""
  words, rows = 4096, 512
  proxy = Proxy(ProxyConfig(vocab_size=words, width=8, layers=1, heads=1))
  params = proxy_loss.init(proxy, jax.random.key(0))
  zeros = np.zeros((rows, 2), np.int32)
  batch = Batch(zeros, zeros, zeros, zeros)

  def temporary(losses):
    def slope(params):
      return jax.grad(lambda p: jnp.sum(losses(p, batch)))(params)

    run = jax.jit(lambda params: jax.jvp(slope, (params,), (params,)))
    needed: Any = run.lower(params).compile().memory_analysis()
    return needed.temp_size_in_bytes

  of_all = 4 * zeros.size * words
  chunked = proxy_loss.token_losses(proxy, whole=0, chunk=of_all // 16)
  assert temporary(chunked) < 0.75 * of_all
  assert temporary(proxy_loss.token_losses(proxy)) > 2 * of_all


def test_small_logits_are_kept_whole():
  proxy, params, batch, _ = case("float32")
  bytes_of_all = 4 * B * T * V

  def is_whole(limit):
    losses = proxy_loss.token_losses(proxy, whole=limit)
    traced = str(jax.make_jaxpr(losses)(params, batch))
    return f"f32[{B},{T},{V}]" in traced

  assert is_whole(bytes_of_all)
  assert not is_whole(bytes_of_all - 1)
