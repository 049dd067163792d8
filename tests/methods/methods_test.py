"""What every method must obey, and the simplest fact of each."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax import engine as engines
from cmtree_jax import loops, optim
from cmtree_jax.batch import Batch
from cmtree_jax.bilevel.problem import Inner, InnerLoss
from cmtree_jax.bilevel.unrolled import unrolled
from cmtree_jax.evaluate.perplexity import sum_over_chunks
from cmtree_jax.methods import METHODS, cmtree
from cmtree_jax.methods.base import Facts, Signals
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.model import Proxy, ProxyConfig
from cmtree_jax.tree import mixture, model

POOL, TARGET, B, K, E = 60, 20, 40, 4, 6
SMALL = {  # what a method needs to be small, and free of noise
  "cmtree": dict(
    branching=(2, 2),
    angle_dim=3,
    kappa=4.0,
    solver_steps=30,
    replay_size=80,  # all that come
    gumbel=False,
  )
}
MAX_WEIGHT = 1.5


def make(name, **settings):
  return METHODS[name](**{**SMALL.get(name, {}), **settings})


def features(count, seed):
  return np.random.default_rng(seed).normal(size=(count, E)).astype(np.float32)


def all_signals():
  """Pool documents, then target documents (without mass in the pool)."""
  rng = np.random.default_rng(0)
  embedding_BE = features(POOL + TARGET, 1)
  embedding_BE[POOL:, 0] += 1.5
  mass_B = np.pad(rng.dirichlet(np.full(POOL, 3.0)), (0, TARGET))
  target_mass_B = np.pad(np.full(TARGET, 1 / TARGET), (POOL, 0))
  # Target documents are in clusters 0 and 1.
  cluster_B = np.append(rng.integers(0, K, POOL), rng.integers(0, 2, TARGET))
  return Signals(
    mass_B=mass_B.astype(np.float32),
    target_mass_B=target_mass_B.astype(np.float32),
    cluster_B=cluster_B.astype(np.int32),
    embedding_BE=embedding_BE,
    # Bounded, so that none is clipped.
    value_B=np.tanh(embedding_BE @ np.array([2, 1, 0, 0, 0, -1])) / 50 + 0.3,
    log_proposal_B=rng.normal(0, 0.2, POOL + TARGET).astype(np.float32),
  )


SIGNALS = all_signals()
SAMPLE = dict(
  sample_NE=SIGNALS.embedding_BE[:POOL], sample_mass_N=SIGNALS.mass_B[:POOL]
)


def facts(max_weight=MAX_WEIGHT):
  return Facts(
    max_weight=max_weight,
    num_clusters=K,
    horizon=10.0,
    target_NE=SIGNALS.embedding_BE[POOL:],
    target_mass_N=SIGNALS.target_mass_B[POOL:],
    **SAMPLE,
  )


def take(method, index, signals=SIGNALS):
  """The declared signals of some documents, and the sample; all else None."""
  columns = {
    name: None if x is None else jnp.asarray(x[index])
    for name, x in signals._asdict().items()
  }
  columns.update({name: jnp.asarray(x) for name, x in SAMPLE.items()})
  return Signals(**{n: x for n, x in columns.items() if n in method.signals})


# Two batches; each mixes documents of pool and target.
BATCHES = tuple(
  np.random.default_rng(2).permutation(POOL + TARGET).reshape(2, B)
)


class Run:
  """A method stepped over both batches, with a count of its traces."""

  def __init__(self, name):
    self.method = make(name)
    self.traces = 0

    @jax.jit
    def step(state, signals):
      self.traces += 1
      return self.method.step(state, signals)

    self.step = step
    self.states = [self.method.init(jax.random.key(0), facts())]
    for index in BATCHES:
      state, _ = step(self.states[-1], take(self.method, index))
      self.states.append(state)

  def log_w(self, state, signals=SIGNALS):
    """Of the pool's documents."""
    pool = take(self.method, np.arange(POOL), signals)
    return np.asarray(self.method.finalize(state).log_w(pool))


@functools.cache
def run_of(name):
  return Run(name)


@pytest.fixture(params=sorted(METHODS))
def run(request):
  return run_of(request.param)


def assert_equal(one, two, **tolerance):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    np.testing.assert_allclose(a, b, **tolerance)


def test_a_step_traces_once_and_can_be_scanned(run):
  assert run.traces == 1
  signals = [take(run.method, index) for index in BATCHES]
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *signals)
  # Traced only: scan refuses a state that changes its structure or types.
  state, _ = jax.eval_shape(
    lambda s, x: jax.lax.scan(run.method.step, s, x), run.states[0], stacked
  )
  shape_of = functools.partial(jax.tree.map, lambda x: (x.shape, x.dtype))
  for one in run.states:
    assert shape_of(one) == shape_of(state)


def test_declared_signals_are_fields_and_loops_are_known(run):
  assert run.method.signals <= set(Signals._fields)
  assert run.method.loop in ("pass", "train")


def test_finalize_is_legal_after_every_step(run):
  for state in run.states:
    log_w_N = run.log_w(state)
    assert log_w_N.shape == (POOL,)
    assert np.isfinite(log_w_N).all()


def test_weights_have_mean_one_and_obey_the_cap(run):
  w_N = np.exp(run.log_w(run.states[-1]))
  np.testing.assert_allclose(w_N @ SIGNALS.mass_B[:POOL], 1.0, rtol=1e-5)
  assert w_N.max() <= MAX_WEIGHT * (1 + 1e-5)
  assert w_N.min() > 0


def test_permuted_documents_change_nothing(run):
  # Numbers modulo five stay: cmtree holds out every fifth of a batch.
  order = np.random.default_rng(3).permutation(B // 5)
  order = (5 * order[:, None] + np.arange(5)).ravel()
  state = run.states[0]
  for index in BATCHES:
    state, _ = run.step(state, take(run.method, index[order]))
  # Sums round by 1e-7 in another order; 30 steps of Adam pass that on.
  assert_equal(run.log_w(state), run.log_w(run.states[-1]), atol=1e-3)


def test_relabelled_clusters_change_nothing(run):
  relabel_K = np.array([2, 0, 3, 1])
  signals = SIGNALS._replace(cluster_B=relabel_K[SIGNALS.cluster_B])
  state = run.states[0]
  for index in BATCHES:
    state, _ = run.step(state, take(run.method, index, signals))
  assert_equal(run.log_w(state, signals), run.log_w(run.states[-1]), atol=1e-6)


def test_a_saved_state_continues_bit_by_bit(run):
  leaves, structure = jax.tree.flatten(run.states[1])
  saved = [np.array(x) for x in leaves]
  state, _ = run.step(
    jax.tree.unflatten(structure, saved), take(run.method, BATCHES[1])
  )
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(run.states[2]), strict=True
  ):
    np.testing.assert_array_equal(one, two)


def test_equal_keys_give_equal_states(run):
  state = run.method.init(jax.random.key(0), facts())
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(run.states[0]), strict=True
  ):
    np.testing.assert_array_equal(one, two)


# ------------------------------------------------------------------ of each


def weights_by_pass(name, max_weight, *, batch=B, chunk=None):
  """(weights of the pool's documents, shares of clusters in the pool)."""
  method = make(name)
  size = len(SIGNALS.mass_B)
  chunks = [
    Signals(
      *(x if x is None else x[start : start + (chunk or size)] for x in SIGNALS)
    )
    for start in range(0, size, chunk or size)
  ]
  weights = loops.pass_over_corpus(
    method, facts(max_weight), chunks, batch=batch
  )
  w_N = np.exp(weights.log_w(take(method, np.arange(POOL))), dtype=np.float64)
  return w_N, np.bincount(SIGNALS.cluster_B[:POOL], SIGNALS.mass_B[:POOL])


def test_natural_is_weight_one():
  w_N, _ = weights_by_pass("natural", MAX_WEIGHT)
  assert (w_N == 1).all()


@pytest.mark.parametrize("name", ["uniform_clusters", "crisp"])
def test_the_size_of_batches_does_not_matter(name):
  # 17 does not divide 80: the last batch is filled up with documents of no mass.
  one, _ = weights_by_pass(name, 100.0)
  two, _ = weights_by_pass(name, 100.0, batch=17, chunk=33)
  np.testing.assert_allclose(one, two, rtol=1e-5)


def test_uniform_clusters_get_equal_tokens():
  w_N, _ = weights_by_pass("uniform_clusters", 100.0)
  tokens_K = np.bincount(SIGNALS.cluster_B[:POOL], w_N * SIGNALS.mass_B[:POOL])
  np.testing.assert_allclose(tokens_K, 1 / K, rtol=1e-5)


def test_uniform_clusters_share_what_the_cap_takes_from_the_rarest():
  _, q_K = weights_by_pass("uniform_clusters", 100.0)
  rare = np.argmin(q_K)
  cap = 0.9 / K / q_K[rare]
  w_N, _ = weights_by_pass("uniform_clusters", cap)
  tokens_K = np.bincount(SIGNALS.cluster_B[:POOL], w_N * SIGNALS.mass_B[:POOL])
  expected_K = np.full(K, (1 - 0.9 / K) / (K - 1))
  expected_K[rare] = 0.9 / K
  assert cap > 1
  np.testing.assert_allclose(tokens_K, expected_K, rtol=1e-5)


def test_crisp_weighs_by_the_ratio_of_target_and_corpus():
  w_N, q_K = weights_by_pass("crisp", 100.0)
  target_K = np.bincount(SIGNALS.cluster_B[POOL:], minlength=K) / TARGET
  expected_K = 0.999 * target_K / q_K + 0.001  # with the default smoothing
  assert (target_K[2:] == 0).all()
  np.testing.assert_allclose(
    w_N, expected_K[SIGNALS.cluster_B[:POOL]], rtol=1e-5
  )


# ----------------------------------------------------------- of the tree

TRUST = 0.05  # far less than the values ask for


@functools.cache
def tree_round(mode="joint", value_scale=1.0):
  """(method, state before, state after, info) of one round on the pool."""
  method = make("cmtree", mode=mode, trust=TRUST, solver_steps=150)
  before = method.init(jax.random.key(0), facts(4.0))
  signals = SIGNALS._replace(
    value_B=np.float32(value_scale) * SIGNALS.value_B,
    log_proposal_B=np.zeros_like(SIGNALS.log_proposal_B),
  )
  step = jax.jit(method.step)
  after, info = step(before, take(method, np.arange(POOL), signals))
  return method, before, after, info


def pool_log_w(method, state):
  weights = method.finalize(state)
  log_w_N = weights.log_w(take(method, np.arange(POOL)))
  return np.asarray(log_w_N, np.float64)


@pytest.mark.parametrize("mode", ["joint", "frozen"])
def test_a_step_raises_the_expected_value_within_the_trust_region(mode):
  method, before, after, info = tree_round(mode)
  old_N, new_N = pool_log_w(method, before), pool_log_w(method, after)
  mass_N = SIGNALS.mass_B[:POOL].astype(np.float64)
  value_N = SIGNALS.value_B[:POOL] - mass_N @ SIGNALS.value_B[:POOL]
  gain = 10.0 * (mass_N * value_N) @ (np.exp(new_N) - np.exp(old_N))
  kl = (mass_N * np.exp(new_N)) @ (new_N - old_N)
  np.testing.assert_allclose(kl, info.kl_step, rtol=1e-3)
  assert 0.01 < kl <= 1.2 * TRUST * (1 + 1e-4)
  # No step of so many nats gains more than this, to second order (from Cauchy
  # and Schwarz); a tree of four leaves cannot follow all of the values.
  most = 10.0 * np.sqrt(2 * kl * (mass_N @ value_N**2))
  assert 0.2 * most < gain
  assert info.heldout_gain > 0
  # No value is clipped, so the predicted gain is that of the centered values.
  np.testing.assert_allclose(gain, info.predicted_gain, rtol=1e-3)


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
    for field in model.Level._fields:
      assert np.abs(getattr(old, field) - getattr(new, field)).max() > 1e-3


def test_a_step_that_did_not_help_is_taken_back_and_shrinks():
  method, before, after, _ = tree_round("joint")
  back = method.judge(after, jnp.float32(-1e-3))
  assert_equal(back.theta, before.theta, rtol=0)
  np.testing.assert_allclose(
    pool_log_w(method, back), pool_log_w(method, before), atol=1e-6
  )
  assert (
    np.abs(pool_log_w(method, after) - pool_log_w(method, back)).max() > 0.1
  )
  np.testing.assert_allclose(back.step_size, after.step_size / 2, rtol=1e-6)
  assert back.round == after.round  # time goes on, and so do the values
  assert_equal(back.replay, after.replay, rtol=0)
  kept = method.judge(after, jnp.float32(1e-3))
  assert_equal(kept, after, rtol=0)


def test_without_values_nothing_moves():
  # All documents are worth the same: nothing is left after centering.
  method, before, after, info = tree_round("frozen", value_scale=0.0)
  moved = pool_log_w(method, after) - pool_log_w(method, before)
  np.testing.assert_allclose(moved, 0, atol=1e-5)
  assert info.predicted_gain == 0
  for x in jax.tree.leaves((after, info)):
    if jnp.issubdtype(x.dtype, jnp.inexact):
      assert np.isfinite(x).all()


def test_noise_depends_on_the_key_and_the_round_alone():
  settings: dict[str, Any] = {**SMALL["cmtree"], "gumbel": True}
  settings["solver_steps"] = 5
  method = cmtree.make(**settings)
  signals = take(method, np.arange(POOL))
  step = jax.jit(method.step)
  one, two, other = (
    step(method.init(jax.random.key(seed), facts()), signals)[0].theta
    for seed in (0, 0, 1)
  )
  assert_equal(one, two, rtol=0)
  assert np.abs(one[0].tilt_MC - other[0].tilt_MC).max() > 1e-5


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
    log_w_L = mixture.leaf_log_w(
      mixture.leaf_tilt(theta),
      mixture.leaf_mass(log_p_NL, jnp.asarray(SAMPLE["sample_mass_N"])),
      max_weight=4.0,
    )
    log_p_BL = model.log_p_leaf(theta, embedding_BE)
    return jnp.exp(mixture.document_log_w(log_p_BL, log_w_L)) / proposal_B

  document_SBT = jnp.asarray(batches.document_BT)
  window = engine.window(
    phi,
    *jax.tree.map(
      lambda x: x[None], (batches, weight(theta)[document_SBT], outer)
    ),
  )
  replayed = jax.jit(
    jax.grad(
      lambda theta: jnp.mean(window.value[0] * weight(theta)[document_SBT])
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
        sum_over_chunks(losses),
        InnerLoss(losses, normalized),
        theta,
        phi,
        batches,
        outer,
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
