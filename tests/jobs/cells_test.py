"""Cells: which a plan has, and what their files keep."""

import random

import numpy as np
import pytest

from cmtree_jax.jobs import cells
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.types import UserError

FOUND = cells.Found(Cost(3.0, 5.0), [{"gain": 0.25}], ["crisp"], {"": None})


def test_a_search_is_kept_with_its_measured_values(tmp_path):
  folder = cells.Folder(tmp_path).make()
  log_w_N = np.array([0.1, -2.0], np.float32).astype(np.float64)
  value_N = np.array([np.nan, 0.1])
  cell = cells.Search("crisp", "a", 0)
  assert folder.found(cell) is None
  folder.work(cell).mkdir()
  folder.save_found(cell, FOUND, {"": log_w_N}, value_N)
  assert folder.found(cell) == FOUND
  assert not folder.work(cell).exists()
  np.testing.assert_array_equal(folder.log_w_N(cell), log_w_N)
  np.testing.assert_array_equal(folder.value_N(cell), value_N)
  # Where nothing was measured, nothing is stored.
  folder.save_found(cell, FOUND, {"": log_w_N}, np.full(2, np.nan))
  np.testing.assert_array_equal(folder.value_N(cell), [np.nan, np.nan])
  with np.load(tmp_path / "search" / "crisp.a.0.npz") as arrays:
    assert arrays.files == ["log_w_N"]


@pytest.mark.parametrize(
  "target_set",
  [
    "+".join(f"target_{i}" for i in range(24)),
    "問題" * 40,  # three bytes each
    "exam[v2]",
    "*?{}",
  ],
)
def test_every_set_of_targets_has_files(tmp_path, target_set):
  """Names that file systems take, and no pattern that libraries would read."""
  folder = cells.Folder(tmp_path).make()
  others = ("crisp", f"{target_set}_", 0), ("crisp", target_set.upper(), 1)
  places = []
  for name in (("crisp", target_set, 0), *others):
    cell = cells.Search(*name)
    folder.work(cell).mkdir()
    folder.save_found(cell, FOUND, {"": np.zeros(1)}, np.zeros(1))
    assert folder.found(cell) == FOUND
    places.append(folder.kept(cell).name)
  assert len(set(places)) == 3
  assert not set("".join(places)) & set("*?[]{}")


def test_a_cell_that_was_damaged_is_named_with_what_to_do(tmp_path):
  folder = cells.Folder(tmp_path).make()
  search = cells.Search("crisp", "a", 0)
  final = cells.Final(search, 0)
  folder.save_found(search, FOUND, {"": np.zeros(3)}, np.arange(3.0))
  folder.save_scored(final, {"bpb": {"a": 1.0}})
  rng = random.Random(0)
  for name in ("search/crisp.a.0.npz", "search/crisp.a.0.json",
               "final/crisp.a.0.x1.json"):  # fmt: skip
    path, refused = tmp_path / name, 0
    before = path.read_bytes()
    for _ in range(60):
      at, bit = rng.randrange(len(before)), rng.randrange(8)
      damaged = before[:at] + bytes([before[at] ^ 1 << bit]) + before[at + 1 :]
      path.write_bytes(damaged)
      try:
        assert folder.found(search) == FOUND
        scored = folder.scored(final, "a")
        assert scored and scored["bpb"] == {"a": 1.0}
      except UserError as error:
        assert str(path) in str(error) and ".json, and what it" in str(error)
        refused += 1
    assert refused > 50
    path.write_bytes(before)
  (tmp_path / "search/crisp.a.0.npz").unlink()
  with pytest.raises(UserError, match=r"npz: wanted a file.*Delete crisp"):
    folder.found(search)


def test_a_search_keeps_what_it_had_on_its_way(tmp_path):
  folder = cells.Folder(tmp_path).make()
  cell = cells.Search("cmtree", "a", 0)
  log_w = {"start": np.array([0.5, -1.0]), "": np.array([0.1, -2.0])}
  found = FOUND._replace(partitions={"start": {"kind": "tree"}, "": None})
  folder.save_found(cell, found, log_w, np.zeros(2))
  for name, log_w_N in log_w.items():
    np.testing.assert_array_equal(
      folder.log_w_N(cell, name), log_w_N.astype(np.float32)
    )
  loaded = folder.found(cell)
  assert loaded and loaded == found
  assert list(loaded.partitions) == ["start", ""]  # as the search went


def test_a_set_of_many_targets_has_files_of_a_possible_name(tmp_path):
  folder = cells.Folder(tmp_path).make()
  names = ["+".join(f"target_{i}" for i in range(n)) for n in (50, 51)]
  searches = [
    cells.Search("crisp", name, seed) for name in names for seed in (0, 1)
  ]
  for number, cell in enumerate(searches):
    log_w = {"": np.full(1, float(number))}
    folder.save_found(cell, FOUND, log_w, np.zeros(1))
  for number, cell in enumerate(searches):
    assert folder.log_w_N(cell) == number


def test_a_plan_has_every_cell_once_with_seeds_outermost():
  a, b = map(cells.Place.of, "ab")
  plan = cells.Plan(
    methods=("natural", "crisp"),
    target_sets={"a": (a,), "a+b": (a, b)},
    untargeted=frozenset({"natural"}),
    seeds=3,
    search_seeds=2,
    fractions=(0.5, 1.0),
    natural_multiples=(2.0,),
    noise_repeats=2,
  )
  finals = plan.finals({})
  assert len(set(finals)) == len(finals) == 3 * (3 + 2 * 2) + 2
  assert [cell.seed for cell in finals] == sorted(c.seed for c in finals)
  assert [cell.name for cell in finals[:5]] == [
    "natural.any.0.x0.5",
    "natural.any.0.x1",
    "natural.any.0.x2",
    "crisp.a.0.x0.5",
    "crisp.a.0.x1",
  ]
  assert {c.name: c.search.seed for c in finals if c.seed == 2} == {
    name: 0 for name in [c.name for c in finals if c.seed == 2]
  }
  assert plan.searches() == [
    cells.Search(method, target_set, seed)
    for seed in (0, 1)
    for method, target_set in (
      ("natural", "any"),
      ("crisp", "a"),
      ("crisp", "a+b"),
    )
  ]
  assert plan.places == (a, b)


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
  assert [cell.name for cell in plan.finals({})] == [
    "natural.any.0.x0.5",
    "natural.any.0.x1",
    "natural.any.0.x1.4m",
    "crisp.a.0.x0.5",
    "crisp.a.0.x1",
    "crisp.a.0.x1.4m",
    "crisp.a.0.x1.ess0.3",
  ]
  names = [name for name, _ in plan.entries({})]
  assert names == ["natural"] * 3 + ["crisp"] * 3 + ["crisp@0.3"]


def test_the_version_that_was_chosen_is_trained_at_all_budgets():
  plan = cells.Plan(
    methods=("natural", "crisp", "doremi"),
    target_sets={"a": (cells.Place.of("a"),), "b": (cells.Place.of("b"),)},
    untargeted=frozenset({"natural", "doremi"}),
    seeds=1,
    search_seeds=1,
    fractions=(0.5, 1.0),
    natural_multiples=(),
    noise_repeats=0,
    presets=("4m",),
    shares=(0.3,),
  )
  chosen = cells.Version("start", 0.5)
  kept = {("crisp", "b"): chosen, ("doremi", "any"): cells.Version(share=0.7)}
  names = {cell.name for name, cell in plan.entries(kept) if name != "natural"}
  assert names == {
    *("crisp.a.0.x0.5", "crisp.a.0.x1", "crisp.a.0.x1.4m"),
    "crisp.a.0.x1.ess0.3",
    *("crisp.b.0.x0.5.start.ess0.5", "crisp.b.0.x1.start.ess0.5"),
    "crisp.b.0.x1.4m.start.ess0.5",
    "crisp.b.0.x1.start.ess0.3",
    *("doremi.any.0.x0.5.ess0.7", "doremi.any.0.x1.ess0.7"),
    "doremi.any.0.x1.4m.ess0.7",
  }
  # A share that is chosen and asked for besides is trained once, and stands twice.
  both = {("crisp", "b"): cells.Version(share=0.3)}
  cell = cells.Final(
    cells.Search("crisp", "b", 0), 0, version=cells.Version(share=0.3)
  )
  entries = [name for name, one in plan.entries(both) if one == cell]
  assert entries == ["crisp", "crisp@0.3"]
  assert plan.finals(both).count(cell) == 1


def test_a_trial_tries_the_search_of_its_seed():
  plan = cells.Plan(
    methods=("natural", "crisp"),
    target_sets={"a": (cells.Place.of("a"),)},
    untargeted=frozenset({"natural"}),
    seeds=2,
    search_seeds=2,
    fractions=(1.0,),
    natural_multiples=(),
    noise_repeats=0,
  )
  version = cells.Version("round_1", 0.25)
  trials = plan.trials("crisp", "a", version, seeds=3)
  assert [(one.search.seed, one.seed) for one in trials] == [
    (0, 0),
    (1, 1),
    (0, 2),
  ]
  assert trials[1].name == "crisp.a.1.round_1.ess0.25.t1"
  assert {one.search for one in trials} <= set(plan.searches())


def test_a_training_keeps_what_it_was_scored_on_before(tmp_path):
  folder = cells.Folder(tmp_path).make()
  cell = cells.Final(cells.Search("natural", cells.ANY, 0), 0)
  a, b = map(cells.Place.of, "ab")
  for place, bpb in ((a, 1.0), (b, 2.0)):
    scores = {place.name: {"test": bpb}}
    facts = {"bpb": scores, "accuracy": scores, "tokens": 7}
    folder.save_scored(cell, {**facts, cells.QUESTIONS: scores})
  assert folder.scored(cell, "ab") == {
    "bpb": {"a": {"test": 1.0}, "b": {"test": 2.0}},
    "accuracy": {"a": {"test": 1.0}, "b": {"test": 2.0}},
    cells.QUESTIONS: {"a": {"test": 1.0}, "b": {"test": 2.0}},
    "tokens": 7,
  }
  assert folder.scored(cell, "c") is None
