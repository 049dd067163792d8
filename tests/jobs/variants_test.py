"""Variants in a comparison: their settings, and what they may not set."""

import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs import cells, variants
from cmtree_jax.types import UserError


def _config(*overrides: str, **chosen):
  config = load("configs/compare.py", overrides)
  with config.unlocked():
    config.compare.variants.update(chosen)
  return config


def test_a_variant_is_its_method_under_its_overrides():
  config = _config(broad=("crisp", "crisp.smoothing=0.5"))
  own = variants.config_of("broad", config)
  assert (own.method, own.crisp.smoothing) == ("crisp", 0.5)
  assert config.crisp.smoothing != 0.5
  assert variants.config_of("crisp", config).crisp == config.crisp


@pytest.mark.parametrize(
  ("chosen", "words"),
  [
    (("crips",), ["'crips'", "Known", "crisp", "mine"]),
    (("crisp", "final.steps=3"), ["'mine'", "'final.steps=3'", "equal"]),
    (("crisp", "doremi.step_size=2"), ["'doremi.step_size=2'", "own"]),
    (("crisp", "crisp.smothing=2"), ["'crisp.smothing'", "crisp.smoothing"]),
    (("crisp", "crisp.smoothing"), ["crisp.smoothing", "VALUE"]),
  ],
)
def test_what_a_variant_may_not_be(chosen, words):
  words = [word for word in words if word != "own"]
  with pytest.raises(UserError) as error:
    variants.config_of("mine", _config(mine=chosen))
  for word in words:
    assert word in str(error.value)


def test_a_place_is_searched_on_one_target_and_tested_on_another():
  place = cells.Place.of("a>b")
  assert place.scored == {
    "validation": ("a", "validation"),
    "test": ("b", "test"),
  }
  assert cells.Place.of("a").scored["test"] == ("a", "test")


def test_more_sizes_and_concentrations_are_cells_of_the_full_budget():
  plan = cells.Plan(
    methods=("natural", "crisp"),
    target_sets={"a": (cells.Place.of("a"),)},
    untargeted=frozenset({"natural"}),
    seeds=1,
    search_seeds=1,
    fractions=(0.5, 1.0),
    natural_multiples=(),
    noise_repeats=0,
    presets=("4m",),
    shares=(0.3,),
  )
  assert [cell.name for cell in plan.finals()] == [
    "natural.any.0.x0.5",
    "natural.any.0.x1",
    "natural.any.0.x1.4m",
    "crisp.a.0.x0.5",
    "crisp.a.0.x1",
    "crisp.a.0.x1.4m",
    "crisp.a.0.x1.ess0.3",
  ]
  assert plan.finals()[-1].method == "crisp@0.3"


def test_a_training_keeps_what_it_was_scored_on_before(tmp_path):
  folder = cells.Folder(tmp_path).make()
  cell = cells.Final(cells.Search("natural", cells.ANY, 0), 0)
  a, b = map(cells.Place.of, "ab")
  for place, bpb in ((a, 1.0), (b, 2.0)):
    scores = {place.name: {"test": bpb}}
    folder.save_scored(cell, {"bpb": scores, "accuracy": scores, "tokens": 7})
  assert folder.scored(cell, (a, b)) == {
    "bpb": {"a": {"test": 1.0}, "b": {"test": 2.0}},
    "accuracy": {"a": {"test": 1.0}, "b": {"test": 2.0}},
    "tokens": 7,
  }
  assert folder.scored(cell, (cells.Place.of("c"),)) is None
