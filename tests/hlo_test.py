"""What the counter of programs says, against products and sums that are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from cmtree_jax import sharding
from experiments import hlo

B, D, STEPS = 16, 8, 5


def test_loops_are_counted_as_often_as_they_run():
  """Products and sums over devices, inside a loop and outside."""
  mesh = sharding.make_mesh(data=8)

  def run(w_DD, x_BD):
    def step(w_DD, _):
      slope_DD = jnp.tanh(x_BD @ w_DD).T @ x_BD
      return w_DD - jax.lax.psum(slope_DD, sharding.DATA), None

    w_DD, _ = jax.lax.scan(step, w_DD, None, length=STEPS)
    return w_DD, jax.lax.psum(jnp.sum(x_BD), sharding.DATA)

  divided = sharding.shard_map(
    run,
    mesh,
    axis=sharding.DATA,
    in_specs=(PartitionSpec(), PartitionSpec(sharding.DATA)),
    out_specs=PartitionSpec(),
  )
  args = (
    sharding.put(jnp.ones((D, D)), mesh, PartitionSpec()),
    sharding.put(jnp.ones((B, D)), mesh, PartitionSpec(sharding.DATA)),
  )
  work = hlo.count(jax.jit(divided).lower(*args).compile())
  assert work.flops == STEPS * 2 * (2 * B // 8 * D * D)
  assert work.collectives == {"all-reduce": STEPS + 1}
  found = {x.in_loop: (x.times, x.size) for x in work.exchanges}
  assert found == {True: (STEPS, 4 * D * D), False: (1, 4)}


# As the TPU's compiler writes a product of 4 x 8 pairs of matrices in a loop.
_TPU = """
%body (p: (s32[], bf16[4,256,8,64])) -> (s32[], bf16[4,256,8,64]) {
  %q = bf16[4,256,8,64]{1,3,2,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %s = f32[4,8,256,256]{3,2,1,0} convolution(%q, %q), \
window={size=4x8 stride=3x7 lhs_dilate=4x8}, dim_labels=0b1f_0o1i->01bf
  %sent = (bf16[2,64]{1,0}, bf16[16,64]{1,0}) all-gather-start(%q), dimensions={0}
  %all = bf16[16,64]{1,0} all-gather-done(%sent)
}

%condition (p: (s32[], bf16[4,256,8,64])) -> pred[] {
  %n = s32[]{:T(128)} constant(3)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=BOUND
}

ENTRY %main (x: bf16[4,256,8,64]) -> bf16[4,256,8,64] {
  %x = bf16[4,256,8,64]{1,3,2,0:T(8,128)(2,1)} parameter(0)
  %t = (s32[], bf16[4,256,8,64]) tuple(%zero, %x)
  %w = (s32[], bf16[4,256,8,64]) while(%t), condition=%condition, body=%body
}
"""


def test_products_and_loops_of_the_tpu_are_read():
  work = hlo.count_text(_TPU.replace("BOUND", "LT"))
  assert work.flops == 3 * 2 * 4 * 8 * 256 * 256 * 64
  assert work.gathered == [(16, 64)]
  (one,) = work.exchanges
  assert (one.times, one.in_loop, one.size) == (3, True, 2 * 16 * 64)


def test_a_loop_of_unknown_length_is_told():
  with pytest.raises(ValueError, match="without a known trip count"):
    hlo.count_text(_TPU.replace("BOUND", "NE"))
