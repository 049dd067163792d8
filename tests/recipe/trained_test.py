"""A model that is saved comes back, whatever devices it was trained on."""

import dataclasses

import jax
import numpy as np

from cmtree_jax.data.build import prepare, tokenizer
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model
from cmtree_jax.recipe import trained


def test_what_a_kernel_trained_attends_on_any_device(tmp_path):
  size = model.ProxyConfig(
    vocab_size=8, width=8, layers=1, heads=2, attention="splash"
  )
  params = proxy_loss.init(model.Proxy(size), jax.random.key(0))
  learned = tmp_path / "learned"
  learned.mkdir()
  of_bytes = tokenizer.ByteTokenizer()
  (learned / prepare.TOKENIZER_FILE).write_bytes(of_bytes.to_bytes())
  folder = trained.save(
    tmp_path / "model",
    params,
    size,
    {"steps": 3},
    tokenizer_kind="bytes",
    learned=learned,
  )
  found = trained.load(folder)
  jax.tree.map(np.testing.assert_array_equal, found.params, params)
  assert found.proxy.config == dataclasses.replace(size, attention="einsum")
