"""Designs and candidates: bounds, grid, caps, domains without text."""

import pathlib

import numpy as np
import pytest
import scipy.optimize

from cmtree_jax.methods.laws import designs

# From NeMo Curator's CLIMB recipe (1e2e4275), which has RegMix's sampler.
PUBLISHED = np.load(pathlib.Path(__file__).parent / "cases/climb_mixtures.npz")
PRIOR = PUBLISHED["prior"]
GRID = 2e-4


def design(count, seed=0, prior=PRIOR, **options):
  rng = np.random.default_rng(seed)
  return designs.regmix(prior, count, rng=rng, **options)


def assert_bounds(mixture_RK, slack):
  """What both the published mixtures and ours obey."""
  assert (mixture_RK >= 0).all()
  # The grid may lift a share by a step; so may the shares that were dropped.
  assert (mixture_RK <= 15 * PRIOR + 2 * GRID).all()
  steps_RK = mixture_RK / GRID
  np.testing.assert_allclose(steps_RK, np.round(steps_RK), atol=1e-6)
  np.testing.assert_allclose(mixture_RK.sum(axis=1), 1, atol=slack)
  assert len(np.unique(mixture_RK, axis=0)) == len(mixture_RK)


def test_published_mixtures_and_ours_obey_the_same_bounds():
  assert_bounds(PUBLISHED["mixtures"], slack=2 * GRID)
  assert_bounds(design(512, cap_K=15 * PRIOR), slack=1e-12)


def test_the_design_is_around_the_flattened_prior_from_sparse_to_dense():
  mixture_RK = design(4000)
  flat_K = np.sqrt(PRIOR) / np.sqrt(PRIOR).sum()
  # Not closer: one-hot rows of large domains come often and are kept once.
  assert np.abs(mixture_RK.mean(0) - flat_K).max() < 0.04
  assert np.abs(flat_K - PRIOR).max() > 0.14
  # Neither of which a single strength gives.
  assert 0.1 < (mixture_RK.max(axis=1) > 0.95).mean() < 0.5
  assert 0.1 < ((mixture_RK > 0.01).sum(axis=1) == 5).mean() < 0.5


def test_draws_within_the_cap_are_those_of_the_rejection():
  loose, tight = design(64, cap_K=np.ones(5)), design(64)
  np.testing.assert_array_equal(loose, tight)
  assert (design(64, cap_K=1.5 * PRIOR) <= 1.5 * PRIOR + 2 * GRID).all()


def test_a_cap_that_leaves_the_prior_alone_gives_the_prior():
  mixture_RK = design(8, cap_K=PRIOR)
  np.testing.assert_allclose(mixture_RK, np.tile(PRIOR, (8, 1)), atol=GRID)


def test_domains_without_text_get_nothing():
  prior_K = np.array([0.0, 0.6, 0.0, 0.4])
  for mixture_RK in (
    design(32, prior=prior_K),
    design(32, prior=prior_K, cap_K=1.2 * prior_K),
    designs.dirichlet(
      prior_K, 32, rng=np.random.default_rng(0), cap_K=1.2 * prior_K
    ),
  ):
    assert (mixture_RK[:, [0, 2]] == 0).all()
    np.testing.assert_allclose(mixture_RK.sum(axis=1), 1)
  np.testing.assert_array_equal(
    designs.one_hot(prior_K), [[0, 1, 0, 0], [0, 0, 0, 1]]
  )


def test_equal_seeds_give_equal_designs():
  np.testing.assert_array_equal(design(16, 3), design(16, 3))
  assert not np.array_equal(design(16, 3), design(16, 4))


def test_candidates_have_the_moments_of_a_dirichlet():
  draw_CK = designs.dirichlet(PRIOR, 20_000, rng=np.random.default_rng(0))
  variance_K = PRIOR * (1 - PRIOR) / 2  # of concentration one
  np.testing.assert_allclose(
    draw_CK.mean(0), PRIOR, atol=5 * np.sqrt(variance_K.max() / 20_000)
  )
  np.testing.assert_allclose(draw_CK.var(0), variance_K, rtol=0.1)


def test_capping_is_the_projection_in_kl():
  rng = np.random.default_rng(0)
  cap_K = 1.6 * PRIOR
  mixture_CK = rng.dirichlet(np.ones(5), 6)
  found_CK = designs.capped(mixture_CK, cap_K)
  assert (found_CK <= cap_K + 1e-12).all()
  np.testing.assert_allclose(found_CK.sum(axis=1), 1)
  for mixture_K, found_K in zip(mixture_CK, found_CK, strict=True):
    best = scipy.optimize.minimize(
      lambda p, m=mixture_K: np.sum(p * np.log(np.maximum(p, 1e-12) / m)),
      PRIOR,
      method="SLSQP",
      bounds=[(0, top) for top in cap_K],
      constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
      options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(found_K, best.x, atol=1e-4)


def test_capping_leaves_rows_below_the_caps_and_fills_empty_domains():
  cap_K = np.array([0.5, 0.6, 0.6])
  rows = np.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
  found = designs.capped(rows, cap_K)
  np.testing.assert_array_equal(found[0], rows[0])
  np.testing.assert_allclose(found[1], [0.5, 0.25, 0.25])


def test_a_grid_too_coarse_is_refused():
  with pytest.raises(ValueError, match="1 / 5"):
    design(4, minimum=0.3)
