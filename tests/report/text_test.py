"""The tree as a person sees it: the largest children, and the sum of the others."""

import io
import re

from rich.console import Console

from cmtree_jax.report import text
from cmtree_jax.report.describe import Node


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
  console.print(text.tree(nodes))
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
