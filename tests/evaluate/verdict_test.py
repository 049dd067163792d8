"""The guard's verdict on made-up trials whose answer is known."""

import numpy as np
import pytest

from cmtree_jax.evaluate import verdict
from cmtree_jax.evaluate.statistics import paired_difference, pooled_floor

TARGETS = ("code", "news")
EQUAL = np.full(2, 0.5)
RNG = np.random.default_rng(0)
SEED_S = RNG.normal(size=(3, 1))  # shared by all: cancels in differences
NAMES = ("natural", "cmtree", "cmtree start", "crisp_16", "crisp_64")
# Of each candidate alone; its mean over seeds is zero, so differences are exact.
OWN = {
  name: 0.003 * (x := RNG.normal(size=(3, 2))) - 0.003 * x.mean(0)
  for name in NAMES
}
LEVEL = np.array([1.0, 4.0])  # of the two targets


def _bpb(**change):
  """Differences to natural by target; those not named are natural's equals."""
  return {
    name: LEVEL
    + SEED_S
    + OWN[name]
    + np.array(change.get(name.replace(" ", "_"), (0.0, 0.0)))
    for name in NAMES
  }


def _judge(weight_T=EQUAL, rivals=("crisp_16", "crisp_64"), **change):
  return verdict.judge(
    _bpb(**change), TARGETS, weight_T, method="cmtree", rivals=rivals
  )


@pytest.mark.parametrize(
  ("change", "winner", "words"),
  [
    # Nothing is better than natural.
    ({}, "natural", ["cmtree is not better than natural", "neither"]),
    # The method alone.
    ({"cmtree": (-0.1, -0.1)}, "cmtree", ["not worse than crisp"]),
    # A tie with the best rival goes to the method.
    (
      {"cmtree": (-0.1, -0.1), "crisp_16": (-0.101, -0.101)},
      "cmtree",
      ["worse than crisp_16 by 0.0010, within that floor"],
    ),
    # A rival beyond the noise.
    (
      {"cmtree": (-0.1, -0.1), "crisp_64": (-0.2, -0.2)},
      "crisp_64",
      ["cmtree is worse than crisp_64 by 0.1000"],
    ),
    # A better mean, and one target that a rival does not sacrifice.
    (
      {"cmtree": (0.1, -0.5), "crisp_16": (-0.05, -0.05)},
      "crisp_16",
      ["does worst on code, +0.1000", "noise floor of"],
    ),
    # Where the rival sacrifices as much, the method stays.
    (
      {"cmtree": (0.1, -0.5), "crisp_16": (-0.4, 0.1)},
      "cmtree",
      ["beyond the noise floor"],
    ),
    # The method is no better than natural, and a rival is.
    (
      {"cmtree": (0.2, 0.2), "crisp_16": (-0.1, -0.1)},
      "crisp_16",
      ["not better than natural", "crisp_16, the best free rival, is better"],
    ),
    # What is no free rival is not handed over.
    ({"cmtree_start": (-0.5, -0.5)}, "natural", ["not better than natural"]),
  ],
)
def test_who_is_handed_over(change, winner, words):
  found = _judge(**change)
  assert found.winner == winner
  for word in words:
    assert word in found.why


def test_without_rivals_natural_is_the_only_one_to_beat():
  assert _judge(rivals=(), cmtree=(-0.1, -0.1)).winner == "cmtree"
  assert _judge(rivals=()).winner == "natural"


def test_the_mean_is_weighted():
  change = {"cmtree": (0.1, -0.2), "crisp_16": (0.1, -0.2)}
  assert _judge(**change).winner == "cmtree"
  assert _judge(np.array([0.9, 0.1]), **change).winner == "natural"
  (row,) = [
    one for name, one in _judge(**change).rows.items() if name == "cmtree"
  ]
  assert row.difference == pytest.approx(-0.05, abs=0.01)
  assert (row.worst_target, row.worst_difference) == (
    "code",
    pytest.approx(0.1, abs=0.01),
  )


def test_rows_are_ordered_and_beside_natural():
  found = _judge(cmtree=(-0.1, -0.1), crisp_16=(-0.2, -0.2))
  names = list(found.rows)
  assert names[:2] == ["crisp_16", "cmtree"]
  assert found.rows["natural"].difference == 0
  one, bpb = found.rows["cmtree"], _bpb(cmtree=(-0.1, -0.1))
  assert one.difference == pytest.approx(
    float((bpb["cmtree"] - bpb["natural"]).mean())
  )


def test_the_floor_of_two_candidates_is_half_of_a_paired_interval():
  a_S, b_S = RNG.normal(size=(2, 5))
  interval = paired_difference(a_S, b_S)
  floor = pooled_floor(np.stack([a_S, b_S]))
  assert floor == pytest.approx(interval.high - interval.mean)


def test_the_floor_covers_chance_differences_as_often_as_it_says():
  # All candidates are equal, so every difference is one of chance; seeds shift all.
  rng = np.random.default_rng(1)
  beyond = []
  for _ in range(2000):
    bpb_CS = rng.normal(size=(6, 3)) + 5 * rng.normal(size=(1, 3))
    mean_C = bpb_CS.mean(axis=1)
    beyond.append(abs(mean_C[0] - mean_C[1]) > pooled_floor(bpb_CS))
  assert np.mean(beyond) == pytest.approx(0.05, abs=0.015)


def test_one_seed_has_no_floor_and_natural_wins():
  bpb = {name: one[:1] for name, one in _bpb(cmtree=(-1.0, -1.0)).items()}
  found = verdict.judge(bpb, TARGETS, EQUAL, method="cmtree", rivals=())
  assert np.isnan(found.noise_floor) and found.winner == "natural"
