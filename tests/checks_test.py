"""Checks at the door: what lies on the border passes, NaN never does."""

import functools
import math

import pytest

from cmtree_jax import checks


@pytest.mark.parametrize(
  ("check", "good", "bad"),
  [
    (functools.partial(checks.at_least, 1), (1, 2, math.inf), (0, -1)),
    (checks.above_zero, (1e-30, math.inf), (0, -1, -math.inf)),
    (checks.share, (0, 0.5, 1), (-1e-9, 1.1, math.inf)),
    (checks.finite, (-1e30, 0), (math.inf, -math.inf)),
  ],
)
def test_a_number_is_told_with_its_name(check, good, bad):
  for number in good:
    check(field=number)
  for number in (*bad, math.nan):
    with pytest.raises(ValueError, match=f"field = {number} must be"):
      check(fine=good[0], field=number)


def test_a_word_is_told_with_those_that_are_known():
  checks.one_of("mode", "joint", ("joint", "frozen"))
  with pytest.raises(ValueError, match="mode 'jiont'. Known: frozen, joint"):
    checks.one_of("mode", "jiont", ("joint", "frozen"))
