"""The loss of every token of a batch, in nats, and weighted sums of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import model


def token_losses(
  proxy: model.Proxy,
) -> Callable[[shapes.Tree, Batch], shapes.FloatBT]:
  """A function (params, batch) -> loss_BT, each next token's cross-entropy in nats."""

  def losses(params: shapes.Tree, batch: Batch) -> shapes.FloatBT:
    logits_BTV: shapes.Array = proxy.apply(
      {"params": params}, batch.tokens_BT, batch.segment_BT
    )
    return optax.softmax_cross_entropy_with_integer_labels(
      logits_BTV, batch.label_BT
    )

  return losses


def sum_over_chunks(
  losses: Callable[[shapes.Tree, Batch], shapes.FloatBT],
):
  """A function (params, (batches, weight_CBT)) -> sum of weighted losses.

  Memory is that of one chunk, also for the derivative with respect to the
  parameters (there is no other). The gradient of a chunk is taken right where its
  loss is, so that nothing is computed again: three forward passes in all.
  """

  def loss_of(params, one):
    batch, weight_BT = one
    return jnp.sum(weight_BT * losses(params, batch))

  def add(total, one):
    return total + one, None

  @jax.custom_vjp
  def total(params, weighted):
    def chunk(carry, one):
      return add(carry, loss_of(params, one))

    return jax.lax.scan(chunk, jnp.zeros(()), weighted)[0]

  def forward(params, weighted):
    def chunk(gradient, one):
      loss, more = jax.value_and_grad(loss_of)(params, one)
      return jax.tree.map(jnp.add, gradient, more), loss

    # Added in the order of plain reverse mode, and the losses in that of `total`:
    # the same bits as they have.
    zeros = jax.tree.map(jnp.zeros_like, params)
    gradient, loss_C = jax.lax.scan(chunk, zeros, weighted, reverse=True)
    return jax.lax.scan(add, jnp.zeros(()), loss_C)[0], gradient

  def backward(gradient, cotangent):
    scaled = jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), gradient)
    return scaled, None  # of the rows and their weights: none

  total.defvjp(forward, backward)
  return total


def hidden_and_logits(
  proxy: model.Proxy,
) -> Callable[[shapes.Tree, Batch], tuple[shapes.Array, shapes.FloatBTV]]:
  """A function (params, batch) -> (hidden_BTD, logits_BTV) of the output layer.

  The hidden states are those that the embedding is multiplied with to give the
  logits: what the last norm hands over.
  """

  def outputs(params: shapes.Tree, batch: Batch):
    logits_BTV, found = _observed(proxy, params, batch)
    (hidden_BTD,) = found["norm"]["__call__"]
    return hidden_BTD, logits_BTV

  return outputs


def hidden_states(
  proxy: model.Proxy, layers: int
) -> Callable[[shapes.Tree, Batch], shapes.Array]:
  """A function (params, batch) -> hidden states of the last layers, [B, T, layers * D].

  The last of them are those of `hidden_and_logits`. Those of layers before it have
  unit mean square, as the last norm would bring them to, but not its scale.
  """

  def states(params: shapes.Tree, batch: Batch):
    _, found = _observed(proxy, params, batch)
    (hidden_BTD,) = found["norm"]["__call__"]
    (after_LBTD,) = found["blocks"]["after"]
    before = [unit_mean_square(x_BTD) for x_BTD in after_LBTD[-layers:-1]]
    return jnp.concatenate([*before, hidden_BTD], axis=-1, dtype=jnp.float32)

  return states


def unit_mean_square(x: shapes.Array) -> shapes.Array:
  """Vectors along the last axis, divided by their root mean square; float32."""
  wide = x.astype(jnp.float32)
  square = jnp.mean(wide**2, axis=-1, keepdims=True)
  return wide * jax.lax.rsqrt(square + 1e-6)  # as Flax's norm has it


def _observed(proxy: model.Proxy, params: shapes.Tree, batch: Batch):
  """(logits, what the last norm and each block hand over)."""
  logits_BTV, captured = proxy.apply(
    {"params": params},
    batch.tokens_BT,
    batch.segment_BT,
    capture_intermediates=lambda module, _: module.path == ("norm",),
    mutable=["intermediates"],
  )
  return logits_BTV, captured["intermediates"]


def init(proxy: model.Proxy, key: shapes.Key) -> shapes.Tree:
  """Fresh parameters (float32)."""
  tokens_BT = jnp.zeros((1, 2), jnp.int32)
  return jax.jit(proxy.init)(key, tokens_BT, tokens_BT)["params"]
