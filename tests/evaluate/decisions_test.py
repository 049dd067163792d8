"""Decision accuracy: equal to a loop over pairs and to Kendall's tau."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.decisions import decisions

_RNG = np.random.default_rng(0)
_LARGE = np.linspace(0, 1, 20)[:, None] + 0.1 * _RNG.normal(size=(20, 3))
_SMALL = np.linspace(0, 1, 20) + 0.3 * _RNG.normal(size=20)


def test_pairs_are_those_of_a_loop():
  found = decisions(_SMALL, _LARGE)
  large_R, floor = _LARGE.mean(axis=1), statistics.pooled_floor(_LARGE)
  pairs = list(itertools.combinations(range(20), 2))
  alike = {
    (i, j): (_SMALL[i] < _SMALL[j]) == (large_R[i] < large_R[j])
    for i, j in pairs
  }
  far = [(i, j) for i, j in pairs if abs(large_R[i] - large_R[j]) > floor]
  assert 0 < len(far) < len(pairs)
  assert found.all.mean == pytest.approx(np.mean([alike[p] for p in pairs]))
  assert found.beyond.mean == pytest.approx(np.mean([alike[p] for p in far]))
  assert found.within_noise == pytest.approx(1 - len(far) / len(pairs))
  tau = stats.kendalltau(_SMALL, large_R).statistic
  assert found.all.mean == pytest.approx((1 + tau) / 2)
  assert found.all.low < found.all.mean < found.all.high < 1


def test_one_seed_says_nothing_of_noise():
  found = decisions(_SMALL, _LARGE[:, :1])
  assert math.isnan(found.within_noise) and math.isnan(found.beyond.mean)
  assert found.all.low < found.all.mean


def test_ties_are_coins():
  found = decisions(np.array([1.0, 1.0, 2.0]), _LARGE[:3] * 0 + [[1], [2], [3]])
  assert found.all.mean == pytest.approx(2.5 / 3)
  # A resample of one recipe alone has no pairs.
  assert (found.all.low, found.all.high) == (0.5, 1.0)


def test_what_ranks_by_chance_is_at_a_half():
  rng = np.random.default_rng(1)
  shares = [
    decisions(rng.normal(size=12), rng.normal(size=(12, 2))).all
    for _ in range(100)
  ]
  assert np.mean([one.mean for one in shares]) == pytest.approx(0.5, abs=0.03)
  inside = np.mean([one.low <= 0.5 <= one.high for one in shares])
  assert inside > 0.85
