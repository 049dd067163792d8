"""Bounds and a sum: the authors' problem, the conditions of the optimum, errors."""

import json
import pathlib

import numpy as np
import pytest

from cmtree_jax.selection import bounded

CASES = json.loads(
  (
    pathlib.Path(__file__).parents[1] / "methods/cases/dbp_counts.json"
  ).read_text()
)


@pytest.mark.parametrize("name", CASES)
def test_the_quadratic_program_of_density_based_pruning(name):
  """Its exact solution, by quadprog; the authors' solver breaks the bounds."""
  case = CASES[name]
  lower_K, upper_K = np.array(case["lb"]), np.array(case["ub"])
  total = case["target"]
  wish_K = total * np.array(case["probs"])
  x_K = bounded.project(wish_K, total=total, lower_K=lower_K, upper_K=upper_K)
  np.testing.assert_allclose(x_K, case["exact_counts"], rtol=1e-5)
  np.testing.assert_allclose(x_K, case["quadprog"], rtol=1e-5)
  count_K = bounded.whole(x_K)
  assert count_K.sum() == total
  assert (lower_K <= count_K).all() and (count_K <= upper_K).all()
  assert np.abs(count_K - x_K).max() < 1


@pytest.mark.parametrize("seed", range(5))
def test_no_other_numbers_are_nearer(seed):
  """What is between its bounds moved by mu, what is at one wanted to go further."""
  rng = np.random.default_rng(seed)
  wish_K, lower_K = rng.normal(size=(2, 40))
  upper_K = lower_K + rng.exponential(size=40)
  upper_K[:5] = np.inf
  total = lower_K.sum() + rng.uniform(0, 30)
  x_K = bounded.project(wish_K, total=total, lower_K=lower_K, upper_K=upper_K)
  np.testing.assert_allclose(x_K.sum(), total, rtol=1e-12)
  moved_K = x_K - wish_K
  inside_K = (x_K > lower_K) & (x_K < upper_K)
  mu = moved_K[inside_K]
  np.testing.assert_allclose(mu, mu[0], atol=1e-12)
  assert (moved_K[x_K == lower_K] >= mu[0]).all()
  assert (moved_K[x_K == upper_K] <= mu[0]).all()
  again_K = bounded.project(x_K, total=total, lower_K=lower_K, upper_K=upper_K)
  np.testing.assert_allclose(again_K, x_K, atol=1e-12)


@pytest.mark.parametrize("solve", [bounded.project, bounded.fill])
def test_sums_at_the_bounds_leave_no_choice(solve):
  lower_K, upper_K = np.array([1.0, 0.0, 2.0]), np.array([4.0, 3.0, 2.0])
  wish_K = np.array([9.0, -9.0, 0.0])
  for total, expected_K in ((3.0, lower_K), (9.0, upper_K)):
    x_K = solve(wish_K, total=total, lower_K=lower_K, upper_K=upper_K)
    np.testing.assert_array_equal(x_K, expected_K)


def test_filling_maximizes_the_scored_sum():
  """Against every other point at a corner of the bounds, by SciPy's simplex."""
  from scipy.optimize import linprog

  rng = np.random.default_rng(0)
  score_K = rng.normal(size=12)
  lower_K, upper_K = rng.uniform(0, 1, 12), rng.uniform(1, 3, 12)
  x_K = bounded.fill(score_K, total=17.0, lower_K=lower_K, upper_K=upper_K)
  best = linprog(
    -score_K,
    A_eq=np.ones((1, 12)),
    b_eq=[17.0],
    bounds=list(zip(lower_K, upper_K, strict=True)),
  )
  np.testing.assert_allclose(x_K.sum(), 17.0)
  np.testing.assert_allclose(score_K @ x_K, -best.fun)


def test_of_equal_ones_the_first_gets_more():
  np.testing.assert_array_equal(
    bounded.fill(np.zeros(3), total=3.0, upper_K=2.0), [2, 1, 0]
  )
  np.testing.assert_array_equal(bounded.whole(np.full(4, 0.5)), [1, 1, 0, 0])


def test_rounding_keeps_what_is_whole():
  nearly_K = np.array([3 - 1e-12, 1 + 1e-12, 0.0])
  np.testing.assert_array_equal(bounded.whole(nearly_K), [3, 1, 0])


@pytest.mark.parametrize("solve", [bounded.project, bounded.fill])
@pytest.mark.parametrize("total", [0.5, 7.0, np.nan])
def test_more_than_there_is_is_refused(solve, total):
  with pytest.raises(ValueError, match="from 1 to 6 alone"):
    solve(np.zeros(2), total=total, lower_K=0.5, upper_K=3.0)


def test_on_the_simplex_it_is_the_projection_of_the_learning_law():
  """Of every step's weights, by cvxpy (Gu et al., 2024; microsoft/LMOps 4f2a9de)."""
  case = np.load(
    pathlib.Path(__file__).parents[1]
    / "bilevel/cases/pds_learning_law_perceptron.npz"
  )
  found = [
    bounded.project(x, total=1.0) for x in case["gamma_before_projection"]
  ]
  expected = case["gamma_after_projection_closed_form"]
  np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
