r"""What documents were found to be worth, by leaf, and what every split makes of that.

The value of a document is the fall of the targets' loss, to first order, for a little
more of it, less the mean of the corpus as it was trained on. A mixture p of leaves with
corpus shares q and mean values v is worth to first order

.. math:: \sum_L (p_L - q_L)\, v_L = \sum_n \sum_{c \in n} (p_c - p_n q_c / q_n)\, v_c

over inner nodes n and their children c: the sum over c is what the split of n bought.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cmtree_jax.report import tables
from cmtree_jax.report.describe import ROOT
from cmtree_jax.report.html import escape, page, scale
from cmtree_jax.report.html.nodes import Look
from cmtree_jax.report.html.results import Results

_LEAVES = 40  # that the figure shows, the largest of the training


class Split(NamedTuple):
  """What the split of one node bought."""

  path: str
  children: int
  spread: float  # between the children's mean values, highest less lowest
  gain: float  # to first order, nats per token of an unroll


def splits(found: Sequence[Look]) -> list[Split]:
  """Of every inner node whose children were all valued, in their order."""
  by_path = {one.node.path: one for one in found}
  below: dict[str, list[Look]] = {}
  for one in found:
    if one.node.path:
      below.setdefault(one.node.path.rpartition(".")[0], []).append(one)
  made = []
  for path, children in below.items():
    if len(children) < 2 or not all(one.sums.valued for one in children):
      continue
    node = by_path[path].node
    values = [one.sums.mean_value for one in children]
    gain = sum(
      (one.node.mixture - node.mixture * one.node.mass / node.mass) * value
      for one, value in zip(children, values, strict=True)
    )
    made.append(Split(path, len(children), max(values) - min(values), gain))
  return made


def leaves(found: Sequence[Look]) -> list[Look]:
  """The leaves that were valued."""
  inner = {one.node.path.rpartition(".")[0] for one in found if one.node.path}
  return [
    one
    for one in found
    if one.sums.valued and (one.node.path not in inner or len(found) == 1)
  ]


def figure(found: Sequence[Look]) -> dict[str, Any]:
  """Mean value of every leaf with its standard error; the weight is its shape."""
  shown = sorted(leaves(found), key=lambda one: -one.node.mixture)[:_LEAVES]
  shown.sort(key=lambda one: one.sums.mean_value)
  names = [_name(one) for one in shown]
  return {
    "data": [
      {
        "type": "scatter",
        "mode": "markers",
        "x": [one.sums.mean_value for one in shown],
        "y": names,
        "error_x": {
          "type": "data",
          "array": [1.96 * one.sums.error for one in shown],
          "color": "--soft",
          "thickness": 1.2,
          "width": 3,
        },
        "text": [_told(one) for one in shown],
        "hoverinfo": "text",
        "marker": {
          "size": 11,
          "symbol": [_symbol(one.node.weight) for one in shown],
          "color": [scale.log2(one.node.weight) for one in shown],
          **scale.SCALE,
          "showscale": False,
          "line": {"color": "--text", "width": 1},
        },
      }
    ],
    "layout": {
      "xaxis": {
        "title": {"text": "mean value of its documents"},
        "zeroline": True,
      },
      "yaxis": {"automargin": True, "ticklabelstandoff": 4},
      "margin": {"l": 8, "r": 8, "t": 8, "b": 48},
    },
  }


def height(found: Sequence[Look]) -> int:
  """Pixels of that figure."""
  return 90 + 24 * min(len(leaves(found)), _LEAVES)


def _name(one: Look) -> str:
  return escape.name(f"{one.node.path or ROOT} {' '.join(one.node.terms[:1])}")


def _symbol(weight: float) -> str:
  if weight > 1.02:
    return "triangle-up"
  return "triangle-down" if weight < 0.98 else "circle"


def _told(one: Look) -> str:
  node, sums = one.node, one.sums
  lines = [
    f"{node.path or ROOT}: {', '.join(node.terms)}",
    f"value {sums.mean_value:+.4f} ±{1.96 * sums.error:.4f}",
    f"of {sums.valued:,} documents; weight {scale.weight(node.weight)}",
  ]
  return "<br>".join(map(escape.label, lines))


def section(found: Results, looks: Sequence[Look], name: str) -> str:
  """Values by leaf, what splits bought, and what happened to a tree that grows."""
  valued = sum((one.sums.valued for one in leaves(looks)), 0)
  parts = [
    page.paragraph(
      f"{valued:,} documents were valued while models trained: how much a little "
      "more of each would take off the targets' loss, less the mean. Above zero: "
      "more of it helps.",
      "soft",
    ),
    page.figure(
      name,
      told="Mean value by leaf, with its 95 % interval. Triangles point up where "
      "the recipe weighs the leaf more than natural, down where less.",
      height=height(looks),
    ),
  ]
  bought = splits(looks)
  if bought:
    total = sum(one.gain for one in bought)
    rows = [
      [
        one.path or ROOT,
        str(one.children),
        f"{one.spread:.4f}",
        f"{one.gain:+.5f}",
      ]
      for one in sorted(bought, key=lambda one: -one.gain)
    ]
    columns = ("split of", "children", "spread of values", "bought")
    parts.append(
      page.table(columns, rows, caption="What each split bought, by the values")
    )
    parts.append(
      page.paragraph(
        "Bought: the difference of the children's shares to those that would leave "
        "their proportions natural, times their mean values; to first order, in nats "
        "per token over one unroll. The sum over all splits is what the whole "
        f"mixture bought: {total:+.5f}.",
        "soft",
      )
    )
  growth = found.recipe.get("growth")
  if growth:
    parts += [
      "<h3>How the tree grew</h3>",
      page.bullets(tables.growth_lines(growth)),
    ]
  return "\n".join(parts)


def is_known(looks: Sequence[Look]) -> bool:
  """Whether there is anything to tell."""
  return len(leaves(looks)) > 1
