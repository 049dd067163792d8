"""Gradients of single documents against those of one document at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT
from cmtree_jax.signals import single, sketches
from tests import toy

# Of up to three pieces; some short enough for narrower rows.
T = 18
ASKED = np.array([3, 20, 7, 0, 11, 5, 8])  # in no order of length


@pytest.fixture(scope="module")
def engine():
  return toy.engine()


@pytest.fixture(scope="module")
def phi(engine):
  """A proxy that has trained a little, so that Adam has moments."""
  phi = engine.init(jax.random.key(0)[None])
  rng = np.random.default_rng(0)
  tokens = rng.integers(1, toy.V, (1, 3, 4, 9)).astype(np.int32)
  zeros = np.zeros((1, 3, 4, 8), np.int32)
  batches = Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)
  weight = np.ones(zeros.shape, np.float32)
  return engine.train(phi, batches, weight, np.array([True]))[0]


def source(engine, phi, lanes=4, row_tokens=T):
  tokens = toy.corpus().world.pool.tokens
  return single.Source(engine, phi, tokens, row_tokens, lanes, toy.FLOPS)


def gradients_one_by_one(engine, phi, row_tokens=T):
  """Of the mean loss of each document that is asked for, in rows of its own."""
  tokens = toy.corpus().world.pool.tokens
  losses = proxy_loss.token_losses(engine.proxy)
  params = jax.tree.map(lambda x: x[0], phi.params)

  @jax.jit
  @jax.grad
  def slope(params, flat, real):
    zeros = jnp.zeros(real.shape, jnp.int32)
    tokens, labels = (x.reshape(real.shape) for x in (flat[:-1], flat[1:]))
    rows = Batch(tokens, labels, zeros, zeros)
    return jnp.sum(real * losses(params, rows)) / jnp.sum(real)

  found = []
  for document in ASKED:
    start, pairs = tokens.start_N1[document], tokens.pairs_N[document]
    size = 30 // row_tokens * row_tokens + row_tokens
    flat = np.zeros(size + 1, np.int32)
    flat[: pairs + 1] = tokens.flat[start : start + pairs + 1]
    real = np.float32(np.arange(size) < pairs).reshape(-1, row_tokens)
    found.append(slope(params, flat, real))
  return found


@pytest.fixture(scope="module")
def each(engine, phi):
  return gradients_one_by_one(engine, phi)


def test_documents_are_of_one_and_of_several_pieces():
  pairs = toy.corpus().world.pool.tokens.pairs_N[ASKED]
  assert pairs.min() <= 16 < T < pairs.max()


def test_norms_are_those_of_each_document_alone(engine, phi, each):
  found_B, cost = single.norms(source(engine, phi), ASKED)
  expected = [optax.tree.norm(one) for one in each]
  np.testing.assert_allclose(found_B, expected, rtol=1e-4)
  pairs = toy.corpus().world.pool.tokens.pairs_N[ASKED]
  assert pairs.sum() <= cost.tokens <= pairs.sum() + len(ASKED) * T
  assert cost.flops == cost.tokens * GRADIENT * toy.FLOPS


@pytest.mark.parametrize("form", sketches.FORMS)
def test_sketches_are_those_of_each_document_alone(engine, phi, each, form):
  key = jax.random.key(3)
  found_BP, cost = single.sketched(
    source(engine, phi), ASKED, form=form, size=32, key=key
  )
  state = jax.tree.map(lambda x: x[0], phi.opt_state)
  formed = [sketches.formed(form, one, state) for one in each]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *formed)
  expected = sketches.project(stacked, key, 32)
  if form == "sign":  # signs of what is all but zero differ by rounding
    assert np.corrcoef(found_BP.ravel(), np.ravel(expected))[0, 1] > 0.99
  else:
    np.testing.assert_allclose(found_BP, expected, rtol=2e-3, atol=2e-3)
  parameters = toy.CONFIG.num_parameters
  assert cost.flops - cost.tokens * GRADIENT * toy.FLOPS == pytest.approx(
    len(ASKED) * 2 * parameters
  )


def test_an_influence_is_the_fall_after_a_step_on_the_document(
  engine, phi, each
):
  frozen = toy.corpus().view.eval_sets[0]
  weight = frozen.weight_CBT / frozen.weight_CBT.sum()
  target = frozen.batches, weight.astype(np.float32)
  found_B, cost = single.influences(source(engine, phi), ASKED, target)
  losses = proxy_loss.token_losses(engine.proxy)

  @jax.jit
  def loss(params):
    return proxy_loss.sum_over_chunks(losses)(params, target)

  one = jax.tree.map(lambda x: x[0], phi)
  before, expected = loss(one.params), []
  for gradient in each:
    update, _ = engine.optimizer.update(gradient, one.opt_state, one.params)
    expected.append(before - loss(optax.apply_updates(one.params, update)))
  assert np.ptp(expected) > 1e-3  # documents differ
  np.testing.assert_allclose(found_B, expected, atol=1e-5)
  groups = -(-len(ASKED) // source(engine, phi).lanes)
  read = (len(ASKED) + groups) * weight.size
  assert cost.flops == toy.FLOPS * (
    (cost.tokens - read) * GRADIENT + read * FORWARD
  )


def test_a_document_of_many_pieces_has_one_gradient(engine, phi):
  pairs = toy.corpus().world.pool.tokens.pairs_N[ASKED]
  assert -(-pairs.max() // 6) == 5
  found_B, _ = single.norms(source(engine, phi, row_tokens=6), ASKED)
  each = gradients_one_by_one(engine, phi, row_tokens=6)
  expected = [optax.tree.norm(one) for one in each]
  np.testing.assert_allclose(found_B, expected, rtol=1e-4)


def test_the_rest_of_a_long_document_is_not_read(engine, phi):
  whole = source(engine, phi, row_tokens=6)
  found_B, cost = single.norms(whole._replace(longest=10), ASKED)
  tokens = whole.tokens
  begin, pairs = tokens.start_N1[ASKED], np.minimum(tokens.pairs_N[ASKED], 10)
  cut = packing.TokenStore(
    np.concatenate(
      [tokens.flat[a : a + n + 1] for a, n in zip(begin, pairs, strict=True)]
    ),
    np.concatenate([[0], np.cumsum(pairs + 1)]),
    tokens.bytes_N[ASKED],
  )
  short = whole._replace(tokens=cut)
  expected, same = single.norms(short, np.arange(len(ASKED)))
  np.testing.assert_allclose(found_B, expected, rtol=1e-5)
  assert cost == same


@pytest.mark.slow
def test_lanes_and_devices_change_nothing(engine, phi):
  alone, _ = single.norms(source(engine, phi, lanes=1), ASKED)
  many, _ = single.norms(source(engine, phi, lanes=8), ASKED)
  np.testing.assert_allclose(alone, many, rtol=1e-5)
  of = dict(form="adam", size=16, key=jax.random.key(0))
  sketch_BP, _ = single.sketched(source(engine, phi), ASKED, **of)
  for axes in (dict(data=4), dict(data=2, model=2)):
    sharded = toy.engine(**axes)
    there = source(sharded, _moved(sharded, phi), lanes=4)
    found, _ = single.norms(there, ASKED)
    np.testing.assert_allclose(found, many, rtol=1e-5)
    found, _ = single.sketched(there, ASKED, **of)
    np.testing.assert_allclose(found, sketch_BP, rtol=1e-3, atol=1e-3)


def _moved(engine, phi):
  """phi on another engine's devices."""
  place = engine.init(jax.random.key(0)[None])
  return jax.tree.map(
    lambda x, like: jax.device_put(np.asarray(x), like.sharding), phi, place
  )
