"""The kernel attends as the einsums do, divided among devices too, or says why not.

The kernel is TPU's; here it is interpreted.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.bilevel import HYPERGRADS
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import lowering, model, optim, splash

V = 16
CONFIG = model.ProxyConfig(vocab_size=V, width=16, layers=1, heads=2)
KEYS = jax.random.split(jax.random.key(0), 1)
SPLASH = dataclasses.replace(CONFIG, attention="splash")
OPTIMIZER = optim.adamw(
  1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-6
)


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
  """Also with several blocks in a row."""
  name = "make_splash_mha_single_device"
  made = functools.partial(getattr(splash.kernels, name), interpret=True)
  monkeypatch.setattr(splash.kernels, name, made)
  monkeypatch.setattr(splash, "_BLOCKS", (128,))


def rows(*shape):
  """Three documents in each row of tokens."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, V, (*shape, shape[-1])).astype(np.int32)[..., 0, :]
  length = shape[-1]
  ends = [length // 4, length // 2, length - length // 4 - length // 2]
  segment = np.broadcast_to(np.repeat([4, 9, -1], ends), tokens.shape)
  segment = segment.astype(np.int32)
  return Batch(tokens, tokens[..., ::-1].copy(), segment, segment)


def close(found, expected, *, within=1e-5):
  """Float32, against the largest of each array."""

  def one(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, rtol=0, atol=within * np.abs(b).max())

  jax.tree.map(one, found, expected)


@pytest.mark.parametrize(
  ("width", "dtype", "within"),
  # Eight bits of mantissa, of weights and of what is summed with them.
  [(24, jnp.float32, 1e-5), (64, jnp.bfloat16, 2e-2)],
)
def test_attention_and_its_gradient_are_those_of_einsums(width, dtype, within):
  length = 200  # neither it nor 24 is what the kernel's tiles hold
  rng = np.random.default_rng(0)
  qkv = tuple(
    jnp.asarray(rng.normal(size=(2, length, 2, width)), dtype) for _ in range(3)
  )
  segment_BT = np.repeat([[0, 7, -1, 3], [5, 5, 0, 1]], [1, 60, 99, 40], axis=1)
  same_BTT = segment_BT[:, :, None] == segment_BT[:, None, :]
  mask_BTT = np.tril(np.ones((length, length), bool)) & same_BTT

  def of(attend):
    def loss(qkv):
      attended = attend(*qkv)
      return jnp.sum(jnp.sin(attended)), attended

    return jax.jit(jax.grad(loss, has_aux=True))(qkv)

  segment, mask = jnp.asarray(segment_BT), jnp.asarray(mask_BTT)
  found = of(lambda q, k, v: splash.attend(q, k, v, segment, saved_name="x"))
  expected = of(lambda q, k, v: model._attend(q, k, v, mask))
  close(found, expected, within=within)


def slope(config, batch):
  """A function of parameters: the loss of all rows and its gradient."""
  losses = proxy_loss.token_losses(model.Proxy(config))
  return jax.value_and_grad(lambda params: jnp.sum(losses(params, batch)))


def test_heads_are_divided_where_every_device_has_all_rows():
  """As in products of gradients; documents are no longer a manual axis there."""
  mesh = sharding.make_mesh(population=1, data=2, model=2)

  def found(config):
    def one(params, batch):
      return slope(config, batch)(params)

    params = engines.make(config, OPTIMIZER, mesh=mesh).init(KEYS).params
    placed = [None, engines.WHOLE]
    return engines.members(mesh, one, placed)(params, rows(2, 160))

  close(found(SPLASH), found(CONFIG))


def test_documents_and_heads_are_divided():
  mesh = sharding.make_mesh(population=1, data=2, model=2)

  def found(config):
    engine = engines.make(config, OPTIMIZER, mesh=mesh)
    return engine.losses(engine.init(KEYS).params, rows(1, 4, 8))

  close(found(SPLASH), found(CONFIG))


def test_blocks_that_are_done_again_have_the_same_gradient(monkeypatch):
  monkeypatch.setattr(model, "_KEPT", 0)
  batch = rows(2, 8)
  params = proxy_loss.init(model.Proxy(CONFIG), KEYS[0])
  close(*(jax.jit(slope(x, batch))(params) for x in (SPLASH, CONFIG)))


def test_what_takes_tangents_or_attends_to_nothing_is_done_in_einsums():
  size = lowering.Size(rows=2, row_tokens=8)
  splashed, plain = (
    engines.make(config, OPTIMIZER) for config in (SPLASH, CONFIG)
  )
  for name in ("probe", "init"):
    lowered = [lowering.lower(x, name, size) for x in (splashed, plain)]
    assert lowered[0].as_text() == lowered[1].as_text()


@pytest.mark.parametrize("name", HYPERGRADS)
def test_an_estimator_that_takes_tangents_is_refused(name):
  engine = engines.make(SPLASH, OPTIMIZER, estimator=name)
  size = lowering.Size(rows=2, row_tokens=8)

  def trace(program):
    function: Any = getattr(engine, program).compiled
    arguments = lowering.PROGRAMS[program](lowering.Arguments(engine, size))
    return jax.eval_shape(function, *arguments)

  trace("train")
  if name == "difference":
    trace("unroll")
    return
  with pytest.raises(ValueError, match=f"'{name}' takes.*: difference\\."):
    trace("unroll")
