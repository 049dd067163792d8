"""What a person reads at the end: the tree, the tables and what to do."""

import io
import re

import pytest
from rich.console import Console

from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.report import tables
from cmtree_jax.report.describe import Node
from tests.report.standings import standing


def _nodes(children: int, depth: int) -> list[Node]:
  """A tree whose later children have more of the mixture."""
  total = children * (children + 1) / 2
  found = [("", 1.0)]
  for level in range(depth):
    found += [
      (f"{path}.{n}".lstrip("."), mixture * (n + 1) / total)
      for path, mixture in found
      if len(re.findall(r"\d+", path)) == level
      for n in range(children)
    ]
  return [
    Node(
      path=path,
      name=path,
      mass=children ** -len(re.findall(r"\d+", path)),
      mixture=mixture,
      weight=1.0,
      terms=("term",),
      typical_id="id",
      typical="a document",
    )
    for path, mixture in found
  ]


def _printed(nodes) -> str:
  console = Console(file=io.StringIO(), width=200)
  console.print(tables.tree(nodes))
  return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_small_tree_is_shown_whole():
  shown = _printed(_nodes(4, 2))
  assert shown.count("a document") == 20 and "smaller" not in shown


def test_of_a_large_tree_the_largest_children_are_shown_and_the_others_summed():
  shown = _printed(_nodes(16, 2))
  assert shown.count("a document") == 6 + 36
  assert re.search(r"\b15\b  mass", shown) and "15.15  mass" in shown
  assert not re.search(r"\b9  mass", shown)
  rest = sum(range(1, 11)) / sum(range(1, 17))
  assert f"10 smaller ones: mass 62.5%  mixture {rest:.1%}" in shown
  assert shown.count("10 smaller ones") == 7


@pytest.mark.parametrize(
  ("verdict", "advised"),
  [("better", False), ("worse", True), ("no difference", False)],
)
def test_natural_is_advised_where_the_recipe_is_worse(verdict, advised):
  said = tables.advice(standing(verdict))
  assert "crisp − natural, news: -0.1000 ±0.2000" in said
  assert verdict in said
  assert ("train on the natural mixture" in said) == advised
  # The guard may have handed it over for what the validation split says.
  assert ("may serve as well" in said) == (verdict == "no difference")


@pytest.mark.parametrize(
  ("low", "reason"), [(-0.3, "zero in it"), (-0.12, "differ by 0.2000")]
)
def test_why_there_is_no_difference_is_told(low, reason):
  found = Interval(-0.1, low, -0.2 - low)
  one = standing("no difference", to_natural=found, noise_floor=0.2)
  assert reason in tables.advice(one)


def test_readings_off_curves_are_shown_where_there_are_curves():
  for budgets, shown in ((1, False), (2, True)):
    text = tables.markdown([standing("better", num_budgets=budgets)])
    assert ("at equal FLOPs |" in text) == shown
    assert ("To natural: the share" in text) == shown
    (heading, rule, row) = [x for x in text.splitlines() if x.startswith("|")]
    assert heading.count("|") == rule.count("|") == row.count("|")


def test_the_legend_says_what_noise_the_intervals_hold():
  for searches, seeds, words in (
    (2, 2, "noise of both"),
    (1, 2, "All 2 final trainings stand on one search"),
    (
      2,
      6,
      "Intervals are over 2 searches, each the mean of its final trainings",
    ),
  ):
    one = standing("better", searches=searches)._replace(seeds=seeds)
    assert words in tables.legend([one])


def test_a_share_that_trials_chose_and_their_cost_are_shown():
  chosen = standing("better", kept_share=0.35, trial_flops=2e9)
  for one, words in (
    (chosen, ["0.35", "2.0e9"]),
    (standing("better"), ["own"]),
    (chosen._replace(method="natural"), [" |  | "]),
  ):
    row = tables.markdown([one]).splitlines()[4]
    for word in words:
      assert word in row
    assert ("own" in row) == (one.kept_share == 0)


def test_a_recipes_tokens_are_told_by_target_and_by_source():
  def shares(*rows):
    return [dict(name=n, natural=a, recipe=b, tokens=0) for n, a, b in rows]

  near, sources = tables.token_lines(
    {
      "nearest_target": shares(("code", 0.5, 0.031), ("news", 0.5, 0.969)),
      "source": shares(
        *(("a", 0.2, 0.3), ("b", 0.4, 0.1), ("c", 0.2, 0.4), ("", 0.1, 0.1)),
        ("d", 0.1, 0.1),
      ),
    }
  )
  assert "code 3.1% (50.0%), news 96.9% (50.0%)" in near
  # Whose share is less or as before is not among them.
  assert sources == ("More than natural has: c 40.0% (20.0%), a 30.0% (20.0%).")
  same = shares(("a", 0.5, 0.5), ("b", 0.5, 0.5))
  assert len(tables.token_lines({"nearest_target": [], "source": same})) == 1


def test_a_kept_share_is_told_with_what_it_would_be_at_the_budget():
  found = dict(
    share=0.2,
    compute=1e12,
    budget_compute=1.6e13,
    share_at_budget=0.4,
    slope=0.25,
  )
  told = tables.concentration_line(found)
  assert "keeps 20% of the corpus" in told
  assert "power of 0.25 it would be 40% at the 1.6e13 FLOPs" in told
  told = tables.concentration_line({**found, "share": 1.0})
  assert told == "The recipe keeps 100% of the corpus in effect."
