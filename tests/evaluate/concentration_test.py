"""Which concentration trials choose, and what it is at another compute."""

import numpy as np
import pytest

from cmtree_jax.evaluate import concentration


def _trials(**change):
  """Three shares, .01 of noise of their own and .5 that a seed shares."""
  seed_S = np.array([0.0, 0.5, -0.5])
  noise = {0.2: (0.01, -0.01, 0), 0.4: (-0.01, 0, 0.01), 0.8: (0, 0.01, -0.01)}
  mean = {0.2: 2.0, 0.4: 2.0, 0.8: 2.0, **change}
  return {
    share: mean[share] + seed_S + np.array(noise[share]) for share in noise
  }


def test_the_best_mean_wins_beyond_one_standard_error():
  # Deviation of a paired difference: .0122 sqrt(2) over sqrt(3) seeds, .0082 by
  # the pooled residuals.
  assert concentration.best({**_trials(), 0.8: _trials()[0.8] + 0.1}) == 0.4
  assert concentration.best({**_trials(), 0.2: _trials()[0.2] - 0.1}) == 0.2


def test_what_cannot_be_told_apart_goes_to_the_broadest():
  assert concentration.best(_trials()) == 0.8
  closer = _trials()
  closer[0.8] = closer[0.8] + 0.005
  assert concentration.best(closer) == 0.8


def test_one_candidate_or_seed_is_taken_as_it_is():
  assert concentration.best({0.3: [2.0, 2.1, 2.2]}) == 0.3
  assert concentration.best({0.3: [2.0], 0.6: [2.01]}) == 0.3


def test_the_share_grows_as_a_power_of_compute():
  share = {C: 4e-7 * C**0.4 for C in (1e12, 1.6e13, 1e14)}
  found, slope = concentration.extrapolated(share, 1e15)
  assert slope == pytest.approx(0.4)
  assert found == pytest.approx(4e-7 * 1e15**0.4)


def test_one_budget_takes_the_published_slope_and_no_share_is_above_one():
  found, slope = concentration.extrapolated({1e12: 0.1}, 1.6e13)
  assert (found, slope) == (pytest.approx(0.2), concentration.PUBLISHED_SLOPE)
  assert concentration.extrapolated({1e12: 0.1}, 1e20)[0] == 1.0
