"""The table with its intervals, as a figure and as numbers."""

import math
from collections.abc import Sequence
from typing import Any

from cmtree_jax.evaluate.results import MEAN, NATURAL, Standing
from cmtree_jax.report import tables
from cmtree_jax.report.html import escape, page
from cmtree_jax.report.html.results import Results

_OPEN = 1  # blocks whose table is not folded away

# Shape and colour both tell the verdict.
_MARKS = {"better": ("--more", "triangle-left"), "worse": ("--less", "square")}
_OTHER = ("--other", "diamond-open")
_ROW = 26  # pixels
_GAP = 46  # between the panels of two targets


def figure(blocks: Sequence[Sequence[Standing]]) -> dict[str, Any]:
  """Differences to natural with their intervals, a panel per target."""
  heights = [_ROW * (len(block) + 0.6) for block in blocks]
  total = sum(heights) + _GAP * len(blocks)
  data, shapes, notes, layout = [], [], [], {}
  top = 1.0
  for number, (block, high) in enumerate(zip(blocks, heights, strict=True), 1):
    top -= _GAP / total
    layout[_axis(number, "yaxis")] = {
      "domain": [max(top - high / total, 0), top],
      "autorange": "reversed",
      "automargin": True,
      "showgrid": False,
      "zeroline": False,
      "ticklabelstandoff": 4,
      "tickvals": list(range(len(block))),
      "ticktext": [escape.name(one.method) for one in _sorted(block)],
    }
    notes.append(
      {
        "text": f"<b>{escape.name(_place(block[0], blocks))}</b>",
        "x": 0,
        "xref": "paper",
        "xanchor": "left",
        "y": top,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
      }
    )
    floor = block[0].noise_floor
    if floor == floor:
      shapes.append(_band(floor, number))
    data += _traces(_sorted(block), number)
    top -= high / total
  return {
    "data": data,
    "layout": {
      **layout,
      "xaxis": {
        "anchor": _axis(len(blocks)),
        "zeroline": True,
        "title": {"text": "bits per byte − natural"},
        **_range(blocks),
      },
      "shapes": shapes,
      "annotations": notes,
      "showlegend": False,
      "margin": {"l": 8, "r": 8, "t": 4, "b": 48},
    },
    "height": int(total) + 56,
  }


def _axis(number: int, kind: str = "y") -> str:
  """As plotly counts them: y, y2, y3."""
  return kind if number == 1 else f"{kind}{number}"


def _place(one: Standing, blocks: Sequence[Sequence[Standing]]) -> str:
  """The target alone where there is one set of them."""
  if len({block[0].target_set for block in blocks}) > 1:
    return tables.place(one)
  return "mean of the targets" if one.target == MEAN else one.target


def _sorted(block: Sequence[Standing]) -> list[Standing]:
  return sorted(block, key=lambda one: one.to_natural.mean)


def _band(floor: float, number: int) -> dict[str, Any]:
  """The noise floor."""
  return {
    "type": "rect",
    "layer": "below",
    "xref": "x",
    "yref": f"{_axis(number)} domain",
    "x0": -floor,
    "x1": floor,
    "y0": 0,
    "y1": 1,
    "fillcolor": "--card",
    "line": {"width": 0},
  }


def _range(blocks: Sequence[Sequence[Standing]]) -> dict[str, Any]:
  """Without what is far worse than most, which would leave no room for the others."""
  ends = sorted(
    _number(x)
    for block in blocks
    for one in block
    for x in (one.to_natural.low, one.to_natural.mean, one.to_natural.high)
    if not math.isnan(x)
  )
  if len(ends) < 8:
    return {}
  usual = max(2 * ends[int(0.8 * (len(ends) - 1))], -ends[0], 1e-3)
  if ends[-1] <= usual:
    return {}
  room = 0.06 * (usual - ends[0])
  return {"range": [ends[0] - room, usual + room]}


def _number(x: float) -> float:
  return 0.0 if math.isnan(x) else x


def _traces(block: Sequence[Standing], number: int) -> list[dict[str, Any]]:
  """A point for every method; of one seed without an interval."""
  marks = [_MARKS.get(one.verdict, _OTHER) for one in block]
  half = [  # none of natural, nor of one seed
    None if one.method == NATURAL else one.to_natural.high - one.to_natural.mean
    for one in block
  ]
  return [
    {
      "type": "scatter",
      "mode": "markers",
      "xaxis": "x",
      "yaxis": _axis(number),
      "x": [one.to_natural.mean for one in block],
      "y": list(range(len(block))),
      "error_x": {
        "type": "data",
        "array": half,
        "color": "--soft",
        "thickness": 1.6,
        "width": 4,
      },
      "marker": {
        "size": 11,
        "color": [color for color, _ in marks],
        "symbol": [symbol for _, symbol in marks],
      },
      "text": ["<br>".join(map(escape.label, _told(one))) for one in block],
      "hoverinfo": "text",
    }
  ]


def _told(one: Standing) -> list[str]:
  lines = [one.method, f"{one.bpb:.4f} bits per byte"]
  if one.method != NATURAL:
    lines.append(f"− natural {tables.difference(one.to_natural)}")
    lines.append(one.verdict)
  return lines


def section(blocks: Sequence[Sequence[Standing]], name: str) -> str:
  """The figure, the tables, and what they come to."""
  if not blocks:
    return page.paragraph("Nothing was compared.")
  parts = [
    page.figure(
      name,
      told="Difference to the natural mixture in test bits per byte, with its 95 % "
      "interval; lower is better. The band is the noise floor. Triangle: better, "
      "square: worse, open diamond: no difference.",
      height=figure(blocks)["height"],
    )
  ]
  parts += tabled(blocks)
  flat = [one for block in blocks for one in block]
  parts.append(
    page.fold("What the columns mean", page.paragraph(tables.legend(flat)))
  )
  return "\n".join(parts)


def tabled(blocks: Sequence[Sequence[Standing]]) -> list[str]:
  """A table of every target with what it comes to, folded away but for the first."""
  parts = []
  for number, block in enumerate(blocks):
    names, rows = tables.whole(block)
    inside = page.table(names, rows, caption=tables.title(block))
    inside += page.paragraph(tables.verdict(block), "soft")
    if number >= _OPEN:
      inside = page.fold(f"Table: {tables.place(block[0])}", inside)
    parts.append(inside)
  return parts


def curves(found: Results) -> dict[str, Any] | None:
  """Bits per byte over training tokens; None where all trained equally long."""
  rows = [row for row in found.rows if row["split"] == "test"]
  if len({row["fraction"] for row in rows}) < 2:
    return None
  places = {(one.target_set, one.target): one for one in found.standings}
  means = [one for one in places.values() if one.target == MEAN]
  goal = next(iter(means or places.values()))
  sums: dict[str, dict[int, list[float]]] = {}
  for row in rows:
    if row["target_set"] == goal.target_set and goal.target in (
      MEAN,
      row["target"],
    ):
      curve = sums.setdefault(row["method"], {})
      curve.setdefault(row["tokens"], []).append(row["bpb"])
  lengths = sorted({tokens for curve in sums.values() for tokens in curve})
  dashes = ("solid", "dash", "dot", "dashdot")
  symbols = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
  return {
    "data": [
      {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape.name(method),
        "x": sorted(curve),
        "y": [sum(curve[n]) / len(curve[n]) for n in sorted(curve)],
        "line": {"dash": dashes[i % 4], "width": 2},
        "marker": {"symbol": symbols[i % 7], "size": 8},
      }
      for i, (method, curve) in enumerate(sums.items())
    ],
    "layout": {
      "xaxis": {
        "type": "log",
        "title": {"text": "training tokens"},
        "tickvals": lengths,
        "ticktext": [tables.short(one) for one in lengths],
      },
      "yaxis": {
        "title": {"text": f"bits per byte, {escape.label(tables.place(goal))}"},
        "automargin": True,
      },
      "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    },
  }
