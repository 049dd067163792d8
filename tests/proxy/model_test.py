"""The language model: size, causality, segments, positions, start and cost."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model

V, T = 32, 12
CONFIG = model.ProxyConfig(vocab_size=V, width=16, layers=2, heads=2)


@pytest.fixture(scope="module")
def logits():
  """A function (tokens_BT, segment_BT) of a model with random parameters."""
  proxy = model.Proxy(CONFIG)
  params = proxy_loss.init(proxy, jax.random.key(0))
  keys = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
  # Larger than at the start, so that attention is far from uniform.
  params = jax.tree.map(
    lambda x, key: x + 0.5 * jax.random.normal(key, x.shape),
    params,
    jax.tree.unflatten(jax.tree.structure(params), list(keys)),
  )
  apply = jax.jit(lambda *args: proxy.apply({"params": params}, *args))
  return lambda *args: np.asarray(apply(*args))


@pytest.fixture
def tokens_BT():
  return np.random.default_rng(0).integers(0, V, (2, T))


def scale_of(logits_BTV):
  """Tolerance: float32 through two blocks, against the largest logit."""
  return 1e-5 * np.abs(logits_BTV).max()


@pytest.mark.parametrize("name", model.PRESETS)
def test_parameters_are_counted(name):
  config = model.from_preset(name, vocab_size=100)
  tokens_BT = jnp.zeros((1, 2), jnp.int32)
  shapes = jax.eval_shape(
    model.Proxy(config).init, jax.random.key(0), tokens_BT, tokens_BT
  )
  count = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
  assert count == config.num_parameters


@pytest.mark.parametrize("name", model.PRESETS)
def test_presets_are_named_by_their_size(name):
  vocab_size = 2048 if name in _LADDER else 4096
  config = model.from_preset(name, vocab_size=vocab_size)
  told = float(name[:-1]) * 1e6
  assert abs(config.num_parameters / told - 1) < 0.25
  assert config.width % (2 * config.heads) == 0  # rotary halves


_LADDER = ("0.1m", "0.4m", "1.6m")


def test_each_of_the_ladder_has_four_times_the_flops_of_the_one_before():
  flops = [
    model.from_preset(name, vocab_size=2048).flops_per_token(64)
    for name in _LADDER
  ]
  for small, large in itertools.pairwise(flops):
    assert 3.5 < large / small < 4.5


def test_unknown_presets_are_told():
  with pytest.raises(ValueError, match="'3m'.*0.3m, 1m"):
    model.from_preset("3m", vocab_size=10)


def test_logits_do_not_depend_on_later_tokens(logits, tokens_BT):
  segment_BT = np.zeros_like(tokens_BT)
  before = logits(tokens_BT, segment_BT)
  for position in (1, 5, T - 1):
    changed = tokens_BT.copy()
    changed[:, position:] = (changed[:, position:] + 7) % V
    after = logits(changed, segment_BT)
    np.testing.assert_allclose(
      after[:, :position], before[:, :position], atol=scale_of(before)
    )
    moved = np.abs(after[:, position:] - before[:, position:]).max((0, 2))
    assert (moved > 0.1).all()  # and do on earlier ones


def test_logits_do_not_depend_on_other_segments(logits, tokens_BT):
  segment_BT = np.repeat([[4, 9, 2]], [3, 5, 4], axis=1).repeat(2, axis=0)
  before = logits(tokens_BT, segment_BT)
  for number in (4, 9, 2):
    inside = segment_BT == number
    changed = np.where(inside, (tokens_BT + 7) % V, tokens_BT)
    after = logits(changed, segment_BT)
    np.testing.assert_allclose(
      after[~inside], before[~inside], atol=scale_of(before)
    )
    assert np.abs(after[inside] - before[inside]).max(1).min() > 0.1


def test_a_segment_may_start_anywhere_in_its_row(logits, tokens_BT):
  # The same five tokens from positions 0, 3 and 7.
  rows, segments = [], []
  for start in (0, 3, 7):
    row = tokens_BT[0].copy()
    row[start : start + 5] = tokens_BT[1, :5]
    rows.append(row)
    segments.append(np.isin(np.arange(T), np.arange(start, start + 5)))
  found = logits(np.stack(rows), np.stack(segments).astype(int))
  first, *others = (
    found[i, start : start + 5] for i, start in enumerate((0, 3, 7))
  )
  for other in others:
    np.testing.assert_allclose(other, first, atol=scale_of(first))


def test_attention_is_that_of_jax_also_twice_differentiated():
  rng = np.random.default_rng(0)
  qkv = tuple(jnp.asarray(rng.normal(size=(2, 6, 2, 4)) * 3) for _ in range(3))
  segment_BT = np.array([[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, -1]])
  same_BTT = segment_BT[:, :, None] == segment_BT[:, None, :]
  mask_BTT = jnp.asarray(np.tril(np.ones((6, 6), bool)) & same_BTT)
  theirs = functools.partial(
    jax.nn.dot_product_attention, mask=mask_BTT[:, None]
  )

  def ours(q, k, v):
    return model._attend(q, k, v, mask_BTT)

  def curved(attend):
    """The derivative of the gradient of a loss along a direction."""
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(attend(*x))))
    return attend(*qkv), *jax.jvp(gradient, (qkv,), (qkv[::-1],))

  curved = jax.jit(curved, static_argnums=0)
  for found, expected in zip(
    jax.tree.leaves(curved(ours)), jax.tree.leaves(curved(theirs)), strict=True
  ):
    # Float32 against the largest: where a token sees itself alone, all cancels.
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def test_the_order_of_tokens_matters(tokens_BT):
  # In one layer, only positions can tell the last token the order of others.
  proxy = model.Proxy(
    model.ProxyConfig(vocab_size=V, width=16, layers=1, heads=2)
  )
  params = proxy_loss.init(proxy, jax.random.key(0))
  swapped = tokens_BT.copy()
  swapped[:, [2, 6]] = tokens_BT[:, [6, 2]]
  assert (tokens_BT[:, 2] != tokens_BT[:, 6]).all()
  before, after = jax.jit(
    lambda *rows: [
      proxy.apply({"params": params}, row, jnp.zeros_like(row)) for row in rows
    ]
  )(tokens_BT, swapped)
  moved_B = np.abs(after[:, -1] - before[:, -1]).max(1)
  assert (moved_B > 1e-3 * np.abs(before).max()).all()


@pytest.mark.parametrize("vocab_size", [512, 4096])
def test_the_first_loss_is_near_that_of_guessing(vocab_size):
  proxy = model.Proxy(
    model.ProxyConfig(vocab_size=vocab_size, width=64, layers=2, heads=4)
  )
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, vocab_size, (4, 33))
  zeros = np.zeros((4, 32), np.int64)
  losses = proxy_loss.token_losses(proxy)
  params = proxy_loss.init(proxy, jax.random.key(0))
  loss = jnp.mean(
    jax.jit(losses)(params, Batch(tokens[:, :-1], tokens[:, 1:], zeros, zeros))
  )
  # Logits of unit variance cost half a nat more than equal ones, and some goes
  # to the token itself, which the tied embedding echoes.
  assert 0.5 < loss - math.log(vocab_size) < 1.0


def test_losses_are_cross_entropies(logits, tokens_BT):
  proxy = model.Proxy(CONFIG)
  params = proxy_loss.init(proxy, jax.random.key(0))
  zeros = np.zeros_like(tokens_BT)
  label_BT = np.roll(tokens_BT, -1, axis=1)
  logits_BTV = np.asarray(
    proxy.apply({"params": params}, tokens_BT, zeros), np.float64
  )
  expected = np.log(np.exp(logits_BTV).sum(-1))
  expected -= np.take_along_axis(logits_BTV, label_BT[..., None], 2)[..., 0]
  found = proxy_loss.token_losses(proxy)(
    params, Batch(tokens_BT, label_BT, zeros, zeros)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("context", [32, 128])
def test_flops_are_those_that_the_compiler_counts(context):
  # One layer, because the compiler counts the body of a loop once.
  config = model.ProxyConfig(vocab_size=512, width=128, layers=1, heads=4)
  proxy = model.Proxy(config)
  tokens_BT = jnp.zeros((2, context), jnp.int32)
  params = jax.eval_shape(proxy.init, jax.random.key(0), tokens_BT, tokens_BT)
  lowered = jax.jit(proxy.apply).lower(params, tokens_BT, tokens_BT)
  cost: Any = lowered.cost_analysis()
  counted = cost["flops"] / tokens_BT.size
  told = config.flops_per_token(context)
  # Norms, activations and softmaxes are not matmuls: a few per cent.
  assert told < counted < 1.03 * told


def test_bfloat16_keeps_parameters_and_logits_in_float32(tokens_BT):
  config = model.ProxyConfig(
    vocab_size=V, width=16, layers=2, heads=2, dtype="bfloat16"
  )
  params = proxy_loss.init(model.Proxy(config), jax.random.key(0))
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  zeros = np.zeros_like(tokens_BT)
  logits: list[Any] = [
    model.Proxy(c).apply({"params": params}, tokens_BT, zeros)
    for c in (config, CONFIG)
  ]
  low, high = logits
  assert low.dtype == jnp.float32
  # Eight bits of mantissa through two blocks.
  np.testing.assert_allclose(low, high, atol=0.05 * np.abs(high).max())
  assert not np.array_equal(low, high)


@pytest.mark.parametrize(
  "limits",
  [
    {"_WHOLE": 0, "_CHUNK": 4 * 2 * 2 * T * 3},  # three queries at a time
    {"_KEPT": 0, "_WHOLE": 0, "_CHUNK": 1},
  ],
  ids=["queries in chunks", "blocks again too"],
)
def test_what_saves_memory_changes_no_derivative(x64, monkeypatch, limits):
  """Losses, gradient and its derivative along a direction, in float64."""
  proxy = model.Proxy(dataclasses.replace(CONFIG, dtype="float64"))
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(lambda: proxy_loss.init(proxy, jax.random.key(0)))
  params, direction = (
    jax.tree.map(lambda x: 0.5 * rng.normal(size=x.shape), shapes)
    for _ in range(2)
  )
  tokens_BT = rng.integers(0, V, (2, T))
  segment_BT = np.repeat([[4, 9, 2]], [3, 5, 4], axis=1).repeat(2, axis=0)
  batch = Batch(tokens_BT, tokens_BT[:, ::-1], segment_BT, segment_BT)

  def compiled() -> Any:
    def slope(params):
      losses = proxy_loss.token_losses(proxy)
      return jax.value_and_grad(lambda p: jnp.sum(losses(p, batch)))(params)

    run = jax.jit(lambda p: jax.jvp(slope, (p,), (direction,)))
    return run.lower(params).compile()

  plain = compiled()
  for name, limit in limits.items():
    monkeypatch.setattr(model, name, limit)
  thrifty = compiled()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, rtol=0, atol=1e-12 * np.abs(b).max()
    ),
    thrifty(params),
    plain(params),
  )
  # The limits were read.
  sizes = [x.memory_analysis().temp_size_in_bytes for x in (plain, thrifty)]
  assert sizes[0] != sizes[1]


@pytest.mark.parametrize(
  ("limit", "parts"), [(8, 1), (7, 2), (4, 2), (3, 3), (1, 6), (0.5, 6)]
)
def test_rows_take_turns_where_all_would_keep_too_much(
  monkeypatch, limit, parts
):
  """Six rows, as few parts as are small enough; a row is not divided."""
  monkeypatch.setattr(model, "_KEPT", limit * CONFIG.kept_bytes(T) * 6 / 8)
  assert model.Proxy(CONFIG).turns(6, T) == parts
