"""The cap on weights: mean one, none above it, the rest in proportion."""

import numpy as np
import pytest

from cmtree_jax import budget


@pytest.mark.parametrize("max_weight", [1.0, 1.5, 4.0, 40.0, 1e6])
def test_capped_weights_are_the_weights_scaled_up_to_the_cap(max_weight):
  random = np.random.default_rng(0)
  weight_N = np.exp(3 * random.normal(size=5_000))
  mass_N = random.integers(1, 2_000, 5_000)
  found_N = budget.capped(weight_N, mass_N, max_weight=max_weight)
  q_N = mass_N / mass_N.sum()
  assert q_N @ found_N == pytest.approx(1, rel=1e-9)
  assert found_N.max() <= max_weight
  below_N = found_N < max_weight
  ratio_N = found_N[below_N] / weight_N[below_N]
  np.testing.assert_allclose(ratio_N, ratio_N[:1].repeat(len(ratio_N)))
  assert (weight_N[~below_N].min(initial=np.inf)) >= weight_N[below_N].max(
    initial=0
  )


@pytest.mark.parametrize("beyond", [0.0, 1e-15, 1e-13, 1e-12])
@pytest.mark.parametrize("seed", range(20))
def test_weights_that_just_fill_the_corpus_at_the_cap(beyond, seed):
  """Sums in two orders differ, so that no weight seems to fit."""
  random = np.random.default_rng(seed)
  mass_N = random.integers(1, 2_000, 20_000)
  chosen_N = random.random(20_000) < 0.5
  weight_N = np.where(chosen_N, np.exp(random.normal(size=20_000)), 0)
  q_N = mass_N / mass_N.sum()
  max_weight = (1 + beyond) / q_N[chosen_N].sum()
  found_N = budget.capped(weight_N, mass_N, max_weight=max_weight)
  assert q_N @ found_N == pytest.approx(1, rel=1e-9)


def test_what_a_selection_leaves_goes_to_all_others_alike():
  weight_N = np.array([2.0, 1.0, 0.0, 0.0])
  found_N = budget.capped(weight_N, np.array([1, 1, 2, 4]), max_weight=2.0)
  np.testing.assert_allclose(found_N, [2, 2, 2 / 3, 2 / 3])
