"""What is told of a selection: verdicts, groups, examples; nothing of a text is HTML."""

import numpy as np
import pytest

from cmtree_jax.methods import reasons
from cmtree_jax.report import selection
from cmtree_jax.report.html import selection as pages
from cmtree_jax.report.selection import BACK, KEPT, OUT, Example, Selection

WEIGHT_N = np.array([2.0, 2.0, 1e-6, 0.5, 4e-6, 1.0])
TOKENS_N = np.array([10, 20, 30, 40, 50, 60])
SOURCE_N = np.array([0, 1, 1, 0, 2, 2])
SOURCES = ("a", "b", "c")


def test_groups_add_up_to_the_corpus():
  np.testing.assert_array_equal(
    selection.verdicts(WEIGHT_N), [KEPT, KEPT, OUT, BACK, OUT, KEPT]
  )
  found = selection.groups(SOURCE_N, (*SOURCES, "empty"), WEIGHT_N, TOKENS_N)
  assert [one.name for one in found] == ["a", "b", "c"]
  assert [one.documents for one in found] == [(1, 1, 0), (1, 0, 1), (1, 0, 1)]
  assert [one.tokens for one in found] == [
    (10, 40, 0),
    (20, 0, 30),
    (60, 0, 50),
  ]
  flow = WEIGHT_N @ TOKENS_N
  assert [one.recipe for one in found] == pytest.approx(
    [40 / flow, 40 / flow, 60 / flow], rel=1e-4
  )
  (every,) = selection.groups(np.zeros(6, int), ("all",), WEIGHT_N, TOKENS_N)
  assert every.documents == (3, 1, 2) and every.recipe == 1


def test_what_one_look_at_each_kept_document_takes():
  once = selection.once
  assert once(np.array([1.25, 1.25, 1e-6]), np.array([4, 4, 2])) == 8
  ones = np.ones(3, int)
  assert once(np.array([1.2, 1.5, 1e-6]), ones) is None  # not all alike
  assert (
    once(np.array([1.2, 1.2, 0.6]), ones) is None
  )  # the third is trained on
  assert once(np.ones(3), ones) is None  # natural


def test_what_fills_a_budget_is_told_from_what_is_wanted():
  def epochs(weight_N):
    tokens_N = np.array([1, 1, 8])
    return selection.epochs(weight_N, tokens_N, max_epochs=4.0, cap=4.0)

  # A fifth of the corpus four times is four fifths of an epoch.
  assert epochs(np.array([4.0, 4.0, 0.25])) == pytest.approx(0.8)
  assert epochs(np.array([3.0, 3.0, 0.5])) is None
  assert epochs(np.array([4.0, 1.5, 0.5])) is None
  assert epochs(np.array([4.0, 4.0, 1e-6])) is None


def test_examples_are_of_many_groups_in_no_order_of_documents():
  rng = np.random.default_rng(0)
  verdict_N = np.full(60, OUT)
  group_N = np.repeat([0, 1, 2], [56, 2, 2])
  key_N = rng.integers(2**63, size=60, dtype=np.uint64)
  chosen = selection.some(OUT, verdict_N, group_N, key_N)
  assert len(chosen) == len(set(chosen.tolist())) == 16
  assert set(group_N[chosen[:3]]) == {0, 1, 2}
  assert {56, 57, 58, 59} <= set(chosen.tolist())
  order = rng.permutation(60)
  again = selection.some(OUT, verdict_N, group_N[order], key_N[order])
  np.testing.assert_array_equal(order[again], chosen)
  assert len(selection.some(KEPT, verdict_N, group_N, key_N)) == 0


def test_reasons_are_counted_without_their_numbers():
  told = reasons.Reasons(
    ("like {other}", "far, {x:.2f}"), np.array([0, 1, 1, -1, 1, 0], np.int8)
  )
  changed_N = selection.verdicts(WEIGHT_N) != KEPT
  assert selection.because(told, changed_N) == {"far, …": 2}
  assert selection.because(None, changed_N) == {}


@pytest.fixture
def found() -> Selection:
  group = selection.groups(SOURCE_N, ("<a>", "b", "c"), WEIGHT_N, TOKENS_N)
  (every,) = selection.groups(np.zeros(6, int), ("all",), WEIGHT_N, TOKENS_N)
  bad = "<script>alert('x')</script> & [bold]"
  example = Example(OUT, f"id {bad}", bad, 1e-6, f"like {bad}", bad, bad, bad)
  return Selection(every, {"source": group}, {bad: 2}, [example], 90, None)


def test_nothing_of_a_document_is_markup(found, capsys):
  page = pages.build(found, "A <b>title</b>", ["A <fact>"])
  assert "<script>alert" not in page and "<fact>" not in page
  assert page.count("&lt;script&gt;alert(&#x27;x&#x27;)") >= 5
  assert "&lt;a&gt;</th>" in page and "&lt;b&gt;title" in page
  assert page.count("<tr>") == page.count("</tr>") == 2 + 4
  assert "://" not in page and len(page) < 50_000  # no figure, so no plotly
  selection.show(found)
  shown = capsys.readouterr().out
  assert "[bold]" in shown  # is no markup of the terminal, either
  assert "--config.export.tokens=90" in shown
  assert "Kept whole" not in shown  # every source lost something


def test_groups_that_lose_nothing_are_counted(capsys):
  weight_N = np.array([1.5, 1.5, 1e-6, 1.5, 1.5, 1.5])
  groups = selection.groups(SOURCE_N, SOURCES, weight_N, TOKENS_N)
  every = selection.groups(np.zeros(6, int), ("all",), weight_N, TOKENS_N)
  selection.show(Selection(every[0], {"source": groups}, {}, [], None, None))
  shown = capsys.readouterr().out
  assert "By source" in shown and "Kept whole: 2 more." in shown


def test_the_summary_can_be_written(found):
  made = found.to_json()
  assert made["all"]["tokens"] == {"kept": 90, "held back": 40, "left out": 80}
  assert [one["name"] for one in made["source"]] == ["<a>", "b", "c"]
