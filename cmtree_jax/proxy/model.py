"""A decoder-only transformer in Flax: RMSNorm, rotary positions, SwiGLU, tied embeddings.

The same module is the proxy that searches and the model that is finally trained;
`PRESETS` names its sizes. Packed rows are kept apart by a segment mask. Where rows are
many or long, attention takes chunks of queries and blocks compute again in the
derivative what would be too much to keep; the bytes decide.
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.proxy import splash
from cmtree_jax.sharding import MODEL


@dataclasses.dataclass(frozen=True)
class ProxyConfig:
  """The size of a proxy; `num_parameters` counts it."""

  vocab_size: int
  width: int
  layers: int
  heads: int
  dtype: str = "float32"  # of matmul inputs; parameters stay float32
  attention: str = "einsum"  # one of ATTENTIONS; parameters are the same

  @property
  def mlp_width(self) -> int:
    """SwiGLU's hidden width: 8/3 of the model's, in multiples of 16."""
    return -(-8 * self.width // 48) * 16

  def kept_bytes(self, tokens: int) -> int:
    """About what the blocks keep of so many tokens for a derivative.

    Attention's weights apart: twenty arrays as wide as the model, of which eight
    stand for the three of the hidden layer.
    """
    return (
      20 * self.layers * tokens * self.width * jnp.dtype(self.dtype).itemsize
    )

  @property
  def num_parameters(self) -> int:
    """All parameters, the tied embedding counted once."""
    block = 4 * self.width**2 + 3 * self.width * self.mlp_width + 2 * self.width
    return self.vocab_size * self.width + self.layers * block + self.width

  @property
  def num_non_embedding(self) -> int:
    """The parameters less the embedding: what the scaling laws of sizes count."""
    return self.num_parameters - self.vocab_size * self.width

  def flops_per_token(self, context: int) -> float:
    """Matmul FLOPs of one forward pass per token, attention over `context` included."""
    matmul = self.num_parameters - self.width * (2 * self.layers + 1)
    return 2.0 * matmul + 4.0 * self.layers * self.width * context


DTYPES = ("bfloat16", "float32")  # that matrices may be multiplied in

# How blocks attend: in products that every device and every derivative knows, or by a
# kernel of TPUs (`splash`).
ATTENTIONS = ("einsum", "splash")

# Names give the parameters with a vocabulary of 4096, GPT-2's shape for the largest;
# of the first with 2048: each of these has four times the FLOPs of the one before.
PRESETS: dict[str, dict[str, int]] = {
  "0.1m": dict(width=32, layers=2, heads=2),
  "0.4m": dict(width=96, layers=2, heads=4),
  "1.6m": dict(width=160, layers=4, heads=5),
  "0.3m": dict(width=64, layers=2, heads=4),
  "1m": dict(width=128, layers=3, heads=4),
  "4m": dict(width=256, layers=4, heads=4),
  "25m": dict(width=512, layers=8, heads=8),
  "60m": dict(width=640, layers=12, heads=10),
  "125m": dict(width=1024, layers=10, heads=16),
  "1000m": dict(width=2048, layers=20, heads=16),
}


def from_preset(
  name: str,
  *,
  vocab_size: int,
  dtype: str = "float32",
  attention: str = "einsum",
) -> ProxyConfig:
  """The `ProxyConfig` called `name`; ValueError names the known ones."""
  if name not in PRESETS:
    raise ValueError(
      f"Unknown proxy preset {name!r}. Known: {', '.join(PRESETS)}."
    )
  return ProxyConfig(
    vocab_size=vocab_size, dtype=dtype, attention=attention, **PRESETS[name]
  )


# Blocks of so many layers are written out: a loop over two copies what it carries
# (5 to 10 % of a step on a CPU), one over many saves compilation.
_UNROLLED = 4

# Bytes on a device that a gradient keeps at a time of what the blocks have computed: a
# sixteenth of a small accelerator; the tangent of an exact hypergradient doubles it.
# Where a batch would be more, its rows take turns (`turns`), which costs nothing; where
# a single row would be, blocks compute it again, a third more work.
_KEPT = 2**30
# Bytes of the attention weights of all layers that are kept whole, and of a chunk of
# queries in one layer where they are not.
_WHOLE, _CHUNK = 2**28, 2**27
_ATTENDED = "attended"  # kept where a block computes the rest again


class Proxy(nn.Module):
  """Tokens and their segments in, logits of the next token out."""

  config: ProxyConfig

  @property
  def num_parameters(self) -> int:
    """All parameters."""
    return self.config.num_parameters

  @property
  def num_head(self) -> int:
    """Parameters of the output layer, which is the embedding."""
    return self.config.vocab_size * self.config.width

  @property
  def has_tangents(self) -> bool:
    """Whether forward mode can differentiate it."""
    return self.config.attention == "einsum"

  @property
  def with_tangents(self) -> "Proxy":
    """The same model, in a form that forward mode can differentiate."""
    return Proxy(dataclasses.replace(self.config, attention="einsum"))

  def turns(self, rows: int, row_tokens: int) -> int:
    """Into how many parts of as many rows a gradient divides a device's batch."""
    kept = self.config.kept_bytes
    most = max(kept(row_tokens), _KEPT * sharding.sharers())
    return next(
      parts
      for parts in range(1, rows + 1)
      if rows % parts == 0 and kept(rows // parts * row_tokens) <= most
    )

  @nn.compact
  def __call__(
    self,
    tokens_BT: shapes.IntBT,
    segment_BT: shapes.IntBT,
    *,
    head: bool = True,
  ) -> shapes.Array:
    """Logits in float32, [B, T, V].

    Args:
      tokens_BT: token ids.
      segment_BT: a token attends to earlier ones of its own segment only.
      head: whether the output layer is applied; else what it is given, [B, T, D].
    """
    config = self.config
    embedding_VD = self.param(
      "embedding",
      nn.initializers.normal(config.width**-0.5),
      (config.vocab_size, config.width),
    )
    # sqrt(D) brings the tied embedding to unit variance at the input.
    x_BTD = embedding_VD[tokens_BT] * config.width**0.5
    seen = segment_BT
    if config.attention == "einsum":  # the kernel masks by itself
      causal_TT = jnp.tril(jnp.ones((tokens_BT.shape[1],) * 2, bool))
      seen = causal_TT & (segment_BT[:, :, None] == segment_BT[:, None, :])
    block = _Block
    if config.kept_bytes(tokens_BT.shape[1]) > _KEPT * sharding.sharers():
      block = nn.remat(
        _Block,
        prevent_cse=config.layers <= _UNROLLED,  # a loop keeps the passes apart
        policy=jax.checkpoint_policies.save_only_these_names(_ATTENDED),
      )
    blocks = nn.scan(
      block,
      variable_axes={"params": 0, "intermediates": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=config.layers,
      unroll=config.layers if config.layers <= _UNROLLED else 1,
    )
    x_BTD, _ = blocks(config, name="blocks")(x_BTD.astype(config.dtype), seen)
    x_BTD = nn.RMSNorm(dtype=config.dtype, name="norm")(x_BTD)
    return logits(x_BTD, embedding_VD) if head else x_BTD


def logits(hidden: shapes.Array, embedding_VD: shapes.Array) -> shapes.Array:
  """The output layer: at least float32, [..., V] of hidden states [..., D]."""
  return jnp.einsum(
    "...d,vd->...v",
    hidden,
    embedding_VD.astype(hidden.dtype),
    preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
  )


class _Block(nn.Module):
  config: ProxyConfig

  @nn.compact
  def __call__(self, x_BTD, seen):
    """After one block; `seen` are segments [B, T], or a mask [B, T, T] of einsums."""
    config = self.config

    def dense(features, name: str, axis: int | tuple[int, ...] = -1):
      return nn.DenseGeneral(
        features, axis=axis, use_bias=False, dtype=config.dtype, name=name
      )

    h_BTD = nn.RMSNorm(dtype=config.dtype, name="norm_attention")(x_BTD)
    # Heads have an axis of their own, so that they can be divided among devices.
    qkv = dense((3, config.heads, config.width // config.heads), "qkv")(h_BTD)
    q, k, v = (qkv[:, :, i] for i in range(3))
    if config.attention == "splash":
      attended = splash.attend(
        _rotate(q), _rotate(k), v, seen, saved_name=_ATTENDED
      )
    else:
      attend = functools.partial(_attend_in_chunks, layers=config.layers)
      attended = attend(_rotate(q), _rotate(k), v, seen)
      attended = checkpoint_name(attended, _ATTENDED)
    x_BTD += dense(config.width, "out", axis=(-2, -1))(attended)
    h_BTD = nn.RMSNorm(dtype=config.dtype, name="norm_mlp")(x_BTD)
    gate_up = dense((2, config.mlp_width), "gate_up")(h_BTD)
    hidden = nn.silu(gate_up[:, :, 0]) * gate_up[:, :, 1]
    x_BTD += dense(config.width, "down")(hidden)
    self.sow("intermediates", "after", x_BTD)  # for whoever asks for it
    return x_BTD, None


def _attend_in_chunks(q_BTHK, k_BTHK, v_BTHK, mask_BTT, *, layers):
  """`_attend`, in turns for chunks of queries where there are too many weights."""
  batch, length, heads, _ = q_BTHK.shape
  of_query = 4 * batch * heads * length // sharding.sharers()
  if layers * length * of_query <= _WHOLE:
    return _attend(q_BTHK, k_BTHK, v_BTHK, mask_BTT)
  count = next(  # the fewest chunks of equal sizes that are small enough
    count
    for count in range(1, length + 1)
    if length % count == 0
    and (length // count * of_query <= _CHUNK or count == length)
  )

  def divide(x):  # [B, T, ...] as [count, B, T / count, ...]
    parts = x.reshape(batch, count, length // count, *x.shape[2:])
    return jnp.moveaxis(parts, 1, 0)

  @functools.partial(jax.checkpoint, prevent_cse=False)
  def one(chunk):
    return _attend(chunk[0], k_BTHK, v_BTHK, chunk[1])

  found = jax.lax.map(one, (divide(q_BTHK), divide(mask_BTT)))
  return jnp.moveaxis(found, 0, 1).reshape(q_BTHK.shape)


def _attend(q_BTHK, k_BTHK, v_BTHK, mask_BTT):
  """Attention where the mask is true; every token sees itself at least.

  What is divided by the sum of a row is the mean of values and not, as in softmax,
  each weight: backwards there is no sum over [T, T]. On a CPU a step takes 10 to 14 %
  less time than with `jax.nn.dot_product_attention`.
  """
  float32 = jnp.promote_types(q_BTHK.dtype, jnp.float32)
  score_BHTT = jnp.einsum(
    "bthk,bshk->bhts", q_BTHK, k_BTHK, preferred_element_type=float32
  )
  score_BHTT = jnp.where(
    mask_BTT[:, None], score_BHTT * q_BTHK.shape[-1] ** -0.5, -1e30
  )
  # What is subtracted cancels, so that it needs no derivative.
  most_BHT1 = jax.lax.stop_gradient(score_BHTT.max(axis=-1, keepdims=True))
  weight_BHTT = jnp.exp(score_BHTT - most_BHT1)
  sum_BTH1 = jnp.swapaxes(weight_BHTT.sum(axis=-1), 1, 2)[..., None]
  total_BTHK = jnp.einsum(
    "bhts,bshk->bthk",
    weight_BHTT.astype(v_BTHK.dtype),
    v_BTHK,
    preferred_element_type=float32,
  )
  return (total_BTHK / sum_BTH1).astype(v_BTHK.dtype)


def _rotate(x_BTHK):
  """Rotary positions (Su et al., 2021, eq. 34), half-split layout.

  Only differences of positions matter, so a segment need not start at zero.
  """
  half = x_BTHK.shape[-1] // 2
  frequency = 10_000.0 ** (-jnp.arange(half) / half)
  angle = jnp.arange(x_BTHK.shape[1])[:, None, None] * frequency
  sin, cos = jnp.sin(angle), jnp.cos(angle)
  a, b = x_BTHK[..., :half], x_BTHK[..., half:]
  rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rotated.astype(x_BTHK.dtype)


# Which axis of each parameter the mesh's model axis divides: heads, hidden units
# and words. Each block then sums over devices twice, as in Shoeybi et al., 2019.
_DIVIDED = {
  "embedding": 0,  # [V, D]
  "qkv": 3,  # [layers, D, 3, heads, D / heads]
  "out": 1,  # [layers, heads, D / heads, D]
  "gate_up": 3,  # [layers, D, 2, hidden]
  "down": 1,  # [layers, hidden, D]
}


def param_specs(params: Any) -> Any:
  """A PartitionSpec for every parameter; norms are whole on every device."""

  def spec(path, _):
    names = {getattr(key, "key", None) for key in path}
    for name, axis in _DIVIDED.items():
      if name in names:
        return PartitionSpec(*(None,) * axis, MODEL)
    return PartitionSpec()

  return jax.tree_util.tree_map_with_path(spec, params)
