"""Optimality conditions of the best mixture; collapsed domains."""

import numpy as np
import pytest

from cmtree_jax.methods.laws import optimum
from tests import reference


def case(seed, kl):
  rng = np.random.default_rng(seed)
  prior_K = rng.dirichlet(np.full(8, 1.0))
  prior_K[2] = 0.0
  prior_K /= prior_K.sum()
  weight_I, slope_IK = rng.dirichlet(np.ones(5)), rng.normal(0, 2, (5, 8))
  cap_K = 1.5 * prior_K
  found_K = optimum.minimize(
    weight_I, slope_IK, prior_K=prior_K, cap_K=cap_K, kl=kl
  )
  return weight_I, slope_IK, prior_K, cap_K, found_K


@pytest.mark.parametrize("kl", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_the_optimum_obeys_the_conditions_of_kkt(seed, kl):
  weight_I, slope_IK, prior_K, cap_K, found_K = case(seed, kl)
  np.testing.assert_allclose(found_K.sum(), 1, rtol=1e-12)
  assert (found_K >= 0).all() and (found_K <= cap_K * (1 + 1e-9)).all()
  assert found_K[2] == 0
  used_K = prior_K > 0
  gradient = slope_IK.T @ (weight_I * np.exp(slope_IK @ found_K))
  gradient = gradient[used_K]
  p, cap = found_K[used_K], cap_K[used_K]
  if kl:
    gradient = gradient + kl * (np.log(np.maximum(p, 1e-12)) + 1)
    gradient = gradient - kl * np.log(prior_K[used_K])
  low, high = p < 1e-7, p > cap * (1 - 1e-7)
  inside = ~low & ~high
  # All inner slopes are one multiplier; at a bound they point out of the box.
  multiplier = np.median(gradient[inside])
  tolerance = 1e-4 * np.abs(gradient).max()
  np.testing.assert_allclose(gradient[inside], multiplier, atol=tolerance)
  assert (gradient[low] >= multiplier - tolerance).all()
  assert (gradient[high] <= multiplier + tolerance).all()
  assert high.any() or kl == 1  # the cases are not trivial


def test_a_strong_tie_to_the_prior_gives_the_prior():
  *_, prior_K, _, found_K = case(0, 1e4)
  np.testing.assert_allclose(found_K, prior_K, atol=1e-3)


def test_no_slope_leaves_the_prior():
  prior_K = np.array([0.5, 0.3, 0.2])
  found_K = optimum.minimize(
    np.ones(1), np.zeros((1, 3)), prior_K=prior_K, cap_K=np.ones(3), kl=0.1
  )
  np.testing.assert_allclose(found_K, prior_K, atol=1e-6)


def test_a_cap_of_one_leaves_nothing_to_choose():
  prior_K = np.array([0.5, 0.3, 0.2])
  found_K = optimum.minimize(
    np.ones(1), np.array([[-9.0, 0, 9]]), prior_K=prior_K, cap_K=prior_K
  )
  np.testing.assert_allclose(found_K, prior_K, rtol=1e-12)


def test_domains_that_are_kept_are_one_part():
  # The worked example of Olmix.
  inner_VK = optimum.collapse(np.array([0.25, 0.25, 0.5, np.nan]))
  np.testing.assert_allclose(
    np.array([0.4, 0.6]) @ inner_VK, [0.1, 0.1, 0.2, 0.6]
  )
  cap_K = np.array([0.1, 0.2, 0.3, 0.7])
  cap_V = optimum.cap_of_parts(inner_VK, cap_K)
  # r N_j / (R p_j) is least for the first; at the bound it alone is used up.
  np.testing.assert_allclose(cap_V, [0.1 / 0.25, 0.7])
  np.testing.assert_allclose(
    np.array([cap_V[0], 1 - cap_V[0]]) @ inner_VK, [0.1, 0.1, 0.2, 0.6]
  )
  # A domain that is not used sets no bound.
  unused = optimum.collapse(np.array([1.0, 0.0]))
  assert optimum.cap_of_parts(unused, np.array([0.5, 0.0])) == [0.5]
  # Nothing is kept: every domain is a part, in its place and exactly.
  alone = optimum.collapse(np.full(3, np.nan))
  np.testing.assert_array_equal(alone, np.eye(3))
  np.testing.assert_array_equal(
    optimum.cap_of_parts(alone, cap_K[:3]), cap_K[:3]
  )


def test_the_published_optimum_of_olmix_lies_within_our_bounds():
  yaml = pytest.importorskip("yaml")
  folder = reference.folder("published", "olmix_configs")
  start = "mixture_reuse_case_study__"
  fit = yaml.safe_load((folder / f"{start}fit__0_dclm.yaml").read_text())
  runs = yaml.safe_load(
    (folder / f"{start}generate__1_add_stackedu.yaml").read_text()
  )
  published = {
    topic["name"]: topic["weight"]
    for topic in runs["data"]["sources"][0]["topics"]
  }
  tokens = fit["priors"]["token_counts"]
  assert set(published) == set(tokens)
  budget = float(fit["constraints"]["target_tokens"])
  repetitions = float(fit["constraints"]["repetition_factor"])
  p_K = np.array([published[name] for name in sorted(tokens)])
  cap_K = np.array(
    [repetitions * tokens[name] / budget for name in sorted(tokens)]
  )
  np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-6)
  assert (p_K <= cap_K).all()
  # As one part beside others it could take all of the training.
  inner_VK = optimum.collapse(np.append(p_K, np.nan))
  assert optimum.cap_of_parts(inner_VK, np.append(cap_K, 1.0))[0] >= 1
  np.testing.assert_allclose(
    (np.array([0.75, 0.25]) @ inner_VK)[:-1], 0.75 * p_K, rtol=1e-6
  )
