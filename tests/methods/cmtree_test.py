"""The cluster-mixture tree as a method: what a round does with values."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax import embed
from cmtree_jax.bilevel.problem import Inner, InnerLoss, Problem
from cmtree_jax.bilevel.unrolled import unrolled
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.methods import cmtree
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import Proxy, ProxyConfig
from cmtree_jax.tree import mixture, model
from tests.methods.world import (
  POOL,
  SAMPLE,
  SIGNALS,
  E,
  assert_equal,
  facts,
  features,
  make,
  take,
)

TRUST = 0.05  # far less than the values ask for
STEP = dict(trust=TRUST, solver_steps=150)


@functools.cache
def tree_round(mode="joint", value_scale=1.0, **options):
  """(method, state before, state after, info) of one round on the pool."""
  method = make("cmtree", mode=mode, step=STEP, **options)
  before = method.init(jax.random.key(0), facts(4.0))
  signals = SIGNALS._replace(
    value_BT=np.float32(value_scale) * SIGNALS.value_BT,
    log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B),
  )
  step = jax.jit(method.step)
  after, info = step(before, take(method, np.arange(POOL), signals))
  return method, before, after, info


def pool_log_w(method, state):
  weights = method.finalize(state)
  log_w_N = weights.log_w(take(method, np.arange(POOL)))
  return np.asarray(log_w_N, np.float64)


def told_by_values(old_N, new_N):
  """Masses and centered values of the pool, a step's gain by them, and its nats."""
  mass_N = SIGNALS.mass_B[:POOL].astype(np.float64)
  value_N = SIGNALS.value_BT[:POOL].mean(axis=1)
  value_N = value_N - (mass_N * np.exp(old_N)) @ value_N
  gain = 10.0 * (mass_N * value_N) @ (np.exp(new_N) - np.exp(old_N))
  kl = (mass_N * np.exp(new_N)) @ (new_N - old_N)
  return mass_N, value_N, gain, kl


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_a_step_raises_the_expected_value_within_the_trust_region(mode):
  method, before, after, info = tree_round(mode)
  old_N, new_N = pool_log_w(method, before), pool_log_w(method, after)
  mass_N, value_N, gain, kl = told_by_values(old_N, new_N)
  # Half of what is told is an estimate in which every proxy counts alike.
  np.testing.assert_allclose(kl, info.kl_step, rtol=0.05)
  assert 0.001 < kl <= 1.2 * TRUST * (1 + 1e-4)
  # No step of so many nats gains more than this, to second order (from Cauchy
  # and Schwarz); a tree of four leaves cannot follow all of the values.
  most = 10.0 * np.sqrt(2 * kl * (mass_N @ value_N**2))
  assert 0.12 * most < gain
  assert info.heldout_gain > info.heldout_error > 0
  # Both halves see other documents, with more noise; no value is clipped.
  halves = (info.predicted_gain + info.heldout_gain) / 2
  np.testing.assert_allclose(gain, halves, rtol=0.15)


def test_a_steeper_target_does_not_move_further():
  # The first round sets the step size by the values' spread.
  kl = [
    float(tree_round("frozen", value_scale=scale)[3].kl_step)
    for scale in (1.0, 100.0)
  ]
  np.testing.assert_allclose(kl[1], kl[0], rtol=0.2)


def test_a_frozen_partition_moves_tilts_alone():
  _, before, after, _ = tree_round("frozen")
  for old, new in zip(before.theta, after.theta, strict=True):
    for field in ("angle_PE", "prototype_MCP", "log_kappa"):
      np.testing.assert_array_equal(getattr(old, field), getattr(new, field))
    assert np.abs(old.tilt_MC - new.tilt_MC).max() > 1e-2


def test_a_joint_step_moves_everything():
  _, before, after, _ = tree_round("joint")
  for old, new in zip(before.theta, after.theta, strict=True):
    for x, y in zip(*map(jax.tree.leaves, (old, new)), strict=True):
      assert np.abs(x - y).max() > 1e-3


@pytest.mark.parametrize(
  ("mode", "branching", "least"),
  [
    # Tilts of four leaves alone reach a fifth of what so many nats could gain.
    ("joint", (2, 2), 0.3),
    ("frozen", (2, 2), 0.3),
    # All documents lean one way, as their values do.
    ("joint", (1,), 0.9),
  ],
)
def test_leaves_that_score_follow_values_that_are_linear(
  mode, branching, least
):
  method = make(
    "cmtree",
    mode=mode,
    scores=True,
    branching=branching,
    start=dict(kind="kmeans"),
    step=STEP,
  )
  before = method.init(jax.random.key(0), facts(4.0))
  signals = SIGNALS._replace(
    log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B)
  )
  step = jax.jit(method.step)
  after, info = step(before, take(method, np.arange(POOL), signals))
  assert info.stepped
  old_N, new_N = pool_log_w(method, before), pool_log_w(method, after)
  mass_N, value_N, gain, kl = told_by_values(old_N, new_N)
  assert 0.001 < kl <= 1.2 * TRUST * (1 + 1e-4)
  assert gain > least * 10.0 * np.sqrt(2 * kl * (mass_N @ value_N**2))
  # The cap is that of documents.
  np.testing.assert_allclose(mass_N @ np.exp(new_N), 1.0, rtol=1e-5)
  assert np.exp(new_N).max() <= 4.0 * (1 + 1e-6)
  one, two = before.theta[-1], after.theta[-1]
  assert np.array_equal(one.angle_PE, two.angle_PE) == (mode == "frozen")
  assert not np.array_equal(one.score_MCP, two.score_MCP)
  back = method.undo(after)
  np.testing.assert_array_equal(pool_log_w(method, back), old_N)


def test_a_penalty_keeps_scores_small():
  def length(penalty):
    method = make(
      "cmtree",
      scores=True,
      branching=(1,),
      start=dict(kind="kmeans"),
      step=dict(score_penalty=penalty, **STEP),
    )
    before = method.init(jax.random.key(0), facts(4.0))
    signals = take(method, np.arange(POOL))
    after, info = jax.jit(method.step)(before, signals)
    assert info.stepped
    (last,) = after.theta
    return np.linalg.norm(last.score_MCP, axis=-1).mean()

  free, held = length(0.0), length(0.05)
  assert 0 < held < 0.8 * free


@pytest.mark.slow
def test_levels_that_share_an_angle_go_on_sharing_it():
  _, before, after, info = tree_round("joint", projection="shared")
  for state in (before, after):
    root, below = state.theta
    np.testing.assert_array_equal(root.angle_PE, below.angle_PE)
  moved = after.theta[0].angle_PE - before.theta[0].angle_PE
  assert np.abs(moved).max() > 1e-3
  np.testing.assert_allclose(info.overlap, 1.0, rtol=1e-5)
  assert info.heldout_gain > 0


def test_a_shared_angle_has_the_sum_of_the_levels_slopes():
  theta = tree_round("joint", projection="shared")[1].theta

  def cost(root_PE, below_PE):
    angles = zip(theta, (root_PE, below_PE), strict=True)
    tied = tuple(level._replace(angle_PE=angle) for level, angle in angles)
    log_p_NL = model.log_p_leaf(tied, jnp.asarray(SAMPLE["sample_NE"]))
    return jnp.mean(jnp.exp(log_p_NL[:, 0]))

  angle_PE = theta[0].angle_PE
  slopes = jax.grad(cost, argnums=(0, 1))(angle_PE, angle_PE)
  alike = tuple(
    level._replace(angle_PE=slope)
    for level, slope in zip(theta, slopes, strict=True)
  )
  tie = cmtree._tied_angles()
  tied: Any = tie.update(alike, tie.init(theta), theta)[0]
  whole_PE = jax.grad(lambda angle_PE: cost(angle_PE, angle_PE))(angle_PE)
  for level in tied:
    np.testing.assert_allclose(level.angle_PE, whole_PE, atol=1e-7)
  assert np.abs(slopes[0] - slopes[1]).max() > 1e-3


def test_a_tree_gains_nothing_from_shuffled_values():
  method = make("cmtree", mode="frozen", step=STEP, replay=dict(shuffle=True))
  step = jax.jit(method.step)
  signals = take(
    method,
    np.arange(POOL),
    SIGNALS._replace(log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B)),
  )
  start = method.init(jax.random.key(0), facts(4.0))
  value_B = np.mean(signals.value_BT, axis=1)
  value_N = np.asarray(signals.mass_B * value_B, np.float64)

  def gain(method, state):
    new_N, old_N = pool_log_w(method, state), pool_log_w(method, start)
    return value_N @ (np.exp(new_N) - np.exp(old_N))

  shuffled = [
    gain(method, step(start._replace(round=jnp.int32(number)), signals)[0])
    for number in range(12)
  ]
  told, _, after, _ = tree_round("frozen")
  # Chance alone makes the proxies that judge agree, now and then.
  assert np.count_nonzero(shuffled) < 9
  assert abs(np.mean(shuffled)) < 0.25 * gain(told, after)


def test_a_step_is_taken_back_and_the_next_one_shrinks():
  method, before, after, info = tree_round("joint")
  assert info.stepped
  back = method.undo(after)
  assert_equal(back.theta, before.theta, rtol=0)
  assert_equal(back.log_w_L, before.log_w_L, rtol=0)
  assert (
    np.abs(pool_log_w(method, after) - pool_log_w(method, back)).max() > 0.1
  )
  np.testing.assert_allclose(back.step_size, after.step_size / 2, rtol=1e-6)
  assert back.round == after.round  # time goes on, and so do the values
  assert_equal(back.replay, after.replay, rtol=0)


def said(sign_P):
  """(before, after, info) where proxies say the values of the world, or others."""
  method, before, _, _ = tree_round("frozen")
  sign_B = np.asarray(sign_P)[SIGNALS.proxy_B].astype(np.float32)
  signals = SIGNALS._replace(
    value_BT=sign_B[:, None] * SIGNALS.value_BT,
    log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B),
  )
  after, info = frozen_step()(before, take(method, np.arange(POOL), signals))
  return before, after, info


@functools.cache
def frozen_step():
  return jax.jit(tree_round("frozen")[0].step)


@pytest.mark.parametrize(
  ("sign_P", "stepped"),
  [
    ((1, 1, 1, 1), True),
    ((1, -1, 1, -1), False),  # those that judge say the opposite
    ((1, -1, 1, 2), False),  # their mean gains less than they differ
    ((1, 2, 1, 3), True),  # they differ, but not in the sign
    ((1, 1, -1, 1), True),  # of those that are fitted to, one may be wrong
  ],
)
def test_a_step_is_taken_if_the_other_half_of_the_proxies_says_so(
  sign_P, stepped
):
  sign_P = np.array(sign_P) * np.array([2, 1, 1, 1])
  before, after, info = said(sign_P)
  assert info.stepped == stepped
  assert (info.heldout_gain > info.heldout_error) == stepped
  assert info.predicted_gain > 0 and info.kl_step > 0  # one was found
  moved = np.abs(after.theta[0].tilt_MC - before.theta[0].tilt_MC).max() > 0
  assert moved == stepped
  if not stepped:
    for name in ("theta", "log_w_L", "step_size"):
      assert_equal(getattr(after, name), getattr(before, name), rtol=0)
  assert after.round == 1 and np.sum(after.replay.weight_R > 0) == POOL


def test_the_halves_of_the_proxies_take_turns():
  # In the second round the others are fitted to, and judged by the first.
  method, before, _, _ = tree_round("frozen")
  sign_B = np.array([1, -1, 1, -1])[SIGNALS.proxy_B].astype(np.float32)
  signals = take(
    method,
    np.arange(POOL),
    SIGNALS._replace(value_BT=sign_B[:, None] * SIGNALS.value_BT),
  )
  _, first = frozen_step()(before, signals)
  _, second = frozen_step()(before._replace(round=jnp.int32(1)), signals)
  assert first.heldout_gain < 0 and second.heldout_gain < 0
  told = SIGNALS._replace(
    value_BT=SIGNALS.value_BT * (SIGNALS.proxy_B % 2 == 1)[:, None]
  )
  # Where even proxies say nothing there is nothing to fit to in the first round.
  for number, found in ((0, False), (1, True)):
    start = before._replace(round=jnp.int32(number))
    _, info = frozen_step()(start, take(method, np.arange(POOL), told))
    assert (info.predicted_gain > 1e-6) == found


def test_weights_of_targets_say_whose_values_count():
  method, before, _, _ = tree_round("frozen")
  # The targets want the opposite.
  value_BT = SIGNALS.value_BT[:, :1] * np.array([1.0, -1.0], np.float32)
  gains = []
  for weight_T in ((1.0, 0.0), (0.0, 1.0)):
    signals = SIGNALS._replace(
      value_BT=value_BT,
      target_weight_T=np.asarray(weight_T, np.float32),
      log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B),
    )
    after, info = frozen_step()(before, take(method, np.arange(POOL), signals))
    assert info.stepped
    moved_N = np.exp(pool_log_w(method, after)) - np.exp(
      pool_log_w(method, before)
    )
    gains.append((SIGNALS.mass_B[:POOL] * value_BT[:POOL, 0]) @ moved_N)
  assert gains[0] > 0 > gains[1]


VIEWS = (embed.Block("first", 0, 3), embed.Block("second", 3, E))


@pytest.mark.slow
def test_levels_are_charged_for_seeing_several_views():
  """And a method that is not charged learns as if it did not know of them."""

  def played(penalty, blocks):
    step = STEP | dict(view_penalty=penalty)
    method = make("cmtree", step=step, start=dict(kind="kmeans"))
    signals = SIGNALS._replace(
      log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B)
    )
    known = facts(4.0)._replace(blocks=blocks)
    before = method.init(jax.random.key(0), known)
    signals = take(method, np.arange(POOL), signals)
    after, info = jax.jit(method.step)(before, signals)
    assert info.stepped
    return after.theta, info.view_share

  (blind, nothing), (free, share), (_, charged) = (
    played(0.0, ()),
    played(0.0, VIEWS),
    played(0.01, VIEWS),
  )
  assert nothing == {}
  assert_equal(free, blind, rtol=1e-6)
  for found in (share, charged):
    for level in ("level_1", "level_2"):
      total = sum(float(found[f"{level}.{one.name}"]) for one in VIEWS)
      assert total == pytest.approx(1, abs=1e-5)
  assert 0.5 < share["level_1.first"] < charged["level_1.first"] - 0.05


def test_without_values_nothing_moves():
  # All documents are worth the same: nothing is left after centering.
  method, before, after, info = tree_round("frozen", value_scale=0.0)
  moved = pool_log_w(method, after) - pool_log_w(method, before)
  np.testing.assert_array_equal(moved, 0)
  assert info.predicted_gain == 0 == info.stepped == after.step_size
  for x in jax.tree.leaves((after, info)):
    if jnp.issubdtype(x.dtype, jnp.inexact):
      assert np.isfinite(x).all()


@pytest.mark.slow
def test_noise_depends_on_the_key_and_the_round_alone():
  method = make("cmtree", step=dict(gumbel=True, solver_steps=5))
  signals = take(method, np.arange(POOL))
  step = jax.jit(method.step)
  one, two, other = (
    step(method.init(jax.random.key(seed), facts()), signals)[0].theta
    for seed in (0, 0, 1)
  )
  assert_equal(one, two, rtol=0)
  assert np.abs(one[0].tilt_MC - other[0].tilt_MC).max() > 1e-5


@pytest.mark.slow
def test_values_move_a_tree_along_the_exact_hypergradient():
  # The pieces together: for weights made by a tree, the slope of the replayed
  # values, mean value_i w_i(theta) / proposal_i, is minus the derivative of the
  # target loss through training.
  rng = np.random.default_rng(0)
  steps, rows, tokens = 4, 3, 6

  def documents(*shape):
    text = rng.integers(0, 11, (*shape, tokens + 1)).astype(np.int32)
    number = np.arange(np.prod(shape), dtype=np.int32).reshape(*shape, 1)
    document = np.broadcast_to(number, (*shape, tokens))
    return Batch(text[..., :-1], text[..., 1:], document, document)

  batches, outer = documents(steps, rows), documents(2, 4)
  outer = outer, np.full(outer.tokens_BT.shape, 1 / 8 / tokens, np.float32)
  config = ProxyConfig(vocab_size=11, width=8, layers=1, heads=2)
  optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.3)
  engine = engines.make(config, optimizer)
  phi = engine.init(jax.random.key(0)[None])
  theta = make("cmtree").init(jax.random.key(0), facts()).theta
  embedding_BE = jnp.asarray(features(steps * rows, 7))
  proposal_B = jnp.asarray(rng.uniform(0.5, 2.0, steps * rows), jnp.float32)

  def weight(theta):
    log_p_NL = model.log_p_leaf(theta, jnp.asarray(SAMPLE["sample_NE"]))
    log_w_L = mixture.weigh(
      mixture.leaf_tilt(theta),
      log_p_NL,
      jnp.asarray(SAMPLE["sample_mass_N"]),
      max_weight=4.0,
    )
    log_p_BL = model.log_p_leaf(theta, embedding_BE)
    return jnp.exp(mixture.document_log_w(log_p_BL, log_w_L)) / proposal_B

  document_SBT = jnp.asarray(batches.document_BT)
  unroll = engine.unroll(
    phi,
    *jax.tree.map(
      lambda x: x[None], (batches, weight(theta)[document_SBT], outer)
    ),
  )
  replayed = jax.jit(
    jax.grad(
      lambda theta: jnp.mean(unroll.value[0] * weight(theta)[document_SBT])
    )
  )(theta)

  losses = proxy_loss.token_losses(Proxy(config))
  alone = jax.tree.map(lambda x: x[0], phi)

  def normalized(theta, batches):
    weight_SBT = weight(theta)[batches.document_BT]
    return weight_SBT / jnp.sum(weight_SBT, axis=(1, 2), keepdims=True)

  exact = jax.jit(
    lambda theta, phi: (
      unrolled(
        Problem(
          proxy_loss.sum_over_chunks(losses),
          InnerLoss(losses, normalized),
          theta,
          phi,
          batches,
          outer,
        ),
        optimizer=optim.cooldown(optimizer, steps),
      ).grad_theta
    )
  )(theta, Inner(alone.params, optim.start_cooldown(alone.opt_state)))
  scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(exact))
  assert scale > 1e-3
  # Float32 through four steps of training.
  assert_equal(
    jax.tree.map(lambda x: x / scale, replayed),
    jax.tree.map(lambda x: -x / scale, exact),
    atol=1e-4,
  )
