"""Recipes brought to one effective sample size."""

import numpy as np
import pytest

from cmtree_jax.evaluate.concentration import to_effective_sample_size

RNG = np.random.default_rng(0)
MASS_N = RNG.dirichlet(np.ones(500))
LOG_W_N = RNG.normal(size=500)


def _share(log_v_N):
  return 1 / (MASS_N @ np.exp(2 * log_v_N))


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_the_share_is_reached_and_the_order_stays(share):
  log_v_N = to_effective_sample_size(
    LOG_W_N, MASS_N, share=share, max_weight=1e9
  )
  assert MASS_N @ np.exp(log_v_N) == pytest.approx(1, rel=1e-5)
  assert _share(log_v_N) == pytest.approx(share, rel=1e-4)
  # A power of the weights: log v is a line in log w.
  slope = np.polyfit(LOG_W_N, log_v_N, 1)
  np.testing.assert_allclose(np.polyval(slope, LOG_W_N), log_v_N, atol=1e-5)
  assert slope[0] > 0


def test_no_weight_is_above_the_cap():
  log_v_N = to_effective_sample_size(LOG_W_N, MASS_N, share=0.3, max_weight=4.0)
  assert np.exp(log_v_N).max() <= 4.0 * (1 + 1e-5)
  assert _share(log_v_N) == pytest.approx(0.3, rel=1e-4)


def test_a_share_out_of_reach_is_approached():
  # Equal weights on half of the mass cannot be more concentrated than that.
  log_w_N = np.where(np.cumsum(MASS_N) < 0.5, 1.0, 0.0)
  log_v_N = to_effective_sample_size(log_w_N, MASS_N, share=0.1, max_weight=1e9)
  top = MASS_N[log_w_N > 0].sum()
  assert _share(log_v_N) == pytest.approx(top, rel=1e-3)
