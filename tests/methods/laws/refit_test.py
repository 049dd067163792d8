"""Fits that are done again: errors of runs left out, and intervals."""

import numpy as np
import pytest

from cmtree_jax.methods.laws import refit

MIXTURE_RK = np.random.default_rng(0).dirichlet(np.ones(3), 20)
SLOPE_KT = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 5.0]])
LOSS_RT = MIXTURE_RK @ SLOPE_KT


def linear(mixture_RK, loss_RT, mixture_CK):
  """Least squares, which is exact here."""
  slope_KT = np.linalg.lstsq(mixture_RK, loss_RT, rcond=None)[0]
  return mixture_CK @ slope_KT


def test_an_exact_law_has_no_error_and_the_mean_has_that_of_its_spread():
  found = refit.leave_one_out(linear, MIXTURE_RK, LOSS_RT, most=100)
  assert found.runs == 20
  assert found.rmse == pytest.approx(0, abs=1e-12)
  # Without a run the mean of the others is off by R / (R - 1) of its distance.
  spread = LOSS_RT.mean(axis=1).std() * 20 / 19
  assert found.rmse_of_mean == pytest.approx(spread)
  assert found.rank_correlation == pytest.approx(1)


def test_a_run_is_never_predicted_from_itself():
  seen = []

  def spy(mixture_RK, loss_RT, mixture_CK):
    assert len(mixture_RK) == len(loss_RT) == 19
    assert not (mixture_RK == mixture_CK).all(axis=1).any()
    seen.append(mixture_CK[0])
    return np.ones((1, 2))

  found = refit.leave_one_out(spy, MIXTURE_RK, LOSS_RT, most=5)
  assert found.runs == len(seen) == 5
  np.testing.assert_array_equal(seen[0], MIXTURE_RK[0])
  np.testing.assert_array_equal(seen[-1], MIXTURE_RK[-1])
  assert np.isnan(found.rank_correlation)  # all are predicted alike


def test_resamples_are_of_as_many_runs_that_were_run():
  asked = []

  def solve(mixture_RK, loss_RT):
    asked.append(mixture_RK)
    np.testing.assert_array_equal(loss_RT, mixture_RK @ SLOPE_KT)
    return mixture_RK.mean(axis=0)

  found = refit.bootstrap(solve, MIXTURE_RK, LOSS_RT, draws=200, seed=1)
  assert {len(one) for one in asked} == {20}
  assert len(np.unique(asked[0], axis=0)) < 20
  # The spread of a mean over resamples is the standard error.
  np.testing.assert_allclose(
    found.std(axis=0), MIXTURE_RK.std(axis=0) / np.sqrt(20), rtol=0.2
  )
  again = refit.bootstrap(solve, MIXTURE_RK, LOSS_RT, draws=200, seed=1)
  np.testing.assert_array_equal(again, found)
