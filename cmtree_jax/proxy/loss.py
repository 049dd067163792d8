"""The loss of every token of a batch, in nats, and weighted sums of them.

Logits are the largest array of a step where the vocabulary is large: with 32,768
words a gigabyte for 8,192 tokens, and as much again for every derivative of them.
Above `WHOLE` bytes they are therefore made, used and forgotten in chunks of tokens,
in derivatives too.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel.weighted_gradient import InTurns, gradient_here
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import model

# Bytes of logits that are kept whole, and of a chunk of them where they are not. A
# chunk of 1,024 tokens with 32,768 words keeps a matrix unit busy; much smaller ones
# would read and write the embedding's gradient for little work.
WHOLE, CHUNK = 2**28, 2**27


def token_losses(
  proxy: model.Proxy, *, whole: int = WHOLE, chunk: int = CHUNK
) -> InTurns:
  """A function (params, batch) -> loss_BT, each next token's cross-entropy in nats.

  Its gradient takes the rows in turns where they would keep too much. Arguments as of
  `of_logits`.
  """
  losses = of_logits(
    proxy,
    optax.softmax_cross_entropy_with_integer_labels,
    whole=whole,
    chunk=chunk,
  )
  return InTurns(losses, lambda batch: proxy.turns(*batch.tokens_BT.shape))


def of_logits(
  proxy: model.Proxy,
  function: Callable[..., shapes.Tree],
  *,
  whole: int = WHOLE,
  chunk: int = CHUNK,
) -> Callable[[shapes.Tree, Batch], shapes.Tree]:
  """A function (params, batch) -> what is told of every token's logits, [B, T, ...].

  The derivative of a chunk makes its logits again, a quarter more work in the output
  layer, and any order of derivatives has one chunk of them at a time.

  Args:
    proxy: the model.
    function: (logits [..., V], labels [...]) -> arrays [..., ...], each token's own.
    whole: bytes of logits up to which there is one chunk.
    chunk: bytes of the logits of each chunk where there are several.
  """

  def compute(params: shapes.Tree, batch: Batch) -> shapes.Tree:
    apply = functools.partial(
      proxy.apply, {"params": params}, batch.tokens_BT, batch.segment_BT
    )
    embedding_VD = params["embedding"]
    of_token = 4 * len(embedding_VD) // sharding.sharers()
    if batch.tokens_BT.size * of_token <= whole:
      return function(apply(), batch.label_BT)
    return _in_chunks(
      function,
      apply(head=False),
      embedding_VD,
      batch.label_BT,
      tokens=max(1, chunk // of_token),
    )

  return compute


def _in_chunks(function, hidden_BTD, embedding_VD, label_BT, *, tokens: int):
  """`function` of the logits of about so many tokens at a time."""
  count = label_BT.size
  chunks = -(-count // tokens)
  size = -(-count // chunks)

  def divide(x):
    """Tokens as [chunks, size]; those that are missing are zeros."""
    flat = x.reshape(count, *x.shape[2:])
    missing = [(0, chunks * size - count)] + [(0, 0)] * (flat.ndim - 1)
    return jnp.pad(flat, missing).reshape(chunks, size, *flat.shape[1:])

  # The embedding is rounded inside, so that its gradient is summed in its own
  # precision.
  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one(chunk):
    hidden_ND, label_N = chunk
    return function(model.logits(hidden_ND, embedding_VD), label_N)

  found = jax.lax.map(one, (divide(hidden_BTD), divide(label_BT)))
  return jax.tree.map(
    lambda x: x.reshape(chunks * size, *x.shape[2:])[:count].reshape(
      *label_BT.shape, *x.shape[2:]
    ),
    found,
  )


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

  def slope_of(params, one):
    batch, weight_BT = one
    gradient, loss_BT = gradient_here(losses, params, weight_BT, batch)
    return jnp.sum(weight_BT * loss_BT), gradient

  def add(total, one):
    return total + one, None

  @jax.custom_vjp
  def total(params, weighted):
    def chunk(carry, one):
      return add(carry, loss_of(params, one))

    return jax.lax.scan(chunk, jnp.zeros(()), weighted)[0]

  def forward(params, weighted):
    def chunk(gradient, one):
      loss, more = slope_of(params, one)
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
  # Two tokens want no kernel, and parameters do not tell how they attend.
  return jax.jit(proxy.with_tangents.init)(key, tokens_BT, tokens_BT)["params"]
