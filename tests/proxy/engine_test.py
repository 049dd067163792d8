"""The compiled edge: members keep to themselves, and nothing compiles twice."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.bilevel import HYPERGRADS, problem
from cmtree_jax.bilevel.problem import InnerLoss, Problem
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import Proxy, ProxyConfig

P, S, B, T, V = 2, 4, 3, 6, 11
CONFIG = ProxyConfig(vocab_size=V, width=8, layers=1, heads=2)
OPTIMIZER = optim.adamw(
  1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-6
)


def rows(seed, *shape):
  tokens = np.random.default_rng(seed).integers(0, V, (*shape, T + 1))
  zeros = np.zeros((*shape, T), np.int32)
  tokens = tokens.astype(np.int32)
  return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)


def ones(*shape):
  return np.ones((*shape, T), np.float32)


@pytest.fixture(scope="module")
def engine():
  return engines.make(CONFIG, OPTIMIZER)


@pytest.fixture
def phi(engine):
  return engine.init(jax.random.split(jax.random.key(0), P))


def member(tree, index):
  return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def assert_equal(found, expected):
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_only_the_wanted_members_train(engine, phi):
  before = jax.device_get(phi)
  after, loss_PS = engine.train(
    phi, rows(0, P, S, B), ones(P, S, B), np.array([False, True])
  )
  assert_equal(member(after, 0), member(before, 0))
  assert (
    member(after.params, 1)["embedding"] != before.params["embedding"][1]
  ).any()
  assert (np.asarray(loss_PS)[0] == 0).all() and (
    np.asarray(loss_PS)[1] > 1
  ).all()


def test_only_the_chosen_members_are_reset(engine, phi):
  phi, _ = engine.train(
    phi, rows(0, P, S, B), ones(P, S, B), np.array([True, True])
  )
  before = jax.device_get(phi)
  keys = jax.random.split(jax.random.key(1), P)
  after = engine.reset(phi, keys, np.array([True, False]))
  assert_equal(member(after, 0), member(engine.init(keys), 0))
  assert_equal(member(after, 1), member(before, 1))


def test_valued_steps_are_the_steps_of_ordinary_training():
  """At a learning rate that moves, so that a cooldown would be seen."""
  decaying = optim.adamw(
    1e-2, warmup_steps=2, total_steps=9, weight_decay=0.01, eps_root=1e-6
  )
  engine = engines.make(CONFIG, decaying, estimator="difference")
  key_P, all_P = jax.random.split(jax.random.key(0), P), np.array([True, True])
  batches = rows(0, P, S, B), ones(P, S, B)
  outer = rows(1, P, 1, B), ones(P, 1, B) / T
  plain, loss_PS = engine.train(engine.init(key_P), *batches, all_P)
  valued, valued_loss_PS, unroll = engine.valued(
    engine.init(key_P), *batches, outer
  )
  close = {"rtol": 1e-5, "atol": 1e-6}
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **close), valued, plain
  )
  np.testing.assert_allclose(valued_loss_PS, loss_PS, **close)
  # The next steps are those that ordinary training would take.
  _, after_PS = engine.train(plain, *batches, all_P)
  _, valued_after_PS = engine.train(valued, *batches, all_P)
  np.testing.assert_allclose(valued_after_PS, after_PS, **close)
  assert (np.abs(np.asarray(unroll.value)).max(axis=(1, 2, 3)) > 1e-4).all()


@pytest.mark.slow
def test_an_unroll_of_two_is_two_unrolls(engine, phi):
  batches, outer = rows(1, P, S, B), rows(2, P, 2, B)
  both = engine.unroll(phi, batches, ones(P, S, B), (outer, ones(P, 2, B)))
  for index in range(P):
    one = jax.tree.map(
      lambda x, i=index: x[i : i + 1],
      (phi, batches, ones(P, S, B), (outer, ones(P, 2, B))),
    )
    found = engine.unroll(*one)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
      member(found, 0),
      member(both, index),
    )


@pytest.mark.slow
def test_members_at_once_are_as_members_in_turn():
  chosen = np.array([True, True, False])
  batches, weights = rows(0, 3, S, B), ones(3, S, B)

  def found(at_once):
    engine = engines.make(
      CONFIG, OPTIMIZER, estimator="difference", at_once=at_once
    )
    phi = engine.init(jax.random.split(jax.random.key(0), 3))
    phi, loss_PS = engine.train(phi, batches, weights, chosen)
    outer = (rows(1, 3, 1, B), ones(3, 1, B))
    unrolled = engine.unroll(phi, batches, weights, outer)
    losses = engine.losses(phi.params, rows(2, 2, B))
    return jax.device_get((loss_PS, phi.params, unrolled, losses))

  def close(one, other):
    # A difference of gradients loses digits of the small ones.
    scale = np.abs(one).max()
    np.testing.assert_allclose(one, other, rtol=0, atol=5e-3 * scale)

  jax.tree.map(close, found(1), found(2))


@pytest.mark.slow
def test_a_value_along_the_path_is_of_the_mean_loss():
  follows = engines.make(
    CONFIG, OPTIMIZER, estimator="unrolled", options={"along_path": True}
  )
  trained = np.array([True])
  phi = follows.init(jax.random.key(0)[None])
  phi, _ = follows.train(phi, rows(0, 1, S, B), ones(1, S, B), trained)
  batches, outer = rows(3, 1, 2, B), (rows(4, 1, 2, B), ones(1, 2, B))
  shared = rows(4, 1, 2, B)
  shared = jax.tree.map(lambda x: x[0], shared), ones(2, B)

  def mean_loss(weight):
    """Of the parameters after each step of the cooldown."""
    first = follows.train(
      jax.tree.map(jnp.copy, phi),
      jax.tree.map(lambda x: x[:, :1], batches),
      weight[:, :1],
      trained,
    )[0]
    last = follows.cooled(phi, batches, weight)
    return np.mean(
      [follows.weighted_nats(x, shared)[0] for x in (first.params, last)]
    )

  found = follows.unroll(phi, batches, ones(1, 2, B), outer)
  np.testing.assert_allclose(
    found.outer_loss[0], mean_loss(ones(1, 2, B)), rtol=1e-6
  )
  # Along the derivative itself, where rounding is least: its own length.
  value = np.asarray(found.value)
  step = 0.3 * value / np.abs(value).max()
  fall = [mean_loss(ones(1, 2, B) + sign * step) for sign in (-1, 1)]
  expected = np.vdot(value, step) / value.size
  assert (fall[0] - fall[1]) / 2 == pytest.approx(expected, rel=0.05)


def test_training_takes_its_phi_over(engine, phi):
  engine.train(phi, rows(0, P, S, B), ones(P, S, B), np.array([True, True]))
  assert all(x.is_deleted() for x in jax.tree.leaves(phi))


def test_nothing_compiles_a_second_time(engine, phi, caplog):
  def go(seed, phi):
    phi, _ = engine.train(
      phi, rows(seed, P, S, B), ones(P, S, B), np.array([True, seed > 1])
    )
    batches, outer = rows(seed, P, S, B), (rows(seed, P, 2, B), ones(P, 2, B))
    unroll = engine.unroll(phi, batches, ones(P, S, B), outer)
    engine.probe(phi.params, unroll.adjoint, rows(seed, P, 2, B))
    params = engine.cooled(phi, batches, ones(P, S, B))
    engine.weighted_nats(params, (rows(seed, 2, B), ones(2, B)))
    return engine.reset(
      phi, jax.random.split(jax.random.key(seed), P), np.array([True, False])
    )

  phi = go(1, phi)
  with jax.log_compiles(True), caplog.at_level(logging.WARNING):
    go(2, phi)
  compiled = [
    r.getMessage() for r in caplog.records if "Compiling" in r.getMessage()
  ]
  assert compiled == []
  # The log would have shown it:
  with jax.log_compiles(True), caplog.at_level(logging.WARNING):
    jax.jit(lambda x: x + 3.25)(np.ones(5, np.float32))
  assert "Compiling" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unrolled", "first_order"])
def test_bfloat16_keeps_its_adjoint_in_float32(name):
  """From one warm proxy the direction is that of float32."""
  start, found = None, {}
  for dtype in ("float32", "bfloat16"):
    proxy = Proxy(
      ProxyConfig(vocab_size=V, width=32, layers=1, heads=2, dtype=dtype)
    )
    losses = proxy_loss.token_losses(proxy)

    run = _bfloat16_case(name, losses)
    if start is None:
      params = proxy_loss.init(proxy, jax.random.key(0))
      start = problem.init_inner(params, OPTIMIZER)
      for seed in range(20):
        start = run(start, rows(seed % 3, S, B)).phi_next
    found[dtype] = run(start, rows(5, S, B))
    assert {x.dtype.name for x in jax.tree.leaves(found[dtype].adjoint)} == {
      "float32"
    }
  exact, rounded = (np.ravel(one.grad_theta) for one in found.values())
  size = np.linalg.norm(exact) * np.linalg.norm(rounded)
  assert exact @ rounded / size > 0.99


def _bfloat16_case(name, losses):
  return jax.jit(
    lambda phi, batches: HYPERGRADS[name].run(
      Problem(
        lambda params, batch: losses(params, batch).mean(),
        InnerLoss(losses, lambda theta_SBT, _: theta_SBT),
        np.full((S, B, T), 1 / B / T, np.float32),
        phi,
        batches,
        rows(9, B),
      ),
      optimizer=OPTIMIZER,
    )
  )
