"""Standings on made-up measurements whose answers are known."""

import math

import numpy as np
import pytest

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import comparison, standings

SEEDS = 3
NOISE = (0.002, -0.001, 0.003, 0.0, -0.004)  # of a seed, shared by all methods
OWN = (
  0.0004,
  -0.0003,
  0.0001,
  0.0,
  0.0,
)  # of a seed, of searched methods alone
FLOPS = 6e9  # of a full training


def test_a_difference_is_paired_by_seed():
  rows = _rows("natural", 1.5) + _rows("crisp", 1.4)
  (crisp, natural) = standings(rows, seeds=SEEDS)
  a_S = [1.4 + NOISE[s] + OWN[s] for s in range(SEEDS)]
  b_S = [1.5 + NOISE[s] for s in range(SEEDS)]
  assert (crisp.method, natural.method) == ("crisp", "natural")
  assert crisp.to_natural == statistics.paired_difference(a_S, b_S)
  assert crisp.bpb == pytest.approx(np.mean(a_S))
  assert natural.to_natural == (0, 0, 0)
  assert crisp.verdict == "better"
  assert natural.verdict == ""


def test_the_best_other_is_chosen_on_the_validation_split():
  # On test "lucky" is best; on validation "steady" is, then "natural".
  rows = (
    _rows("natural", 1.5)
    + _rows("lucky", 1.3, validation=1.6)
    + _rows("steady", 1.4, validation=1.35)
  )
  found = {one.method: one for one in standings(rows, seeds=SEEDS)}
  assert found["lucky"].best_other == "steady"
  assert found["natural"].best_other == "steady"
  assert found["steady"].best_other == "natural"
  assert found["lucky"].to_best.mean == pytest.approx(-0.1)
  assert found["steady"].best_verdict == "better"
  assert [one.method for one in standings(rows, seeds=SEEDS)] == [
    "lucky",
    "steady",
    "natural",
  ]


def test_the_test_split_does_not_choose_the_best_other():
  chosen = []
  for test in (1.2, 1.4, 1.9):
    rows = _rows("natural", 1.5) + _rows("a", 1.4) + _rows("b", test, 1.45)
    found = {one.method: one for one in standings(rows, seeds=SEEDS)}
    chosen.append([found[name].best_other for name in ("natural", "a", "b")])
  assert chosen == [["a", "b", "a"]] * 3


def test_repeats_of_natural_measure_the_noise_and_nothing_else():
  rows = _rows("natural", 1.5) + _rows("crisp", 1.4)
  repeats = [_row("natural", s, 1.0, 1.5 + NOISE[s]) for s in (3, 4)]
  repeats += [{**row, "split": "validation"} for row in repeats]
  (before, _), (after, _) = (
    standings(r, seeds=SEEDS) for r in (rows, rows + repeats)
  )
  assert after.noise_floor == statistics.noise_floor(
    [1.5 + noise for noise in NOISE], seeds=SEEDS
  )
  assert after._replace(noise_floor=before.noise_floor) == before


def test_a_small_difference_is_below_the_floor_though_its_interval_is_not():
  (one, _) = standings(
    _rows("natural", 1.5) + _rows("crisp", 1.498), seeds=SEEDS
  )
  assert one.to_natural.high < 0
  assert one.noise_floor > 0.002
  assert one.verdict == "no difference"


def test_trials_are_a_part_of_what_a_recipe_costs():
  natural = _curve("natural", 1.5, (1.0, 2.0, 4.0))
  half = {"search_flops": FLOPS / 2, "trial_flops": FLOPS / 2}
  crisp = [{**row, **half} for row in _rows("crisp", 1.4)]
  (one, _) = standings(natural + crisp, seeds=SEEDS)
  assert (one.search_share, one.trial_flops) == (1.0, FLOPS / 2)
  # Natural trained on for both is at twice the budget, where it has 1.4 too.
  assert one.at_equal_flops
  assert one.at_equal_flops.mean == pytest.approx(np.mean(OWN[:SEEDS]))
  beside = {row["recipe"]: row for row in comparison(natural + crisp)}
  assert beside["crisp"]["search_flops_share"] == 1.0


def test_seeds_that_share_a_search_are_counted():
  crisp = [{**row, "search_seed": 0} for row in _rows("crisp", 1.4)]
  found = standings(_rows("natural", 1.5) + crisp, seeds=SEEDS)
  assert {one.method: one.searches for one in found} == {
    "crisp": 1,
    "natural": SEEDS,
  }


def test_final_trainings_of_one_search_count_as_one_value():
  several = [0, 0, 1]
  crisp = [
    {**row, "search_seed": several[row["seed"]]} for row in _rows("crisp", 1.4)
  ]
  found = standings(_rows("natural", 1.5) + crisp, seeds=SEEDS)
  one = next(one for one in found if one.method == "crisp")
  difference_S = [-0.1 + OWN[s] for s in range(SEEDS)]
  by_search = np.array([np.mean(difference_S[:2]), difference_S[2]])
  expected = statistics.paired_difference(by_search, [0.0, 0.0])
  np.testing.assert_allclose(one.to_natural, expected)


def test_one_seed_gives_no_verdict():
  rows = _rows("natural", 1.5) + _rows("crisp", 1.4)
  alone = [row for row in rows if row["seed"] == 0]
  (crisp, _) = standings(alone, seeds=1)
  assert crisp.verdict == "one seed"
  assert math.isnan(crisp.noise_floor)
  assert crisp.to_natural.mean == pytest.approx(-0.1 + OWN[0])


def test_tokens_to_natural_are_read_off_the_fractions():
  # Losses are -0.1 per doubling: a lead of 0.05 is half a doubling.
  rows = _curve("natural", 1.5) + _curve("even", 1.45) + _curve("far", 1.3)
  rows += _curve("late", 1.6)
  found = {one.method: one for one in standings(rows, seeds=SEEDS)}
  assert found["natural"].reach == pytest.approx((1.0, False))
  assert found["even"].reach.budget == pytest.approx(0.5**0.5, rel=1e-3)
  assert found["far"].reach == (0.5, True)
  assert math.isnan(found["late"].reach.budget)


def test_equal_flops_compare_with_natural_trained_on():
  def search(rows, flops):
    return [{**row, "search_flops": flops * FLOPS} for row in rows]

  rows = _curve("natural", 1.5, (0.5, 1.0, 2.0, 4.0))
  rows += search(_curve("cheap", 1.4), 0.0)
  # Natural has 1.4 with twice the FLOPs.
  rows += search(_curve("dear", 1.4), 1.0)
  rows += search(_curve("dearer", 1.4), 2**1.5 - 1)
  rows += search(_curve("dearest", 1.4), 3.5)
  found = {one.method: one for one in standings(rows, seeds=SEEDS)}
  own = np.mean(OWN[:SEEDS])
  for name, mean in (("cheap", -0.1), ("dear", 0.0), ("dearer", 0.05)):
    equal = found[name].at_equal_flops
    assert equal is not None
    assert equal.mean == pytest.approx(mean + own)
    if name == "cheap":  # no search: both are trained on the same budget
      np.testing.assert_allclose(equal, found[name].to_natural)
  assert found["dearest"].at_equal_flops is None
  assert found["dearest"].search_share == pytest.approx(3.5)


def test_a_set_of_several_targets_has_their_mean_first():
  rows = [
    {**row, "target_set": "a+b", "target": target, "bpb": row["bpb"] + more}
    for method, bpb in (("natural", 1.5), ("crisp", 1.4))
    for target, more in (("a", 0.0), ("b", 0.2))
    for row in _rows(method, bpb)
  ]
  found = standings(rows, seeds=SEEDS)
  assert [one.target for one in found] == ["mean"] * 2 + ["a"] * 2 + ["b"] * 2
  assert found[0].bpb == pytest.approx((found[2].bpb + found[4].bpb) / 2)
  assert found[0].target_set == "a+b"


def _on_two_targets():
  return [
    {**row, "target_set": "a+b", "target": target, "bpb": row["bpb"] + more}
    for method, bpb in (("crisp", 1.4), ("natural", 1.5))
    for target, more in (("a", 0.0), ("b", 0.2))
    for row in _rows(method, bpb)
  ]


def test_comparison_json_has_every_recipe_beside_natural_and_the_mean_last():
  rows = [{**row, "search_flops": FLOPS / 4} for row in _on_two_targets()]
  # Other budgets are not in it.
  found = comparison([*rows, {**rows[3], "fraction": 0.5, "bpb": 9.0}])
  assert [(row["recipe"], row["target"]) for row in found] == [
    (recipe, target)
    for recipe in ("crisp", "natural")
    for target in ("a", "b", "mean")
  ]
  crisp, natural = found[2], found[5]
  bpb_S = [1.5 + NOISE[s] + OWN[s] for s in range(SEEDS)]
  assert crisp["bpb"] == pytest.approx(bpb_S)
  assert crisp["bpb_mean"] == pytest.approx(np.mean(bpb_S))
  assert natural["bpb_mean"] == pytest.approx(1.6 + np.mean(NOISE[:SEEDS]))
  own = statistics.paired_difference(OWN[:SEEDS], np.full(SEEDS, 0.1))
  assert (
    crisp["difference_to_natural"],
    crisp["ci_low"],
    crisp["ci_high"],
  ) == pytest.approx(own)
  assert natural["difference_to_natural"] == natural["ci_low"] == 0
  assert crisp["search_flops_share"] == 0.25
  assert crisp["train_tokens"] == 1000
  (alone, _) = comparison(
    [r for r in rows if r["seed"] == 0 and r["target"] == "a"]
  )
  assert alone["ci_low"] is alone["ci_high"] is None  # JSON has no NaN


def test_a_target_with_test_texts_alone_chooses_nothing():
  rows = [
    row
    for row in _on_two_targets()
    if (row["target"], row["split"]) != ("b", "validation")
  ]
  mean, _, a, _, b, _ = standings(rows, seeds=SEEDS)
  assert (b.target, b.best_other, b.best_verdict) == ("b", "", "")
  assert math.isnan(b.validation_bpb)
  assert b.to_natural == pytest.approx(a.to_natural)
  # The mean is chosen on the targets that have validation texts.
  assert mean.validation_bpb == pytest.approx(a.validation_bpb)
  assert mean.best_other == "natural"
  assert mean.bpb == pytest.approx((a.bpb + b.bpb) / 2)


def test_accuracy_is_that_of_compared_seeds_on_the_test_split():
  rows = [
    {**row, "target_set": "a+b", "target": target, "accuracy": accuracy}
    for target, shift in (("a", 0.0), ("b", 0.2), ("c", math.nan))
    for row in _rows("natural", 1.5)
    for accuracy in [row["seed"] / 10 + shift - (row["split"] != "test")]
  ]
  rows += [{**row, "seed": SEEDS, "accuracy": 9.0} for row in rows[-1:]]
  found = standings([r for r in rows if r["target"] != "c"], seeds=SEEDS)
  assert [one.accuracy for one in found] == pytest.approx([0.2, 0.1, 0.3])
  # The mean over targets is known only if all have one.
  (mean, *_, c) = standings(rows[:-1], seeds=SEEDS)
  assert math.isnan(c.accuracy)
  assert math.isnan(mean.accuracy)


def test_sets_keep_their_order_and_do_not_mix():
  rows = [
    {**row, "target_set": name, "target": name, "bpb": row["bpb"] + more}
    for name, more in (("z", 0.0), ("a", 1.0))
    for row in _rows("natural", 1.5)
  ]
  found = standings(rows, seeds=SEEDS)
  assert [one.target_set for one in found] == ["z", "a"]
  assert [round(one.bpb) for one in found] == [2, 3]
  assert all(one.best_other == "" for one in found)


def _rows(method, test, validation=None):
  """Full trainings of all seeds, scored on both splits."""
  own = method != "natural"
  return [
    {
      **_row(method, seed, 1.0, bpb + NOISE[seed] + own * OWN[seed]),
      "split": split,
    }
    for seed in range(SEEDS)
    for split, bpb in (
      ("validation", test if validation is None else validation),
      ("test", test),
    )
  ]


def _curve(method, bpb, fractions=(0.5, 1.0)):
  """Trainings at several budgets, 0.1 bits better per doubling."""
  return [
    {
      **row,
      "fraction": fraction,
      "final_flops": fraction * FLOPS,
      "bpb": row["bpb"] - 0.1 * math.log2(fraction),
    }
    for fraction in fractions
    for row in _rows(method, bpb)
  ]


def _row(method, seed, fraction, bpb):
  return {
    "method": method,
    "target_set": "news",
    "target": "news",
    "split": "test",
    "seed": seed,
    "fraction": fraction,
    "tokens": 1000,
    "bpb": bpb,
    "accuracy": 0.25,
    "search_tokens": 0.0,
    "search_flops": 0.0,
    "search_seed": seed,
    "trial_tokens": 0.0,
    "trial_flops": 0.0,
    "final_flops": FLOPS,
    "effective_sample_size": 0.5,
    "kept_share": 0.0,
  }
