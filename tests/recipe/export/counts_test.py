"""Systematic rounding: expectations exact, sums within one, shards like the whole."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from cmtree_jax.recipe.export import counts

ONE = 2**40


def test_expectation_over_all_offsets_is_exact():
  """Expectations in 64ths, met exactly by the mean over 64 spaced offsets."""
  random = np.random.default_rng(0)
  sixty_fourths = random.integers(0, 300, 1_000)
  total = np.zeros(1_000, np.int64)
  for step in range(64):
    start = step * ONE // 64 + 12_345  # anywhere within the step
    total += counts.repeat(sixty_fourths / 64, start)[0]
  np.testing.assert_array_equal(total, sixty_fourths)


@pytest.mark.parametrize("start", [0, 1, ONE // 3, ONE - 1])
def test_each_count_is_floor_or_ceiling_and_each_run_within_one(start):
  random = np.random.default_rng(1)
  expected_N = random.exponential(1.3, 5_000) * (random.random(5_000) < 0.7)
  count_N, _ = counts.repeat(expected_N, start)
  assert np.all(count_N >= np.floor(expected_N))
  assert np.all(count_N <= np.ceil(expected_N))
  error = np.cumsum(count_N) - np.cumsum(expected_N)
  # Any run's error is a difference of two of these.
  assert np.ptp(np.append(error, 0)) < 1 + 1e-6


def test_shards_equal_the_whole_in_order_and_in_parallel():
  random = np.random.default_rng(2)
  expected_N = random.exponential(2.0, 10_000)
  start = counts.offset(7)
  whole, end = counts.repeat(expected_N, start)
  cuts = [0, 0, 1, 137, 4_096, 9_999, 10_000, 10_000]
  pieces = [expected_N[a:b] for a, b in itertools.pairwise(cuts)]
  place, in_order = start, []
  for piece in pieces:
    count_N, place = counts.repeat(piece, place)
    in_order.append(count_N)
  np.testing.assert_array_equal(np.concatenate(in_order), whole)
  assert place == end
  sums = [counts.repeat(piece, 0)[1] for piece in pieces]
  starts = [(start + sum(sums[:i])) % ONE for i in range(len(pieces))]
  in_parallel = [
    counts.repeat(piece, place)[0]
    for piece, place in zip(pieces, starts, strict=True)
  ]
  np.testing.assert_array_equal(np.concatenate(in_parallel), whole)


def test_ten_million_documents_lose_nothing():
  """A plain float64 sum of these drifts by many units of its last counts."""
  expected_N = np.full(10_000_000, 1 / 3)
  # Exactly representable in the unit, so that the true sum is known.
  expected_N[::2] = 2.0**-40 * 12_345_678_901
  count_N, end = counts.repeat(expected_N, 0)
  third = round(Fraction(1 / 3) * ONE)
  exact = 5_000_000 * (third + 12_345_678_901)
  assert count_N.sum() == exact // ONE
  assert end == exact % ONE
  unit_N = np.tile([12_345_678_901, third], 5_000_000)
  after_N = np.cumsum(unit_N)  # below 2**63: exact
  np.testing.assert_array_equal(count_N, np.diff(after_N // ONE, prepend=0))


def test_sums_beyond_64_bits_wrap_without_harm():
  expected_N = np.full(40, 2_000_000.25)  # 8e7 copies, 2**66 units
  count_N, end = counts.repeat(expected_N, 0)
  assert count_N.tolist() == [2_000_000, 2_000_000, 2_000_000, 2_000_001] * 10
  assert end == 0


def test_offsets_of_seeds_are_uniform():
  offsets = np.array([counts.offset(seed) for seed in range(2_000)]) / ONE
  assert offsets.min() >= 0
  assert offsets.max() < 1
  gap = np.abs(np.sort(offsets) - np.arange(2_000) / 2_000).max()
  assert gap < 1.95 / math.sqrt(2_000)  # Kolmogorov's 0.1 %


def test_shares_of_a_whole_are_no_more_than_it():
  """Rounded to the unit they can be, and then it would be one copy more."""
  random = np.random.default_rng(3)
  expected_NG = 4 * random.dirichlet(np.ones(5), size=100)
  last = ONE - 1  # of all offsets that which gives most copies
  rounded_N = [counts.repeat(one_G, last)[0].sum() for one_G in expected_NG]
  assert sum(rounded_N) > 410
  for one_NG in expected_NG[:, None]:
    count_NG, _ = counts.repeat_by_stage(one_NG, last, np.array([1 - 2**-53]))
    assert count_NG.sum() <= 4


@pytest.mark.parametrize("whole", [True, False])
def test_stages_get_what_is_expected_of_documents_in_all(whole):
  random = np.random.default_rng(4)
  expected_NG = 3 * random.dirichlet(np.ones(4) / 2, size=5_000)
  if whole:  # what one offset for all documents divides alike
    expected_NG[:] = 4 * np.array([0.5, 0.3, 0.15, 0.05])
  else:
    expected_NG *= random.random((5_000, 1))
  start, uniform_N = counts.offset(7), random.random(5_000)
  count_NG, end = counts.repeat_by_stage(expected_NG, start, uniform_N)
  assert (np.abs(count_NG - expected_NG) < 1).all()
  total_N, expected_N = count_NG.sum(axis=1), expected_NG.sum(axis=1)
  assert (np.abs(total_N - expected_N) < 1).all()
  assert abs(total_N.sum() - expected_N.sum()) < 1
  deviation = 5 * np.sqrt(5_000 / 4)
  np.testing.assert_allclose(
    count_NG.sum(axis=0), expected_NG.sum(axis=0), atol=deviation
  )
  # Shards are like the whole.
  place, parts = start, []
  for begin, stop in itertools.pairwise((0, 0, 17, 5_000)):
    rows = slice(begin, stop)
    one_NG, place = counts.repeat_by_stage(
      expected_NG[rows], place, uniform_N[rows]
    )
    parts.append(one_NG)
  np.testing.assert_array_equal(np.concatenate(parts), count_NG)
  assert place == end


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, 2.0**21])
def test_an_impossible_expectation_is_refused(value):
  with pytest.raises(ValueError, match="zero to two million"):
    counts.repeat(np.array([1.0, value]), 0)
