"""What a notebook shows of a recipe and of a job's results: HTML without a script."""

from collections.abc import Mapping
from typing import Any

from cmtree_jax import budget
from cmtree_jax.report import tables
from cmtree_jax.report.describe import Node
from cmtree_jax.report.html import asked, page, scale, standings, tree
from cmtree_jax.report.html.nodes import Look
from cmtree_jax.report.html.results import Results


def of_recipe(told: Mapping[str, Any]) -> str:
  """What was made, for which budget and targets, and the nodes or documents of it.

  Args:
    told: recipe.json.
  """
  targets = ", ".join(told["targets"]) or "no target"
  lines = [budget.from_json(told["budget"]).text()]
  if guard := told.get("guard"):
    lines.append(guard["why"])
  nodes = [Node(**one) for one in told["nodes"]]
  body = favored(told)
  if nodes:
    body = tree.listed([Look(one) for one in nodes], "recipe")
  return page.fragment(
    page.paragraph(f"A recipe of {told['method']} for {targets}", "lead")
    + "".join(map(page.paragraph, lines))
    + body
  )


def of_results(found: Results) -> str:
  """The same three sentences and tables that head the report."""
  lines = "".join(map(page.paragraph, asked.sentences(found)))
  return page.fragment(
    lines
    + asked.cards(found)
    + "".join(standings.tabled(tables.blocks(found.standings)))
  )


def favored(told: Mapping[str, Any]) -> str:
  """What weights of single documents prefer; "" where there are none.

  Args:
    told: recipe.json.
  """
  found = told.get("favored")
  if not found:
    return ""
  line = (
    "Every document has a weight of its own; there are no leaves. Documents above "
    f"weight 1 hold {found['mass']:.1%} of the corpus and {found['mixture']:.1%} of "
    f"the training. Words of theirs: {', '.join(found['terms'])}."
  )
  heaviest = [
    page.document(
      f"{one['id']} · weight {scale.weight(one['weight'])}", one["text"]
    )
    for one in found["heaviest"]
  ]
  return page.paragraph(line) + "<h3>The heaviest</h3>" + "".join(heaviest)
