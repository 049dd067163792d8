"""Hierarchical: probes by brute force, and domains that can or cannot be told apart."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import hierarchical
from cmtree_jax.methods.base import Signals
from tests.methods import planted_proxy as planted
from tests.methods import world

Q_K = np.array([0.2, 0.3, 0.1, 0.4, 0.0])
MEAN_KE = np.array([[0.0, 0], [0, 1], [9, 0], [9, 1.5], [0, 0]])
ROWS, H = 5, 6


def facts(steps=200):
  """Of domains 0 and 1 that lie close, as 2 and 3 do; 4 has no documents."""
  pool = world.facts().pool
  assert pool is not None and pool.domain_N is not None
  pool = pool._replace(embedding_NE=MEAN_KE[pool.domain_N])
  return world.facts_of(Q_K, steps=steps, pool=pool)


class Rows:
  """Domains 2 and 3 are told apart at once, 0 and 1 from an observation on."""

  def __init__(self, learns=10_000, forgets=10_000):
    self.learns, self.forgets, self.seen = learns, forgets, 0

  def train(self, ask, steps):
    pass

  def observe(self):
    rng = np.random.default_rng(self.seen)
    place_KH = np.zeros((5, H))
    place_KH[:, 0] = [1, 1, -1, -1, 0]
    if self.seen >= self.learns:
      place_KH[:2, 1] = [1, -1]
    if self.seen < self.forgets:
      place_KH[2:4, 2] = [1, -1]
    self.seen += 1
    # Both of a pair have the same rows but for their places.
    noise_KRH = rng.normal(size=(5, ROWS, H))[[0, 0, 2, 2, 4]]
    rows_KRH = 30 * place_KH[:, None] + noise_KRH
    rows_KRH[4] = 0
    return Signals(late_hidden_KRH=jnp.asarray(rows_KRH, jnp.float32))


def left_out(x_RH, side_R, ridge):
  """Accuracy of regressions that are fitted without the row that they predict."""
  weight_R = 0.5 / np.bincount(side_R)[side_R]
  apart_RH = x_RH - weight_R @ x_RH
  penalty = ridge * (weight_R @ (apart_RH**2).sum(axis=1))
  with_one = np.column_stack([np.ones(len(x_RH)), x_RH])
  penalties = np.diag([0.0] + [penalty] * x_RH.shape[1])
  right = 0.0
  for row in range(len(x_RH)):
    w_R = np.where(np.arange(len(x_RH)) == row, 0, weight_R)
    weighted = with_one * w_R[:, None]
    found = np.linalg.solve(
      with_one.T @ weighted + penalties, weighted.T @ (2.0 * side_R - 1)
    )
    if (with_one[row] @ found > 0) == side_R[row]:
      right += weight_R[row]
  return right


def test_a_probe_predicts_each_row_from_the_others():
  rng = np.random.default_rng(0)
  accuracies = []
  for _ in range(8):
    hidden_KRH = rng.normal(size=(3, 7, 4))
    hidden_KRH[0] += 0.8
    hidden_KRH[2, 4:] = 0.0  # rows without text
    side_NK = np.array([[0, 1, -1], [0, -1, 1], [1, 0, 0]])
    found_N = hierarchical.separability(
      jnp.asarray(hidden_KRH), jnp.asarray(side_NK), ridge=0.3
    )
    for found, side_K in zip(found_N, side_NK, strict=True):
      side_R = np.where(hidden_KRH.any(axis=-1), side_K[:, None], -1).ravel()
      x_RH = hidden_KRH.reshape(-1, 4)[side_R >= 0]
      expected = left_out(x_RH, side_R[side_R >= 0], 0.3)
      np.testing.assert_allclose(found, max(expected, 0.5), rtol=1e-5)
      accuracies.append(expected)
  assert min(accuracies) < 0.5 < max(accuracies)


def test_of_one_row_on_a_side_nothing_is_told():
  hidden_KRH = np.ones((2, 3, 2), np.float32)
  hidden_KRH[1] = -50
  hidden_KRH[1, 1:] = 0
  found_N = hierarchical.separability(
    jnp.asarray(hidden_KRH), jnp.array([[0, 1]]), ridge=0.1
  )
  assert found_N.tolist() == [0.5]


def test_the_nearest_domains_are_joined_first():
  side_NK, child_N2 = hierarchical.joined(MEAN_KE, Q_K > 0)
  np.testing.assert_array_equal(
    side_NK, [[0, 1, -1, -1, -1], [-1, -1, 0, 1, -1], [0, 0, 1, 1, -1]]
  )
  np.testing.assert_array_equal(child_N2, [[-1, -1], [-1, -1], [0, 1]])
  side_NK, child_N2 = hierarchical.joined(MEAN_KE, np.arange(5) == 2)
  assert (side_NK == -1).all() and (child_N2 == -1).all()


def test_features_of_a_domain_are_means_over_its_tokens():
  pool = world.facts().pool
  assert pool is not None and pool.domain_N is not None
  mean_KE = hierarchical.domain_means(pool, 5)
  for domain in range(4):
    inside_N = pool.domain_N == domain
    np.testing.assert_allclose(
      mean_KE[domain],
      np.average(
        pool.embedding_NE[inside_N], axis=0, weights=pool.tokens_N[inside_N]
      ),
      rtol=1e-5,
    )
  assert (mean_KE[4] == 0).all()


def test_shares_are_products_along_paths():
  side_NK, child_N2 = hierarchical.joined(MEAN_KE, Q_K > 0)
  tilt_N = np.log([3.0, 2.0, 7.0])  # the root has no sibling
  found_K = hierarchical.shares(
    jnp.asarray(Q_K),
    jnp.asarray(tilt_N),
    *map(jnp.asarray, (side_NK, child_N2)),
  )
  first, second = 3 * 0.5 / (3 * 0.5 + 2 * 0.5), 2 * 0.5 / (3 * 0.5 + 2 * 0.5)
  expected_K = [first * 0.4, first * 0.6, second * 0.2, second * 0.8, 0]
  np.testing.assert_allclose(found_K, expected_K, rtol=1e-5)


def run(proxy, **settings):
  method = hierarchical.make(every=10, **settings)
  states, infos, asks = planted.drive(method, facts(), proxy)
  return states, infos, np.stack([ask.mixture_K for ask in asks])


def test_what_cannot_be_told_apart_gets_more_and_less_in_time():
  states, infos, asked_OK = run(Rows())
  np.testing.assert_allclose(asked_OK[0], Q_K, atol=1e-6)
  assert all(info.separability_N.tolist() == [0.5, 1, 1] for info in infos)
  for time in range(1, 20):
    factor = np.exp(4 * (1 - time / 20) / 2)
    expected_K = np.where(np.arange(5) < 2, factor, 1) * Q_K
    np.testing.assert_allclose(
      asked_OK[time], expected_K / expected_K.sum(), rtol=1e-4, atol=1e-7
    )
  for output, expected_K in (
    ("mean", asked_OK.mean(axis=0)),
    ("last", asked_OK[-1]),
  ):
    found_K = world.recipe(
      hierarchical.make(output=output), states[-1], facts()
    )
    np.testing.assert_allclose(found_K, expected_K, rtol=1e-4, atol=1e-6)


def test_what_is_told_apart_twice_is_fused_and_stays_so():
  _, infos, asked_OK = run(Rows(forgets=5))
  fused_ON = np.stack([info.fused_N for info in infos])
  # From the second observation of a proxy that has trained; never the root.
  np.testing.assert_array_equal(fused_ON[:, 1], np.arange(20) >= 2)
  assert not fused_ON[:, [0, 2]].any()
  assert infos[-1].separability_N[1] == 0.5
  # Fused, the second pair gets no more although nobody tells it apart any more.
  np.testing.assert_allclose(
    asked_OK[6, 0] / asked_OK[6, 2], np.exp(2 * 0.7) * 2, rtol=1e-4
  )


def test_what_is_told_apart_once_only_is_not_fused():
  _, infos, _ = run(Rows(forgets=2))
  assert not np.any([info.fused_N for info in infos])


def test_a_node_is_fused_after_its_children():
  _, infos, asked_OK = run(Rows(learns=8))
  fused_ON = np.stack([info.fused_N for info in infos])
  begin = [int(np.argmax(fused_O)) for fused_O in fused_ON.T]
  assert begin == [9, 2, 10]
  np.testing.assert_allclose(asked_OK[9:], [Q_K] * 11, atol=1e-6)


def test_nonsense_is_refused():
  cases: list[tuple[dict[str, Any], str]] = [
    (dict(beta=-1.0), "beta = -1.0 must be at least 0"),
    (dict(fuse_above=1.5), "fuse_above = 1.5 must be from 0 to 1"),
    (dict(beta=float("inf")), "beta = inf must be a finite number"),
    (dict(ridge=0.0), "ridge = 0.0 must be above 0"),
    (dict(output="best"), "Known: last, mean"),
  ]
  for settings, match in cases:
    with pytest.raises(ValueError, match=match):
      hierarchical.make(**settings)
