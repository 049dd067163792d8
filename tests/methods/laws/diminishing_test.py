"""Double-diminishing proportions: halved shares on a grid, and a rest."""

import numpy as np

from cmtree_jax.methods.laws.diminishing import design

# The authors' largest shares for RedPajama.
CAP_K = np.array([1, 1, 0.5857, 0.2588, 0.2254, 0.1779, 0.1727])


def test_all_shares_but_one_are_halved_caps_on_the_grid():
  mixture_RK = design(np.random.default_rng(0), CAP_K, num_mixtures=300)
  assert mixture_RK.shape == (300, 7)
  np.testing.assert_allclose(mixture_RK.sum(axis=1), 1, rtol=1e-12)
  assert (mixture_RK >= 0).all() and (mixture_RK <= CAP_K + 1e-9).all()
  most_K = np.floor(CAP_K * 16) / 16
  halved_KS = most_K[:, None] * 0.5 ** np.arange(20)
  allowed_KS = np.where(halved_KS >= 1 / 16, halved_KS, 0)
  is_allowed_RK = np.abs(mixture_RK[:, :, None] - allowed_KS).min(axis=2) < 1e-9
  # The rest goes elsewhere where no share fits.
  assert (is_allowed_RK.sum(axis=1) >= 6).mean() > 0.99
  assert len(np.unique(mixture_RK.round(9), axis=0)) == 300
  # Every domain appears, at more than one share.
  for k in range(7):
    assert len(np.unique(mixture_RK[:, k].round(9))) >= 3


def test_the_shares_of_a_cap_are_the_published_ones():
  mixture_RK = design(np.random.default_rng(0), CAP_K, num_mixtures=2000)
  share, count = np.unique(mixture_RK[:, 2].round(9), return_counts=True)
  often = set(share[count > 50].tolist())  # others are the rest now and then
  assert {0.5625, 0.28125, 0.140625, 0.0703125, 0.0} <= often


def test_small_domains_are_seen_and_empty_ones_are_not():
  cap_K = np.full(33, 4 / 32)
  cap_K[5] = 0.0
  mixture_RK = design(np.random.default_rng(0), cap_K, num_mixtures=200)
  assert (mixture_RK[:, 5] == 0).all()
  assert (np.delete(mixture_RK, 5, axis=1) > 0).any(axis=0).all()
  assert (mixture_RK <= cap_K + 1e-9).all()


def test_a_domain_below_the_grid_is_seen_at_its_cap():
  # Four times its share of one in a thousand, as at one epoch.
  cap_K = 4 * np.array([0.6, 0.3, 0.099, 0.001])
  mixture_RK = design(np.random.default_rng(0), cap_K, num_mixtures=40)
  assert (mixture_RK <= np.minimum(cap_K, 1) + 1e-9).all()
  seen_R = mixture_RK[:, 3] > 0
  assert 0.2 < seen_R.mean() < 0.8
  np.testing.assert_allclose(mixture_RK[seen_R, 3].max(), 0.004, rtol=1e-9)


def test_where_few_mixtures_exist_they_repeat():
  # Caps leave the natural mixture alone.
  mixture_RK = design(
    np.random.default_rng(0), np.array([0.5, 0.5]), num_mixtures=5
  )
  np.testing.assert_allclose(mixture_RK, 0.5)
