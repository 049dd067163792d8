"""Other people's decoders learn, so that a race against them is one."""

import functools
import importlib.util

import numpy as np
import pytest

from cmtree_jax.proxy.model import ProxyConfig
from experiments import bench_training, training_rivals

needs_torch = pytest.mark.skipif(
  importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


@pytest.mark.parametrize(
  "make",
  [
    training_rivals.flax_decoder,
    pytest.param(
      functools.partial(training_rivals.torch_gpt, compiled=False),
      marks=needs_torch,
    ),
  ],
)
def test_a_decoder_learns_the_next_token(make):
  step = make(ProxyConfig(vocab_size=16, width=16, layers=1, heads=2), 8)
  rng = np.random.default_rng(0)
  starts = rng.integers(0, 16, (200, 4, 1), np.int32)
  counting = (starts + np.arange(9, dtype=np.int32)) % 16
  losses = [step(tokens_BT) for tokens_BT in counting]
  assert abs(losses[0] - np.log(16)) < 1
  assert losses[-1] < 0.1


def test_a_step_is_three_forward_passes_over_half_a_row():
  # By hand: the products of 4 layers of width 256 (hidden 688), the vocabulary's
  # 4,096 words, and attention to 128 earlier tokens.
  block = 4 * 256**2 + 3 * 256 * 688
  forward = 2 * (4 * block + 4096 * 256) + 4 * 4 * 256 * 128
  assert bench_training.flops_per_token("4m") == 3 * forward
