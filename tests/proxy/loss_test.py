"""Sums of losses over chunks: equal to those over all rows at once."""

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss

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
