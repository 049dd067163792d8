"""What a theta is measured on: repeats, proxies, and a sample of a sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import evidence, model, replay
from cmtree_jax.tree.evidence import Leaves
from cmtree_jax.tree.mixture import Sample

Q_K = np.array([0.5, 0.3, 0.2])  # masses of three leaves, which are documents
# A document is in its own leaf, and tilts are theta.
LEAVES = Leaves(
  place=lambda theta, leaf_B, temperature, key: model.Placed(
    -100.0 * (1 - jax.nn.one_hot(leaf_B, 3))
  ),
  tilt=lambda theta: theta,
  overlap=lambda theta: jnp.zeros(()),
  score_norm=lambda theta: jnp.zeros(()),
)
LEAF_R, PROXY_R = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 0, 0, 1, 1, 1])
VALUE_RT = np.array([[1, 0], [0, 2], [3, 1], [1, 1], [0, 0], [2, 5]], float)
WEIGHT_R = np.array([0.5, 0.3, 0.2, 0.1, 0.1, 0.1])
BEFORE_K = np.array([1.4, 0.4, 0.9])


def seen(saturation=0.0, target_weight_T=(0.25, 0.75)):
  return evidence.Evidence(
    corpus=Sample(jnp.arange(3), jnp.asarray(Q_K)),
    before_N=jnp.log(BEFORE_K),
    replay=replay.Buffer(
      features=jnp.asarray(LEAF_R),
      value_RT=jnp.asarray(VALUE_RT),
      proxy_R=jnp.asarray(PROXY_R),
      age_R=jnp.zeros(6, int),
      measured_R=jnp.asarray(BEFORE_K)[LEAF_R],
      weight_R=jnp.asarray(WEIGHT_R),
    ),
    before_R=jnp.log(BEFORE_K)[LEAF_R],
    target_weight_T=jnp.asarray(target_weight_T),
    proxies_P=jnp.arange(3),  # the last has said nothing
    temperature=jnp.float32(1.0),
    training=evidence.Training(100.0, 10.0, jnp.float32(saturation)),
  )


def gains(tilt_K, saturation):
  return np.asarray(
    evidence.measure(
      jnp.asarray(tilt_K), seen(saturation), jnp.asarray(WEIGHT_R), LEAVES
    ).gain_P
  )


@pytest.mark.parametrize("epochs", [0.0, 1.0, 4.0, 16.0])
def test_the_gain_is_that_of_the_formula(epochs):
  r_star, tilt_K = 15.0, np.array([0.3, 1.0, -2.0])
  w_K = np.exp(tilt_K) / (Q_K @ np.exp(tilt_K))
  if epochs:

    def u(w):
      return r_star / epochs * (1 - np.exp(-w * epochs / r_star))

    slope_K = np.exp(-BEFORE_K * epochs / r_star)
    worth_K = (u(w_K) - u(BEFORE_K)) / slope_K
  else:
    worth_K = w_K - BEFORE_K
  value_R = VALUE_RT @ [0.25, 0.75]
  expected = [
    10.0 * np.average((value_R * worth_K[LEAF_R])[own], weights=WEIGHT_R[own])
    for own in (PROXY_R == 0, PROXY_R == 1)
  ]
  found = gains(tilt_K, epochs / r_star)
  np.testing.assert_allclose(found, [*expected, 0.0], rtol=1e-4)


def test_few_repeats_are_worth_what_fresh_looks_are():
  tilt_K = np.array([0.3, 1.0, -2.0])
  np.testing.assert_allclose(gains(tilt_K, 1e-6), gains(tilt_K, 0.0), rtol=1e-4)
  assert np.abs(gains(tilt_K, 0.3) - gains(tilt_K, 0.0)).max() > 0.1


def test_what_is_worth_less_and_less_has_a_slope_of_one_where_it_was_valued():
  for saturation in (0.0, 0.1, 2.0):
    slope = jax.grad(lambda x, s=saturation: evidence.worth(x, saturation=s))
    assert slope(0.0) == pytest.approx(1.0)
    assert slope(3.0) == pytest.approx(np.exp(-3 * saturation), rel=1e-4)
  far = evidence.worth(jnp.float32(-1e4), saturation=jnp.float32(2.0))
  assert np.isfinite(far)


def test_the_error_is_that_of_the_mean_of_proxies_that_count():
  gain_P = jnp.array([1.0, 4.0, 100.0])
  mean, error = evidence.over_proxies(gain_P, jnp.asarray(WEIGHT_R), seen())
  assert mean == pytest.approx(2.5)
  assert error == pytest.approx(np.std([1, 4], ddof=1) / np.sqrt(2))
  only_R = jnp.asarray(WEIGHT_R * (PROXY_R == 1))
  mean, error = evidence.over_proxies(gain_P, only_R, seen())
  assert mean == 4.0 and error == np.inf


def test_hard_leaves_are_hard_for_the_corpus_and_for_what_was_valued():
  # Documents between two leaves, whose tilts differ.
  theta = (
    model.Level(
      jnp.eye(2), jnp.eye(2)[None], jnp.log(3.0), jnp.array([[0.0, 2.0]])
    ),
  )
  feature = jnp.array([[0.8, 0.6], [0.6, 0.8]])
  leaves = Leaves(
    lambda theta, x, temperature, key: model.place(theta, x),
    lambda theta: theta[0].tilt_MC[0],
    overlap=lambda theta: jnp.zeros(()),
    score_norm=lambda theta: jnp.zeros(()),
  )
  one = seen()
  one = one._replace(
    corpus=Sample(feature, jnp.full(2, 0.5)),
    before_N=jnp.zeros(2),
    replay=one.replay._replace(
      features=feature[LEAF_R % 2], measured_R=jnp.zeros(6)
    ),
  )
  only_R = jnp.asarray([1.0, 0, 0, 0, 0, 0])  # it is of the first leaf
  found = evidence.measure(theta, one, only_R, leaves, hard=True).gain_P
  w = 2 / (1 + np.exp(2.0))
  np.testing.assert_allclose(found[0], 10 * 0.25 * w, rtol=1e-5)
  # A step is measured from what the same leaves weighed before.
  same = evidence.hardened(theta, one, leaves)
  moved = evidence.measure(theta, same, only_R, leaves, hard=True).kl_step
  assert moved == pytest.approx(0, abs=1e-6)
  assert evidence.measure(theta, one, only_R, leaves, hard=True).kl_step > 0.1


def test_a_sample_of_the_sample_is_drawn_by_mass():
  rng = np.random.default_rng(0)
  mass_N = rng.exponential(size=500) ** 2
  mass_N = jnp.asarray(mass_N / mass_N.sum(), jnp.float32)
  whole = seen()._replace(
    corpus=Sample(jnp.arange(500), mass_N), before_N=jnp.arange(500.0)
  )
  some = evidence.with_fewer(whole, 200, jax.random.key(0))
  assert len(some.corpus.features) == 200
  np.testing.assert_allclose(some.corpus.mass_N, 1 / 200)
  np.testing.assert_array_equal(some.before_N, some.corpus.features)
  # One draw in each of equal shares: no document is in two more or less often.
  often_N = np.bincount(some.corpus.features, minlength=500)
  assert np.abs(often_N - 200 * np.asarray(mass_N)).max() < 2
  other = evidence.with_fewer(whole, 200, jax.random.key(1))
  assert not np.array_equal(other.corpus.features, some.corpus.features)
  assert evidence.with_fewer(whole, 500, jax.random.key(0)) is whole
