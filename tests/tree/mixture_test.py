"""Weights of leaves and documents: means, caps, closed forms and derivatives."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import mixture, model

NO_CAP = 1e6


def by_bisection(tilt_L, q_L, max_weight):
  """min(R, c exp(m)) with corpus mean one; c by bisection, in float64."""
  low, high = -1e5, 1e5
  for _ in range(200):
    middle = (low + high) / 2
    log_w_L = np.minimum(middle + tilt_L, math.log(max_weight))
    if q_L @ np.exp(log_w_L) < 1:
      low = middle
    else:
      high = middle
  return np.minimum(high + tilt_L, math.log(max_weight))


def weights_of(theta, corpus, max_weight):
  """(log_w_L, log_w_N): of the leaves, and of the sample's documents."""
  sample_NE, mass_N = corpus
  placed_N = model.place(theta, sample_NE)
  log_w_L = mixture.normalized(
    mixture.leaf_tilt(theta), placed_N, mass_N, max_weight=max_weight
  )
  return log_w_L, mixture.log_w(placed_N, log_w_L, max_weight=max_weight)


def scoring(theta, seed=0, size=2.0):
  """The same tree with leaves that score."""
  last: Any = model.with_scores(theta)[-1]
  score_MCP = np.random.default_rng(seed).normal(0, size, last.score_MCP.shape)
  return (*theta[:-1], last._replace(score_MCP=jnp.asarray(score_MCP)))


@pytest.fixture
def corpus():
  rng = np.random.default_rng(5)
  sample_NE = jnp.asarray(rng.normal(size=(40, 5)))
  return sample_NE, jnp.asarray(rng.dirichlet(np.ones(40)))


def test_tilts_add_along_the_path(random_tree):
  root, middle, last = random_tree(0, (2, 1, 3))
  expected_L = [
    root.tilt_MC[0, i] + middle.tilt_MC[i, 0] + last.tilt_MC[i, k]
    for i, k in itertools.product(range(2), range(3))
  ]
  tilt_L = mixture.leaf_tilt((root, middle, last))
  np.testing.assert_allclose(tilt_L, expected_L, rtol=1e-6)


def test_the_mass_of_leaves_is_the_documents_mean(x64, random_tree, corpus):
  sample_NE, mass_N = corpus
  log_p_NL = model.log_p_leaf(random_tree(0), sample_NE)
  log_q_L = mixture.leaf_mass(log_p_NL, mass_N)
  np.testing.assert_allclose(
    np.exp(log_q_L), np.asarray(mass_N) @ np.exp(log_p_NL), rtol=1e-12
  )


@pytest.mark.parametrize("kind", ["tilts", "scores"])
@pytest.mark.parametrize("max_weight", [1.0, 1.2, 2.0, NO_CAP])
def test_the_corpus_mean_is_one_and_the_cap_holds(
  random_tree, corpus, max_weight, kind
):
  sample_NE, mass_N = corpus
  binding = 0
  for seed in range(10):
    theta = random_tree(seed, tilt=3.0)
    if kind == "scores":
      theta = scoring(theta, seed)
    log_w_L, log_w_N = weights_of(theta, (sample_NE, mass_N), max_weight)
    np.testing.assert_allclose(mass_N @ np.exp(log_w_N), 1.0, rtol=1e-5)
    assert np.exp(log_w_N).max() <= max_weight * (1 + 1e-5)
    # What is capped: leaves, or documents.
    capped = log_w_L if kind == "tilts" else log_w_N
    binding += np.exp(capped).max() > max_weight * (1 - 1e-5)
  assert binding == (0 if max_weight == NO_CAP else 10)


def test_zero_tilt_is_natural_whatever_the_partition(x64, random_tree, corpus):
  for seed, max_weight in itertools.product(range(5), (1.0, 2.0, NO_CAP)):
    theta = random_tree(seed, tilt=0.0)
    log_w_L, log_w_N = weights_of(theta, corpus, max_weight)
    np.testing.assert_allclose(log_w_L, 0.0, atol=1e-12)
    np.testing.assert_allclose(log_w_N, 0.0, atol=1e-12)


def test_a_shift_of_all_tilts_changes_nothing(x64, random_tree, corpus):
  root, below = random_tree(0)
  shifted = (root._replace(tilt_MC=root.tilt_MC + 3.0), below)
  for max_weight in (1.5, NO_CAP):
    np.testing.assert_allclose(
      weights_of(shifted, corpus, max_weight)[1],
      weights_of((root, below), corpus, max_weight)[1],
      atol=1e-12,
    )


def test_permuted_siblings_leave_the_weights_of_documents(
  x64, random_tree, corpus
):
  root, below = random_tree(0)
  # The two children of the root change places, with all that is below them.
  swap = lambda level, axis: jax.tree.map(  # noqa: E731
    lambda x: jnp.flip(x, axis), (level.prototype_MCP, level.tilt_MC)
  )
  prototype, tilt = swap(root, 1)
  new_root = root._replace(prototype_MCP=prototype, tilt_MC=tilt)
  prototype, tilt = swap(below, 0)
  new_below = below._replace(prototype_MCP=prototype, tilt_MC=tilt)
  log_w_L, log_w_N = weights_of((root, below), corpus, 1.5)
  new_L, new_N = weights_of((new_root, new_below), corpus, 1.5)
  np.testing.assert_allclose(new_L, np.roll(log_w_L, 3), atol=1e-10)
  np.testing.assert_allclose(new_N, log_w_N, atol=1e-10)


def random_case(rng, number):
  """Tilts, masses and a cap; ties, empty leaves, huge tilts, caps of one."""
  tilt_L = rng.normal(0, 2, 6)
  q_L = rng.dirichlet(np.full(6, 0.5))
  if number % 2:
    tilt_L = np.round(tilt_L)  # ties
  if number % 3 == 0:
    q_L[rng.choice(6, 2, replace=False)] = 0.0
    q_L /= q_L.sum()
  if number % 5 == 0:
    tilt_L *= 10
  caps = [1.0, 1.0 + 1e-3, 1.3, 2.0, 1 / q_L.max(), 5.0, NO_CAP]
  return tilt_L, q_L, max(1.0, caps[number % 7])


@jax.jit
def leaf_log_w(tilt_L, log_q_L, max_weight):
  return mixture.leaf_log_w(tilt_L, log_q_L, max_weight=max_weight)


def test_capped_weights_are_those_of_bisection(x64):
  rng = np.random.default_rng(0)
  for number in range(420):
    tilt_L, q_L, max_weight = random_case(rng, number)
    with np.errstate(divide="ignore"):
      log_w_L = leaf_log_w(tilt_L, np.log(q_L), max_weight)
    expected_L = by_bisection(tilt_L, q_L, max_weight)
    # 1e-6 above the cap still passes for below it, and is then cut off.
    np.testing.assert_allclose(
      q_L * np.exp(log_w_L), q_L * np.exp(expected_L), atol=2e-6
    )
    assert (log_w_L <= math.log(max_weight) + 1e-12).all()


def test_capped_weights_in_single_precision():
  rng = np.random.default_rng(1)
  for number in range(420):
    tilt_L, q_L, max_weight = random_case(rng, number)
    with np.errstate(divide="ignore"):
      log_q_L = np.log(q_L).astype(np.float32)
    log_w_L = np.asarray(
      leaf_log_w(tilt_L.astype(np.float32), log_q_L, np.float32(max_weight)),
      np.float64,
    )
    # Tilts up to 50 round by 4e-6, and so do logarithms made from them.
    np.testing.assert_allclose(q_L @ np.exp(log_w_L), 1.0, rtol=3e-5)
    assert (np.exp(log_w_L) <= max_weight * (1 + 1e-6)).all()


def test_tilts_of_any_size_stay_finite(x64):
  tilt_L = jnp.array([1e4, 0.0, -1e4, 5e3])
  q_L = np.array([0.1, 0.2, 0.3, 0.4])
  log_w_L = leaf_log_w(tilt_L, np.log(q_L), 2.0)
  # .1 and .4 of the corpus at the cap fill everything: nothing is left.
  np.testing.assert_allclose(q_L @ np.exp(log_w_L), 1.0, rtol=1e-6)
  np.testing.assert_allclose(np.exp(log_w_L), [2, 0, 0, 2], atol=1e-5)
  slope_L = jax.grad(
    lambda tilt_L: q_L @ jnp.exp(leaf_log_w(tilt_L, np.log(q_L), NO_CAP))
  )(tilt_L)
  np.testing.assert_allclose(slope_L, 0.0, atol=1e-12)


def test_scores_of_zero_are_the_tree_of_tilts(x64, random_tree, corpus):
  for seed in range(5):
    theta = random_tree(seed)
    zero = model.with_scores(theta)
    assert model.scores(zero) and not model.scores(theta)
    for found, expected in zip(
      weights_of(zero, corpus, NO_CAP),
      weights_of(theta, corpus, NO_CAP),
      strict=True,
    ):
      np.testing.assert_allclose(found, expected, atol=1e-12)
    # Where every document is in one leaf, the cap holds for the same ones.
    sharp = tuple(x._replace(log_kappa=jnp.asarray(12.0)) for x in theta)
    np.testing.assert_allclose(
      weights_of(model.with_scores(sharp), corpus, 1.5)[1],
      weights_of(sharp, corpus, 1.5)[1],
      atol=1e-5,
    )


def test_scores_rank_the_documents_inside_quotas(x64, random_tree, corpus):
  sample_NE, mass_N = corpus
  theta: Any = scoring(random_tree(0, (4,)))
  theta = (theta[0]._replace(log_kappa=jnp.asarray(14.0)),)
  leaf_N = np.argmax(model.log_p_leaf(theta, sample_NE), axis=1)
  z_NP = np.asarray(sample_NE @ theta[0].angle_PE.T)
  z_NP = z_NP / np.linalg.norm(z_NP, axis=1, keepdims=True)
  e_N = np.exp(np.sum(z_NP * np.asarray(theta[0].score_MCP[0])[leaf_N], axis=1))
  quota_L, mass_N = np.array([0.1, 0.2, 0.3, 0.4]), np.asarray(mass_N)
  total_L = np.bincount(leaf_N, mass_N * e_N, minlength=4)
  theta = (theta[0]._replace(tilt_MC=jnp.log(quota_L / total_L)[None]),)
  w_N = np.exp(weights_of(theta, (sample_NE, mass_N), NO_CAP)[1])
  found_L = np.bincount(leaf_N, mass_N * w_N, minlength=4)
  np.testing.assert_allclose(found_L, quota_L, rtol=1e-6)
  np.testing.assert_allclose(w_N, (quota_L / total_L)[leaf_N] * e_N, rtol=1e-6)


@pytest.mark.parametrize("kind", ["tilts", "scores"])
@pytest.mark.parametrize("max_weight", [1.3, NO_CAP])
def test_derivatives_are_finite_differences(
  x64, random_tree, corpus, embedding_BE, max_weight, kind
):
  theta = random_tree(3) if kind == "tilts" else scoring(random_tree(3))
  sample_NE, mass_N = corpus
  coefficient_B = jnp.asarray(np.random.default_rng(6).normal(size=7))

  @jax.jit
  def objective(theta):
    log_w_L, _ = weights_of(theta, (sample_NE, mass_N), max_weight)
    placed_B = model.place(theta, embedding_BE)
    return coefficient_B @ mixture.log_w(
      placed_B, log_w_L, max_weight=max_weight
    )

  log_w_L, log_w_N = weights_of(theta, (sample_NE, mass_N), max_weight)
  # Some of six leaves, or of forty documents.
  log_w = log_w_L if kind == "tilts" else log_w_N
  capped = int((np.exp(log_w) > max_weight - 1e-9).sum())
  few = 3 if kind == "tilts" else 16
  assert capped == (0 if max_weight == NO_CAP else few)
  slope = jax.jit(jax.grad(objective))(theta)
  step = 1e-5  # truncation of order 1e-10, rounding of 1e-16 / 1e-5
  for depth, field in itertools.product(range(2), model.Level._fields):
    if getattr(theta[depth], field) is None:
      continue
    value = np.asarray(getattr(theta[depth], field))
    found = np.zeros_like(value)
    for index in np.ndindex(value.shape):
      ends = []
      for sign in (1, -1):
        moved = value.copy()
        moved[index] += sign * step
        level = theta[depth]._replace(**{field: jnp.asarray(moved)})
        ends.append(objective((*theta[:depth], level, *theta[depth + 1 :])))
      found[index] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(
      getattr(slope[depth], field), found, atol=1e-8, err_msg=field
    )
    assert np.abs(found).max() > 1e-3


def test_effective_sample_size_of_two_groups():
  # A quarter of the corpus at weight 3, the rest at a third.
  mass_N = jnp.full(8, 1 / 8)
  log_w_N = jnp.log(jnp.array([3.0] * 2 + [1 / 3] * 6))
  expected = 1 / (9 / 4 + 3 / 4 / 9)
  found = mixture.effective_sample_size(log_w_N, mass_N)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  found = mixture.effective_sample_size(jnp.zeros(8), mass_N)
  np.testing.assert_allclose(found, 1.0, rtol=1e-6)


def test_a_share_of_the_corpus_alone_is_its_own_effective_size():
  # One document of a quarter of the mass has all the weight.
  mass_N = jnp.array([0.25, 0.5, 0.25])
  log_w_N = jnp.array([math.log(4), -jnp.inf, -jnp.inf])
  found = mixture.effective_sample_size(log_w_N, mass_N)
  np.testing.assert_allclose(found, 0.25, rtol=1e-6)


def test_divergence_of_two_mixtures():
  mass_N = jnp.array([0.2, 0.3, 0.5])
  w_N, v_N = np.array([2.0, 1.0, 0.6]), np.array([0.5, 2.0, 0.6])
  p_N, r_N = mass_N * w_N, mass_N * v_N  # both sum to one
  found = mixture.kl_divergence(jnp.log(w_N), jnp.log(v_N), mass_N)
  np.testing.assert_allclose(found, p_N @ np.log(p_N / r_N), rtol=1e-5)
  found = mixture.kl_divergence(jnp.log(w_N), jnp.log(w_N), mass_N)
  np.testing.assert_allclose(found, 0.0, atol=1e-7)
