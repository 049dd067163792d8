"""The search over its rounds, and a mixture that moved while it was trained on."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cmtree_jax.report import moments
from cmtree_jax.report.html import escape, page
from cmtree_jax.report.html.results import Results, Schedule

_POINTS = 400  # of a line
_ROWS = 60  # of the table

# What is drawn together: a title, and the columns of a history.
_PANELS = (
  ("Target loss of the proxies, nats", re.compile(r"loss\..+|outer_loss")),
  ("Gain of each step, nats", re.compile("gain|heldout_gain|predicted_gain")),
  ("Effective share of the corpus", re.compile("effective_sample_size")),
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "cross", "x", "triangle-up")
_COLORS = ("--more", "--less", "--third", "--fourth", "--other", "--text")


def history(found: Results) -> list[dict[str, float]]:
  """Rows of numbers, one per round or step; without what happened to a tree."""
  rows = found.recipe.get("history") or []
  return [row for row in rows if "event" not in row]


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """Title -> lines over rounds of what belongs together; none over one round."""
  if len(rows) < 2:
    return {}
  panels = {
    title: names
    for title, wanted in _PANELS
    if (names := [n for n in rows[0] if wanted.fullmatch(n)])
  }
  if not panels:
    panels = {name: [name] for name in _numbers(rows)[:_OTHERS]}
  chosen = list(range(0, len(rows), max(1, len(rows) // _POINTS)))
  return {title: _lines(rows, chosen, names) for title, names in panels.items()}


_OTHERS = 4  # columns that are drawn where none is known


def _lines(
  rows: Sequence[Mapping[str, Any]], chosen: Sequence[int], names: Sequence[str]
) -> dict[str, Any]:
  axis: dict[str, Any] = {"title": {"text": "round"}}
  if len(rows) <= 12:
    axis["dtick"] = 1
  return {
    "data": [
      {
        "type": "scatter",
        "mode": "lines+markers" if len(chosen) < 60 else "lines",
        "name": escape.name(name.replace("_", " ")),
        "x": [one + 1 for one in chosen],
        "y": [rows[one].get(name) for one in chosen],
        "line": {"color": _COLORS[i % 6], "dash": _DASHES[i % 6], "width": 2},
        "marker": {"symbol": _SYMBOLS[i % 6], "size": 7},
      }
      for i, name in enumerate(names)
    ],
    "layout": {
      "xaxis": axis,
      "yaxis": {"automargin": True},
      "showlegend": len(names) > 1,
      "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
      "margin": {"l": 8, "r": 8, "t": 8, "b": 44},
    },
  }


def _numbers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  return [
    name
    for name in rows[0]
    if all(isinstance(row.get(name), int | float) for row in rows)
    and len({row[name] for row in rows}) > 1
  ]


def section(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> str:
  """The figures, and all columns in a table that is folded away.

  One round is told in a sentence.

  Args:
    rows: of the history.
    names: title -> name of its figure in the page.
  """
  parts = [
    page.figure(name, told=f"{title}, over {len(rows)} rounds", height=330)
    for title, name in names.items()
  ]
  parts = [f'<div class="grid">{"".join(parts)}</div>'] if parts else []
  columns = list(rows[0])
  if len(rows) == 1:
    parts.append(page.paragraph(_told_once(rows[0])))
  cells = [
    [str(number + 1), *(_cell(row.get(column)) for column in columns)]
    for number, row in list(enumerate(rows))[:_ROWS]
  ]
  told = f"All {len(columns)} numbers of {len(rows)} rounds or steps"
  if len(rows) > _ROWS:
    told += f", the first {_ROWS}"
  parts.append(page.fold(told, page.table(("round", *columns), cells)))
  return "\n".join(parts)


def _told_once(row: Mapping[str, Any]) -> str:
  """What is drawn of more rounds; all where none of that is known."""
  names = [
    name for name in row if any(one.fullmatch(name) for _, one in _PANELS)
  ]
  told = [
    f"{name.replace('_', ' ')} {row[name]:.4g}"
    for name in names or row
    if isinstance(row[name], int | float)
  ]
  return f"The search had one round, of which it tells: {', '.join(told)}."


def _cell(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, int | float) else str(value or "")


# Areas differ in hatching as in colour.
_PATTERNS = ("", "/", "", "x", "", "\\", "", ".", "", "|", "", "-", "")
_AREAS = (
  *("#0072b2", "#56b4e9", "#009e73", "#8fce5a", "#e6c700", "#e69f00"),
  *(
    "#d55e00",
    "#cc79a7",
    "#8a5fb5",
    "#b8a1d9",
    "#7a5a43",
    "#b59b7c",
    "#8a93a6",
  ),
)


def over_time(rows: Schedule) -> dict[str, Any]:
  """The mixture as a stacked area, constant from one event to the next."""
  names = list(dict.fromkeys(row["leaf"] for row in rows))
  share_GL = np.array([row["mixture"] for row in rows]).reshape(-1, len(names))
  begins = [row["begin"] for row in rows[:: len(names)]]
  end = rows[-1]["end"]
  steps_G = np.diff([*begins, end])
  mixture_L = steps_G @ share_GL / steps_G.sum()
  names, share_GL = moments.largest(names, share_GL, mixture_L)
  at = np.repeat([*begins, end], 2)[1:-1].tolist()
  return {
    "data": [
      {
        "type": "scatter",
        "mode": "lines",
        "name": escape.name(_short(leaf)),
        "x": at,
        "y": np.repeat(share_G, 2).round(5).tolist(),
        "stackgroup": "one",
        "line": {"width": 0.5, "color": _AREAS[i]},
        "fillcolor": _AREAS[i],
        "fillpattern": {
          "shape": _PATTERNS[i],
          "size": 7,
          "solidity": 0.18,
          "bgcolor": _AREAS[i],
          "fgcolor": "#ffffff",
        },
        "hovertemplate": "%{y:.1%}",
      }
      for i, (leaf, share_G) in enumerate(zip(names, share_GL.T, strict=True))
    ],
    "layout": {
      "xaxis": {
        "title": {"text": "training step", "standoff": 6},
        "range": [begins[0], end],
        "automargin": True,
      },
      "yaxis": {"tickformat": ".0%", "range": [0, 1], "automargin": True},
      "legend": {
        "orientation": "h",
        "yref": "container",
        "y": 0,
        "yanchor": "bottom",
        "x": 0,
      },
      "hovermode": "x unified",
      "margin": {"l": 8, "r": 12, "t": 8, "b": 48},
    },
    "narrow": 720,  # pixels of its height on a phone, where names need more room
  }


def _short(leaf: str) -> str:
  """The name of a leaf as a person reads it: leaf_2.0_film-plot."""
  return leaf.removeprefix("leaf_").replace("_", " ", 1).replace("-", " ")


def told_over_time(method: str, rows: Schedule) -> str:
  """What that figure shows."""
  stages, steps = rows[-1]["stage"] + 1, rows[-1]["end"]
  return (
    f"{method}: shares of the training tokens over {steps:,} steps, in {stages} "
    "stages. Areas stand in the order of the legend, the first on top."
  )
