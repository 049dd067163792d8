"""What targets count for: given, alike, or more for those that fall behind."""

import numpy as np
import pytest

from cmtree_jax.loops import target_weights
from cmtree_jax.types import UserError


def test_given_weights_are_of_the_targets_that_drive_the_search():
  found = target_weights.first("b=1, a=3,c=7", ("a", "b"))
  np.testing.assert_allclose(found, [0.75, 0.25])
  np.testing.assert_allclose(target_weights.first("dro", ("a", "b")), 0.5)
  with pytest.raises(UserError, match="no weight for 'd'"):
    target_weights.first("a=1", ("a", "d"))
  with pytest.raises(UserError, match="no weight above 0"):
    target_weights.first("a=0,b=1", ("a",))


def test_a_target_has_one_weight():
  with pytest.raises(ValueError, match="names 'a' twice"):
    target_weights.check("a=1,b=2,a=3")


def test_a_target_that_falls_behind_counts_for_more():
  before_T = np.array([0.5, 0.25, 0.25])
  first_T = np.array([1.0, 4.0, 2.0])
  same_T = target_weights.robust(before_T, first_T, first_T)
  np.testing.assert_allclose(same_T, before_T)
  # Levels do not count: the first two have lost two per cent, the last none.
  loss_T = first_T * np.array([0.98, 0.98, 1.0])
  after_T = target_weights.robust(before_T, loss_T, first_T)
  assert after_T.sum() == pytest.approx(1.0)
  assert after_T[0] / after_T[1] == pytest.approx(2.0)
  grown = np.exp(target_weights.RATE * 0.02)
  assert after_T[2] / after_T[1] == pytest.approx(grown)


@pytest.mark.parametrize("text", ["", "a", "=1", "a=1,,b=2", "a=nan", "a=inf"])
def test_what_is_no_weight_is_refused(text):
  with pytest.raises(ValueError, match="target_weights = .* must be"):
    target_weights.check(text)
