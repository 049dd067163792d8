"""Other people's decoders in a few lines, at the shapes of `model.PRESETS`.

Written anew from what is published of two small code bases that people train proxies
with: GPT-2's decoder in PyTorch as nanoGPT has it (learned positions, layer norms,
GELU, tied embeddings, AdamW, clipping), and the decoder of nanodo in Flax (the same
shape, layer norms without bias, no dropout). Each is given rows of tokens and trains
one step on them.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cmtree_jax.proxy.model import ProxyConfig

# Takes tokens [B, T + 1]; the loss before the step, when it is done.
Step = Callable[[np.ndarray], float]
_RATE, _DECAY = 3e-3, 0.01


def torch_gpt(config: ProxyConfig, length: int, *, compiled: bool) -> Step:
  """A step of GPT-2's decoder in PyTorch, eager or by `torch.compile`."""
  import torch
  from torch import nn as tnn
  from torch.nn import functional as F

  torch.set_num_threads(1)
  torch.manual_seed(0)
  width, heads = config.width, config.heads

  class Block(tnn.Module):
    def __init__(self):
      super().__init__()
      self.norm_attention = tnn.LayerNorm(width, bias=False)
      self.norm_mlp = tnn.LayerNorm(width, bias=False)
      self.qkv = tnn.Linear(width, 3 * width, bias=False)
      self.out = tnn.Linear(width, width, bias=False)
      self.up = tnn.Linear(width, 4 * width, bias=False)
      self.down = tnn.Linear(4 * width, width, bias=False)

    def forward(self, x):
      batch = x.shape[0]
      q, k, v = (
        y.view(batch, length, heads, width // heads).transpose(1, 2)
        for y in self.qkv(self.norm_attention(x)).split(width, dim=2)
      )
      y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
      x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
      return x + self.down(F.gelu(self.up(self.norm_mlp(x))))

  class Decoder(tnn.Module):
    def __init__(self):
      super().__init__()
      self.tokens = tnn.Embedding(config.vocab_size, width)
      self.positions = tnn.Embedding(length, width)
      self.blocks = tnn.ModuleList(Block() for _ in range(config.layers))
      self.norm = tnn.LayerNorm(width, bias=False)
      self.head = tnn.Linear(width, config.vocab_size, bias=False)
      self.head.weight = self.tokens.weight
      for weight in self.parameters():
        if weight.ndim == 2:
          tnn.init.normal_(weight, std=0.02)

    def forward(self, tokens, labels):
      x = self.tokens(tokens) + self.positions.weight
      for block in self.blocks:
        x = block(x)
      logits = self.head(self.norm(x))
      return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

  model = Decoder()
  forward = torch.compile(model) if compiled else model
  optimizer = torch.optim.AdamW(
    model.parameters(), lr=_RATE, betas=(0.9, 0.95), weight_decay=_DECAY
  )

  def step(tokens):
    rows = torch.from_numpy(tokens).long()
    loss = forward(rows[:, :-1], rows[:, 1:])
    loss.backward()
    tnn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.item()

  return step


class _Block(nn.Module):
  config: ProxyConfig

  @nn.compact
  def __call__(self, x):
    config = self.config

    def dense(features, axis: int | tuple[int, ...] = -1):
      return nn.DenseGeneral(features, axis=axis, use_bias=False)

    h = nn.LayerNorm(use_bias=False)(x)
    of_heads = (config.heads, config.width // config.heads)
    q, k, v = (dense(of_heads)(h) for _ in range(3))
    length = x.shape[1]
    score = jnp.einsum("bthk,bshk->bhts", q / of_heads[1] ** 0.5, k)
    seen = jnp.tril(jnp.ones((length, length), bool))
    weight = jax.nn.softmax(jnp.where(seen, score, jnp.finfo("float32").min))
    x += dense(config.width, (-2, -1))(jnp.einsum("bhts,bshk->bthk", weight, v))
    h = dense(4 * config.width)(nn.LayerNorm(use_bias=False)(x))
    return x + dense(config.width)(nn.gelu(h))


class _Decoder(nn.Module):
  config: ProxyConfig

  @nn.compact
  def __call__(self, tokens):
    config = self.config
    embed = nn.Embed(config.vocab_size, config.width)
    positions = nn.Embed(tokens.shape[1], config.width)
    x = embed(tokens) + positions(jnp.arange(tokens.shape[1]))
    for _ in range(config.layers):
      x = _Block(config)(x)
    return embed.attend(nn.LayerNorm(use_bias=False)(x))


def flax_decoder(config: ProxyConfig, length: int) -> Step:
  """A step of nanodo's decoder in Flax."""
  decoder = _Decoder(config)
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(_RATE, b1=0.9, b2=0.95, weight_decay=_DECAY),
  )

  @jax.jit
  def first():
    params = decoder.init(jax.random.key(0), jnp.zeros((1, length), int))
    return params, optimizer.init(params)

  def loss_of(params, tokens):
    logits = decoder.apply(params, tokens[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(
      logits, tokens[:, 1:]
    ).mean()

  @jax.jit
  def move(state, tokens):
    params, moments = state
    loss, gradient = jax.value_and_grad(loss_of)(params, tokens)
    updates, moments = optimizer.update(gradient, moments, params)
    return (optax.apply_updates(params, updates), moments), loss

  state = first()

  def step(tokens):
    nonlocal state
    state, loss = move(state, tokens)
    return float(loss)

  return step
