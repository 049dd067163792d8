"""Tilts of given domains: they move as those of a frozen tree whose leaves they are."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.methods.base import DomainWeights, Signals
from tests.methods.world import (
  BATCHES,
  POOL,
  SIGNALS,
  K,
  T,
  facts,
  make,
  take,
)

# Of the domains of the world, and one that has no document.
FACTS = facts()._replace(
  domain_mass_K=np.append(facts().domain_mass_K, 0.0),
  target_domain_TK=np.pad(facts().target_domain_TK, ((0, 0), (0, 1))),
)
ONE_HOT = np.eye(K + 1, dtype=np.float32)[SIGNALS.domain_B]


@functools.cache
def tilts():
  """(method, compiled step)."""
  method = make("tilts")
  return method, jax.jit(method.step)


def played(method, step, start, shown):
  """The states of two rounds."""
  states = [start]
  for signals in shown:
    states.append(step(states[-1], signals)[0])
  return states


def log_w_of(method, state):
  """Of every domain, the empty one last."""
  log_w = method.finalize(state).log_w(Signals(domain_B=np.arange(K + 1)))
  return np.asarray(log_w, np.float64)


def w_K(state):
  return np.exp(log_w_of(tilts()[0], state))[:K]


def test_they_are_those_of_a_frozen_tree_on_features_of_domains():
  # k-means finds the domains, in an order and by an angle of its own; the sample
  # is the pool's documents.
  method, step = tilts()
  found = played(
    method,
    step,
    method.init(jax.random.key(0), FACTS),
    [take(method, index) for index in BATCHES],
  )
  frozen = make(
    "cmtree",
    mode="frozen",
    start=dict(kind="kmeans", angle_dim=K + 1, kappa=100.0),
    branching=(K,),
  )
  sample = dict(
    sample_NE=jnp.asarray(ONE_HOT[:POOL]),
    sample_mass_N=jnp.asarray(SIGNALS.mass_B[:POOL]),
  )
  known = FACTS._replace(target_NE=ONE_HOT[POOL:], **sample)
  shown = [
    take(frozen, index, SIGNALS._replace(embedding_BE=ONE_HOT))._replace(
      **sample
    )
    for index in BATCHES
  ]
  start = frozen.init(jax.random.key(0), known)
  for one, two in zip(
    found, played(frozen, jax.jit(frozen.step), start, shown), strict=True
  ):
    each_K = Signals(embedding_BE=jnp.eye(K + 1)[:K])
    expected = np.exp(frozen.finalize(two).log_w(each_K))
    # Rounding at 1e-7, passed on by 30 steps of Adam.
    np.testing.assert_allclose(w_K(one), expected, rtol=1e-3)
  assert np.abs(w_K(found[2]) - w_K(found[0])).max() > 0.02


def test_weight_moves_to_the_domain_that_is_valued():
  method, step = tilts()
  value_BT = np.repeat(SIGNALS.domain_B[:, None] == 2, T, axis=1)
  value_BT = value_BT.astype(np.float32)
  # The target is spread as the corpus is: they start from the natural mixture.
  known = FACTS._replace(
    target_domain_TK=np.tile(FACTS.domain_mass_K, (T, 1)), max_weight=3.0
  )
  start = method.init(jax.random.key(0), known)
  np.testing.assert_allclose(w_K(start), 1.0, rtol=1e-5)
  shown = SIGNALS._replace(value_BT=value_BT)
  signals = take(method, np.arange(POOL), shown)
  states = played(method, step, start, [signals, signals])
  for before, after in itertools.pairwise(states):
    ratio_K = w_K(after) / w_K(before)
    assert ratio_K[2] > 1.1 * np.delete(ratio_K, 2).max()
  q_K = FACTS.domain_mass_K[:K]
  for state in states:
    np.testing.assert_allclose(q_K @ w_K(state), 1.0, rtol=1e-5)
    assert w_K(state).max() <= 3.0 * (1 + 1e-5)
    assert np.isfinite(log_w_of(method, state)).all()


def test_they_start_as_similar_to_the_target_as_crisp():
  method, _ = tilts()
  known = FACTS._replace(max_weight=100.0)
  crisp = make("crisp", smoothing=1e-3)
  expected = log_w_of(crisp, crisp.init(jax.random.key(0), known))
  found = w_K(method.init(jax.random.key(0), known))
  np.testing.assert_allclose(found, np.exp(expected)[:K], rtol=1e-4, atol=1e-5)


def test_they_read_and_hand_over_domains():
  method, _ = tilts()
  assert {"embedding_BE", "sample_NE"}.isdisjoint(method.signals)
  state = method.init(jax.random.key(0), FACTS)
  weights = method.finalize(state)
  assert isinstance(weights, DomainWeights)
  log_w_B = weights.log_w(take(method, np.arange(POOL)))
  np.testing.assert_allclose(
    np.exp(log_w_B), w_K(state)[SIGNALS.domain_B[:POOL]], rtol=1e-6
  )


def test_a_step_is_taken_back():
  method, step = tilts()
  start = method.init(jax.random.key(0), FACTS)
  after, info = step(start, take(method, BATCHES[0]))
  assert info.stepped
  back = method.undo(after)
  np.testing.assert_array_equal(w_K(back), w_K(start))
  assert np.abs(w_K(after) - w_K(start)).max() > 0.01


def test_each_target_is_capped_by_itself():
  # The first is in a domain that holds a twentieth of the corpus.
  q_K = np.array([0.05, 0.45, 0.5])
  known = FACTS._replace(
    domain_mass_K=q_K,
    target_domain_TK=np.array([[0.8, 0.2, 0.0], [0.0, 0.0, 1.0]]),
    max_weight=4.0,
  )
  method, _ = tilts()
  log_w_K = method.finalize(method.init(jax.random.key(0), known)).log_w_K
  share_K = q_K * np.exp(log_w_K)
  # A fifth of its tokens is in its own domain, for that is all there is; what is
  # left of it goes to the second, which it has, too.
  np.testing.assert_allclose(share_K, [0.1, 0.4, 0.5], atol=2e-3)
