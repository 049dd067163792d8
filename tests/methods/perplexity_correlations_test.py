"""Perplexity correlations: the authors' numbers, ties, caps and a planted world."""

import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import perplexity_correlations as correlations
from tests.methods import planted_runs as planted

CASES = pathlib.Path(__file__).parent / "cases"
CASE = dict(np.load(CASES / "perplexity_correlations.npz"))


@pytest.mark.parametrize(
  ("name", "theirs"),
  [
    ("product", "product"),
    ("sign", "sign"),
    ("sign_cdf", "sign_cdf"),
    ("spearman", "spearmanr"),
  ],
)
def test_estimates_are_those_of_the_authors(name, theirs):
  error_R = CASE["error"].copy()
  if name == "spearman":
    # Two models have equal errors; their code gives the second the higher rank.
    assert error_R[3] == error_R[4]
    error_R[4] += 1e-9
  found = correlations.ESTIMATORS[name](CASE["bpb"], error_R)
  np.testing.assert_allclose(found, CASE[f"est_{theirs}"], rtol=1e-6)


def test_mixtures_are_those_of_the_authors():
  for name in ("linear", "l2"):
    found = correlations.PROJECTIONS[name](CASE["est_sign_cdf"], CASE["tau"])
    # Theirs is float32, and what is left at the end is a difference of sums.
    np.testing.assert_allclose(found, CASE[name], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-12)


def test_ranks_do_not_depend_on_the_order_of_models_that_are_equal():
  rng = np.random.default_rng(0)
  loss_RK, error_R = rng.uniform(size=(20, 5)).round(1), rng.uniform(size=20)
  order = rng.permutation(20)
  for name in ("sign_cdf", "spearman"):
    estimate = correlations.ESTIMATORS[name]
    one, two = (
      estimate(loss_RK, error_R),
      estimate(loss_RK[order], error_R[order]),
    )
    np.testing.assert_allclose(one, two, rtol=1e-12)
    # A growing function of losses and errors changes nothing.
    np.testing.assert_allclose(
      estimate(np.exp(loss_RK), error_R**3), one, rtol=1e-12
    )
  flat_K = correlations.spearman(np.ones((20, 5)), error_R)
  np.testing.assert_array_equal(flat_K, 0)


def test_domains_of_equal_estimates_share_by_their_caps():
  cap_K = np.array([0.4, 0.3, 0.9, 0.3])
  found = correlations.linear(np.array([2.0, 1.0, 1.0, 0.0]), cap_K)
  np.testing.assert_allclose(found, [0.4, 0.15, 0.45, 0.0])
  equal = correlations.linear(np.full(4, 0.3), cap_K)
  np.testing.assert_allclose(equal, cap_K / cap_K.sum())


@pytest.fixture(scope="module")
def searched():
  method = correlations.make(runs=40, minimum=0.01)
  start = method.init(jax.random.key(0), planted.facts(max_weight=2.0))
  return start, planted.drive(method, start)[0]


@pytest.mark.parametrize("projection", ["linear", "l2"])
@pytest.mark.parametrize("estimator", ["sign", "sign_cdf", "spearman"])
def test_planted_domains_come_in_order(searched, estimator, projection):
  # The losses on the target's domain and on its duplicate go with the target's; those
  # on noise go against it.
  method = correlations.make(estimator=estimator, projection=projection)
  p_K = planted.recipe(method, searched[1])
  np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)
  assert (p_K <= 2 * planted.Q * (1 + 1e-5)).all()
  w_K = p_K / np.maximum(planted.Q, 1e-9)
  target, noise, copy, neutral, _ = w_K
  assert target == pytest.approx(2, rel=1e-4)
  assert copy > max(neutral, noise) and copy > 1.5
  assert p_K[planted.EMPTY] == 0
  if projection == "linear":  # filled in their order
    assert copy == pytest.approx(2, rel=1e-4)
    assert neutral > 10 * noise


def test_products_tell_how_large_a_loss_is_and_little_more(searched):
  method = correlations.make(estimator="product", projection="l2")
  state = searched[1]
  used_K = planted.Q > 0
  estimate_K = correlations.product(
    state.loss_RK[:, used_K], state.trials.mean_loss_R
  )
  mean_K = state.loss_RK[:, used_K].mean(axis=0)
  assert np.argmax(estimate_K) == np.argmax(mean_K)
  np.testing.assert_allclose(planted.recipe(method, state).sum(), 1, rtol=1e-5)


def test_it_is_natural_before_the_second_run_and_legal_after_any(searched):
  start, _ = searched
  method = correlations.make(runs=40, minimum=0.01)
  for stop in (0, 1, 2, 3):
    state = planted.drive(method, start, stop=stop)[0] if stop else start
    p_K = planted.recipe(method, state)
    np.testing.assert_allclose(p_K.sum(), 1, rtol=1e-5)
    if stop < 2:
      np.testing.assert_allclose(p_K, planted.Q, rtol=1e-5)


def test_where_all_runs_are_alike_the_recipe_is_natural(searched):
  state = searched[1]
  alike = state._replace(loss_RK=np.ones_like(state.loss_RK))
  method = correlations.make()
  np.testing.assert_allclose(
    planted.recipe(method, alike), planted.Q, rtol=1e-5
  )


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(runs=1), "runs = 1 must be at least 2"),
    (dict(exponent=-1.0), "exponent = -1.0 must be at least 0"),
    (dict(estimator="pearson"), "Unknown estimator 'pearson'. Known: product"),
    (dict(projection="l1"), "Unknown projection 'l1'. Known: l2, linear"),
  ],
)
def test_nonsense_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    correlations.make(**options)
