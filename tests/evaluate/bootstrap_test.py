"""Resampling: coverage of a known mean, and the ratio that is not a mean of ratios."""

import math

import numpy as np
import pytest
from scipy import stats

from cmtree_jax.evaluate import bootstrap


def test_an_interval_is_about_that_of_normal_theory():
  x_N = np.random.default_rng(0).normal(2, 1, 400)
  found = bootstrap.ratio(x_N)
  expected = stats.norm.interval(0.95, x_N.mean(), x_N.std() / math.sqrt(400))
  assert found.mean == pytest.approx(x_N.mean())
  np.testing.assert_allclose((found.low, found.high), expected, atol=0.01)
  assert bootstrap.ratio(x_N) == found  # equal results, equal intervals


def test_a_ratio_is_of_sums():
  nats_N, bytes_N = np.array([1.0, 30.0]), np.array([1.0, 10.0])
  found = bootstrap.ratio(nats_N, bytes_N)
  assert found == (pytest.approx(31 / 11), 1.0, 3.0)


def test_resamples_without_a_value_are_left_out():
  """As where all of a resample is one recipe, which has no pairs."""

  def only_mixed(count_DN):
    return np.where((count_DN > 0).all(axis=1), 1.0, np.nan)

  assert bootstrap.interval(only_mixed, 2) == (1, 1, 1)
  none = bootstrap.interval(lambda count_DN: count_DN[:, 0] * np.nan, 2)
  assert math.isnan(none.mean) and math.isnan(none.low)
