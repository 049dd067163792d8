"""Attention by a fused kernel of TPUs: no weight is ever written to memory.

The kernel is JAX's own. It skips blocks of keys that come after all of a block's
queries, and its derivative computes the weights again. It has a rule for reverse mode
alone, so that what takes a tangent (most estimators, the values of a probe) cannot use
it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as kernels
from jax.sharding import PartitionSpec

from cmtree_jax import shapes, sharding
from cmtree_jax.bilevel import HYPERGRADS

_LANES = 128  # the kernel takes rows in multiples of these
# Queries or keys of a block, the largest that divides a row: few blocks are little
# overhead, many have less of the work that the causal mask makes needless.
_BLOCKS = (512, 384, 256, _LANES)

# Heads are divided as the parameters are that make them.
_HEADS = PartitionSpec(None, None, sharding.MODEL)


def attend(
  q_BTHK: shapes.Array,
  k_BTHK: shapes.Array,
  v_BTHK: shapes.Array,
  segment_BT: shapes.Array,
  *,
  saved_name: str,
) -> shapes.Array:
  """Causal attention within segments, [B, T, H, K].

  Args:
    q_BTHK: queries.
    k_BTHK: keys.
    v_BTHK: values.
    segment_BT: a token attends to earlier ones of its own segment only.
    saved_name: under which checkpoint policies save what the derivative wants of the
      kernel's results.
  """
  attend = functools.partial(_attend_here, saved_name=saved_name)
  divided = sharding.by_hand(
    attend,
    in_specs=(_HEADS, _HEADS, _HEADS, PartitionSpec()),
    out_specs=_HEADS,
  )
  return divided(q_BTHK, k_BTHK, v_BTHK, segment_BT)


def _attend_here(q_BTHK, k_BTHK, v_BTHK, segment_BT, *, saved_name):
  """`attend` for the heads and rows of this device."""
  _, length, heads, width = q_BTHK.shape
  # What is added comes after all tokens of its row, so that none sees it.
  missing = -length % _LANES
  segment_BT = jnp.pad(segment_BT, ((0, 0), (0, missing)))

  def by_head(x_BTHK):
    x_BTHK = jnp.pad(x_BTHK, ((0, 0), (0, missing), (0, 0), (0, 0)))
    return jnp.swapaxes(x_BTHK, 1, 2)

  kernel: Callable[..., shapes.Array] = jax.vmap(
    _kernel(heads, length + missing, saved_name)
  )
  if q_BTHK.dtype == jnp.bfloat16:
    kernel = _at_default_precision(kernel)
  attended_BHTK = kernel(
    by_head(q_BTHK * width**-0.5),  # the kernel does not scale
    by_head(k_BTHK),
    by_head(v_BTHK),
    kernels.SegmentIds(segment_BT, segment_BT),
  )
  return jnp.swapaxes(attended_BHTK, 1, 2)[:, :length]


def _kernel(heads: int, length: int, saved_name: str):
  """The kernel for one row, all heads of it."""
  block = next(size for size in _BLOCKS if length % size == 0)
  causal = kernels.CausalMask((length, length))
  return kernels.make_splash_mha_single_device(
    kernels.MultiHeadMask([causal] * heads),
    block_sizes=kernels.BlockSizes(
      block_q=block,
      block_kv=block,
      block_q_dkv=block,
      block_kv_dkv=block,
      block_q_dq=block,
      block_kv_dq=block,
    ),
    residual_checkpoint_name=saved_name,
  )


def _at_default_precision(kernel):
  """A kernel that multiplies in its inputs' precision, backwards too.

  Jobs ask for products in full float32, which its compiler refuses for bfloat16.
  """
  precision = functools.partial(jax.default_matmul_precision, "default")

  @jax.custom_vjp
  def attend(q, k, v, segment):
    with precision():
      return kernel(q, k, v, segment)

  def forward(q, k, v, segment):
    with precision():
      return jax.vjp(lambda *qkv: kernel(*qkv, segment), q, k, v)

  def backward(pullback, cotangent):
    with precision():
      return *pullback(cotangent), None

  attend.defvjp(forward, backward)
  return attend


def check_estimator(estimator: str) -> None:
  """Refuses a hypergradient that takes tangents through the kernel.

  Args:
    estimator: name in `HYPERGRADS`.
  Raises:
    ValueError: names those that take none.
  """
  if not HYPERGRADS[estimator].reverse_only:
    allowed = [name for name, one in HYPERGRADS.items() if one.reverse_only]
    raise ValueError(
      "the kernel of splash attention has no forward-mode derivative, which the "
      f"estimator {estimator!r} takes. Estimators that do without: "
      f"{', '.join(allowed)}."
    )
