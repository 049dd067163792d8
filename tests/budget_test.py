"""The budget's arithmetic, and the cap: mean one, none above R, excess to the rest."""

import json

import numpy as np
import pytest

from cmtree_jax import budget
from cmtree_jax.budget import Plan


def make(plan=Plan(), prepared=1000):  # noqa: B008
  return budget.make(plan, prepared_tokens=prepared, parameters=7)


def test_epochs_are_of_the_pool_that_the_training_draws_from():
  assert make().tokens == make().pool_tokens == 1000
  assert make().epochs == 1 and make().max_weight == 4
  quarter = make(Plan(epochs=0.25))
  assert quarter.tokens == 250 and quarter.max_weight == 16
  sampled = make(Plan(sample_share=0.01, tokens=50_000))
  assert sampled.pool_tokens == 100_000
  assert sampled.epochs == 0.5 and sampled.max_weight == 8
  counted = make(Plan(pool_tokens=10_000, epochs=2.0))
  assert counted.tokens == 20_000 and counted.max_weight == 2
  assert make().parameters == 7
  assert make(Plan(parameters=9)).parameters == 9


def test_more_epochs_than_allowed_leave_the_natural_mixture_alone():
  found = make(Plan(epochs=8.0, max_epochs=4.0))
  assert found.max_weight == 1
  assert "no recipe may differ" in found.text()
  assert "no document more than" not in found.text()
  assert "no recipe may differ" in make(Plan(epochs=4.0)).text()
  assert "no recipe may differ" not in make(Plan(epochs=3.9)).text()
  mass_N = np.array([0.5, 0.3, 0.2])
  v_N = budget.capped(np.array([9.0, 1, 0.1]), mass_N, max_weight=1)
  np.testing.assert_allclose(v_N, 1)


def test_a_budget_goes_through_json():
  one = make(Plan(tokens=123, max_epochs=3.0))
  data = json.loads(json.dumps(one.to_json()))
  assert budget.from_json(data) == one
  assert data["epochs"] == 0.123
  assert data["max_weight"] == one.max_weight


@pytest.mark.parametrize(
  ("fields", "told"),
  [
    (dict(tokens=-1), "tokens"),
    (dict(epochs=0.0), "epochs"),
    (dict(epochs=float("inf")), "epochs"),
    (dict(sample_share=0.0), "sample_share"),
    (dict(sample_share=1.5), "sample_share"),
    (dict(max_epochs=0.0), "max_epochs"),
    (dict(r_star=0.0), "r_star"),
    (dict(min_documents=0), "min_documents"),
    (dict(tokens=10, epochs=2.0), "set one of them"),
    (dict(pool_tokens=10, sample_share=0.5), "set one of them"),
  ],
)
def test_what_contradicts_itself_is_refused(fields, told):
  Plan().check()
  with pytest.raises(ValueError, match=told):
    Plan(**fields).check()


def draws(seed, count=200):
  """Weights, masses and caps of many kinds."""
  rng = np.random.default_rng(seed)
  for _ in range(count):
    size = rng.integers(1, 60)
    mass_N = rng.dirichlet(np.full(size, rng.choice([0.02, 0.1, 1, 10])))
    mass_N *= rng.choice([1, 1e-9, 1e6])
    mass_N[rng.random(size) < rng.choice([0, 0.3])] = 0
    if not mass_N.sum():
      continue
    weight_N = np.exp(rng.normal(0, rng.choice([0, 0.1, 1, 5, 50]), size))
    weight_N *= rng.choice([1, 1e-150, 1e150])
    weight_N[rng.random(size) < rng.choice([0, 0.5])] = 0
    cap = float(rng.choice([1, 1 + 1e-12, 1.0001, 1.05, 2, 4, 16, 300]))
    yield weight_N, mass_N, cap


@pytest.mark.parametrize("seed", range(5))
def test_capped_weights_have_mean_one_and_none_is_above_the_cap(seed):
  for w_N, q_N, cap in draws(seed):
    v_N = budget.capped(w_N, q_N, max_weight=cap)
    assert np.isfinite(v_N).all() and (v_N >= 0).all()
    assert v_N.max() <= cap * (1 + 1e-12)
    assert (v_N[q_N == 0] == 0).all()
    np.testing.assert_allclose(q_N @ v_N / q_N.sum(), 1, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_the_excess_goes_to_the_rest_in_proportion(seed):
  for w_N, q_N, cap in draws(seed):
    v_N = budget.capped(w_N, q_N, max_weight=cap)
    positive_N = (w_N > 0) & (q_N > 0)
    below_N = positive_N & (v_N > 0) & (v_N < cap * (1 - 1e-9))
    if below_N.any():
      ratio_N = np.log(v_N[below_N]) - np.log(w_N[below_N])
      assert np.ptp(ratio_N) < 1e-6
      # What is at the cap would be above it under the same factor.
      at_N = positive_N & ~below_N & (v_N > 0)
      assert (np.log(w_N[at_N]) + ratio_N[0] >= np.log(cap) - 1e-6).all()
    else:  # all at the cap; the others share what is left, all alike
      others_N = (q_N > 0) & ~positive_N
      if others_N.any():
        assert np.ptp(v_N[others_N]) < 1e-12
    # Capped once more, nothing moves (but roundings, where next to nothing is free).
    again_N = budget.capped(v_N, q_N, max_weight=cap)
    np.testing.assert_allclose(again_N, v_N, atol=1e-9 if cap > 1.01 else 1e-3)


def test_weights_that_obey_the_cap_are_scaled_alone():
  w_N, q_N = np.array([3.0, 1.0, 2.0]), np.array([0.2, 0.5, 0.3])
  v_N = budget.capped(w_N, q_N, max_weight=4)
  np.testing.assert_allclose(v_N, w_N / (q_N @ w_N))


def test_zero_weights_get_something_only_where_the_cap_leaves_it():
  q_N = np.array([0.25, 0.25, 0.25, 0.25])
  hard_N = np.array([1.0, 1.0, 0.0, 0.0])
  v_N = budget.capped(hard_N, q_N, max_weight=4)
  np.testing.assert_allclose(v_N, [2, 2, 0, 0])
  v_N = budget.capped(hard_N, q_N, max_weight=1.5)
  np.testing.assert_allclose(v_N, [1.5, 1.5, 0.5, 0.5])
  np.testing.assert_allclose(budget.capped(np.zeros(4), q_N, max_weight=4), 1)


def test_the_order_of_documents_does_not_matter():
  (w_N, q_N, cap), *_ = draws(9)
  order_N = np.random.default_rng(0).permutation(len(w_N))
  np.testing.assert_allclose(
    budget.capped(w_N[order_N], q_N[order_N], max_weight=cap),
    budget.capped(w_N, q_N, max_weight=cap)[order_N],
  )


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


@pytest.mark.parametrize(
  ("length", "words"),
  [
    (2_000, ["2 epochs of what is prepared", "has 0.5", "more often"]),
    (250, []),
    (50, ["about 10 documents", "sees 40", "about 0.125 times"]),
  ],
)
def test_a_training_that_cannot_repeat_as_the_budget_does_is_told(
  length, words
):
  plan = budget.Plan(epochs=0.5, min_documents=40)
  one = budget.make(plan, prepared_tokens=1_000, parameters=1)
  told = budget.unmatched(one, {"A trial": length}, documents=100, tokens=1_000)
  assert len(told) == bool(words)
  for word in words:
    assert word in told[0] and told[0].startswith("A trial")


def test_a_pool_smaller_than_what_is_prepared_of_it_is_told():
  plan = budget.Plan(pool_tokens=900, min_documents=1)
  one = budget.make(plan, prepared_tokens=1_000, parameters=1)
  (told,) = budget.unmatched(one, {}, documents=100, tokens=1_000)
  assert "The pool of 900 tokens" in told and "1,000" in told
