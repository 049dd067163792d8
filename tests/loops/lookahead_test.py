"""What a change of weights is measured to be worth: harm beyond the noise, or not."""

import numpy as np
import pytest

from cmtree_jax.loops.lookahead import Gain


def test_the_error_is_that_of_the_mean():
  fall_P = np.array([0.1, 0.4, 0.1])
  gain = Gain.of(fall_P)
  assert gain.mean == pytest.approx(0.2)
  assert gain.error == pytest.approx(np.sqrt(0.03) / np.sqrt(3))


@pytest.mark.parametrize(
  ("mean", "error", "harm"),
  [(0.1, 0.3, False), (-0.1, 0.3, False), (-0.4, 0.3, True), (0, 0, False)],
)
def test_what_is_worse_within_the_noise_is_no_harm(mean, error, harm):
  assert Gain(mean, error).is_harm == harm
