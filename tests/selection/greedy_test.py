"""Covers of a set: the reference implementations, plain greedy, ties and ends."""

import pathlib

import numpy as np
import pytest

from cmtree_jax.selection import greedy

CASES = pathlib.Path(__file__).parents[1] / "methods" / "cases"
SIZE, E = 90, 4


@pytest.fixture(scope="module")
def points():
  return np.random.default_rng(0).normal(size=(SIZE, E)).astype(np.float32)


def ones(x):
  return np.ones(len(x))


@pytest.mark.parametrize("prefix", ["", "grid_"])
def test_the_authors_code_of_selection_via_proxy_adds_the_same(prefix):
  """stanford-futuredata/selection-via-proxy at 348f90a; the grid has ties."""
  case = np.load(CASES / "svp_kcenter.npz")
  x_NE = case["grid" if prefix else "X"]
  order = greedy.k_center(
    x_NE, case[f"{prefix}s"], cost_N=ones(x_NE), budget=case[f"{prefix}b"]
  )
  np.testing.assert_array_equal(order, case[f"{prefix}selected"])


def test_centers_are_added_until_the_budget_is_spent(points):
  cost_N = np.random.default_rng(1).integers(1, 9, SIZE)
  every = greedy.k_center(points, [3], cost_N=cost_N, budget=np.inf)
  assert sorted([3, *every.tolist()]) == list(range(SIZE))
  some = greedy.k_center(points, [3], cost_N=cost_N, budget=50)
  np.testing.assert_array_equal(some, every[: len(some)])
  spent = cost_N[some].cumsum()
  assert spent[-1] >= 50 > spent[-2]


def test_equal_documents_are_added_once_and_last(points):
  same = points.copy()
  same[10:20] = points[0]
  order = greedy.k_center(same, [0], cost_N=ones(same), budget=np.inf)
  assert len(set(order.tolist())) == SIZE - 1
  np.testing.assert_array_equal(order[-10:], np.arange(10, 20))


def test_k_center_wants_somewhere_to_start(points):
  with pytest.raises(ValueError, match="at least 1 document to start"):
    greedy.k_center(points, [], cost_N=ones(points), budget=3)


def plain(similarity_NN, count):
  """(order, gains): every gain anew at every step."""
  cover_N, order, gain = np.zeros(len(similarity_NN)), [], []
  for _ in range(count):
    gain_N = np.maximum(similarity_NN - cover_N[:, None], 0).sum(axis=0)
    gain_N[order] = -np.inf
    order.append(int(gain_N.argmax()))
    gain.append(gain_N.max())
    cover_N = np.maximum(cover_N, similarity_NN[:, order[-1]])
  return order, gain


@pytest.mark.parametrize("batch", [3, 64])
def test_apricot_ranks_the_same(batch, monkeypatch):
  """PyPI apricot-select 0.6.1, FacilityLocationSelection on given similarities."""
  monkeypatch.setattr(greedy, "_BATCH", batch)
  case = np.load(CASES / "facility_location_greedy.npz")
  similarity_NN = case["similarity"].astype(np.float32)
  found = greedy.facility_location(
    lambda rows: similarity_NN[:, rows], cost_N=ones(similarity_NN), budget=8
  )
  np.testing.assert_array_equal(found.order, case["apricot_ranking"])
  np.testing.assert_allclose(found.gain, case["apricot_gains"], rtol=1e-5)


@pytest.mark.parametrize("batch", [5, 32])
def test_old_gains_as_bounds_change_nothing(points, batch, monkeypatch):
  monkeypatch.setattr(greedy, "_BATCH", batch)
  unit_NE = points / np.linalg.norm(points, axis=1, keepdims=True)
  order, gain = plain(unit_NE @ unit_NE.T, 20)
  cost_N = np.random.default_rng(1).integers(1, 9, SIZE)
  found = greedy.facility_location(
    greedy.of_embedding(3 * points),
    cost_N=cost_N,
    budget=cost_N[order[:19]].sum() + 1,
  )
  np.testing.assert_array_equal(found.order, order)
  np.testing.assert_allclose(found.gain, gain, rtol=1e-4)
  assert (np.diff(found.gain) <= 1e-5).all()


@pytest.mark.parametrize("seed", range(4))
def test_of_equal_gains_the_first_document_s_wins(seed):
  """Whole numbers: nothing is rounded, and many gains are equal."""
  rng = np.random.default_rng(seed)
  x_NE = rng.integers(0, 2, (200, 12)) * (rng.random((200, 12)) < 0.3)
  similarity_NN = (x_NE @ x_NE.T).astype(np.float32)
  order, gain = plain(similarity_NN, 20)
  found = greedy.facility_location(
    lambda rows: similarity_NN[:, rows], cost_N=ones(similarity_NN), budget=20
  )
  assert len(found.order) == np.sum(np.array(gain) > 0)
  np.testing.assert_array_equal(found.order, order[: len(found.order)])


def test_only_what_adds_something_is_chosen():
  """Three directions, ten times each: three documents stand for all."""
  x_NE = np.repeat(np.eye(3), 10, axis=0)
  found = greedy.facility_location(
    greedy.of_embedding(x_NE), cost_N=ones(x_NE), budget=np.inf
  )
  np.testing.assert_array_equal(found.order, [0, 10, 20])
  np.testing.assert_allclose(found.gain, 10, rtol=1e-6)
