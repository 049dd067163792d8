"""A map of the documents by their embedding, each with its weight."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from cmtree_jax.report.html import escape, page, scale
from cmtree_jax.report.html.documents import Shown
from cmtree_jax.report.html.results import Results

_TEXTS = 300_000  # bytes of documents in the maps of a page
_SNIPPET = 90  # characters of one

# Shapes tell what colours tell: (name, least weight, symbol).
_KINDS = (
  ("seen less than half as often", 0.0, "triangle-down"),
  ("seen about as often", 0.5, "circle"),
  ("seen more than twice as often", 2.0, "triangle-up"),
)


def figure(
  sample: Sequence[Shown], name: str, *, share: float = 1.0
) -> dict[str, Any]:
  """Points at the first two principal components of the features.

  Args:
    sample: the documents.
    name: of the list of nodes that a click chooses from.
    share: of the room for texts in a page that this map has.
  """
  weight_S = np.array([one.weight for one in sample])
  bounds = [least for _, least, _ in _KINDS] + [np.inf]
  told, leaves = _told(sample, _TEXTS * share), _leaves(sample)
  number = {path: i for i, path in enumerate(leaves)}
  traces = []
  for (kind, least, symbol), most in zip(_KINDS, bounds[1:], strict=True):
    chosen = np.flatnonzero((weight_S >= least) & (weight_S < most)).tolist()
    if not chosen:
      continue
    some = [sample[i] for i in chosen]
    texts = [told[i] for i in chosen if i < len(told)]
    traces.append(
      {
        "type": "scattergl",
        "mode": "markers",
        "name": f"{kind} ({len(some):,})",
        "x": packed([32767 * one.x for one in some]),
        "y": packed([32767 * one.y for one in some]),
        # The page fills in what a point without a text is told by, its leaf.
        "text": texts,
        "leaf": packed([number[one.path] for one in some]),
        "hoverinfo": "text",
        "marker": {
          **_colors(some, first=not traces),
          "symbol": symbol,
          # A triangle of the size of a circle looks smaller.
          "size": (5 if len(sample) > _FEW else 8) + 2 * (symbol != "circle"),
          "opacity": 0.8,
        },
      }
    )
  bare = {"showticklabels": False, "zeroline": False, "showgrid": False}
  return {
    "data": traces,
    "leaves": [[path, *_leaf(path)] for path in leaves],
    "layout": {
      "xaxis": bare,
      "yaxis": bare,
      "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
      "margin": {"l": 4, "r": 4, "t": 4, "b": 4},
      "hovermode": "closest",
      "dragmode": "pan",
    },
    "nodes": name,
  }


_FEW = 2_000  # points that have room to be larger
_FINE = 1000  # steps of an octave of weight


def _colors(some: Sequence[Shown], *, first: bool) -> dict[str, Any]:
  """Those of weights; the first trace has the bar that tells them."""
  colors = {
    **scale.SCALE,
    "cmin": _FINE * scale.SCALE["cmin"],
    "cmax": _FINE * scale.SCALE["cmax"],
    "colorbar": {
      **scale.SCALE["colorbar"],
      "tickvals": [_FINE * x for x in scale.SCALE["colorbar"]["tickvals"]],
    },
  }
  return {
    **colors,
    "color": packed([_FINE * scale.log2(one.weight) for one in some]),
    "showscale": first,
  }


def packed(numbers: Sequence[float]) -> dict[str, str]:
  """Whole numbers in two bytes each, as plotly reads them."""
  rounded = np.round(np.array(numbers)).astype("<i2")
  return {"dtype": "i2", "bdata": base64.b64encode(rounded.tobytes()).decode()}


def _leaves(sample: Sequence[Shown]) -> list[str]:
  return sorted({one.path for one in sample})


def _leaf(path: str) -> list[str]:
  """What a point is told by that has no text of its own."""
  return [escape.label(f"leaf {path}")] if path else [""]


def _told(sample: Sequence[Shown], room: float) -> list[str]:
  """What is told of the first points, as many as there is room for."""
  found: list[str] = []
  for one in sample:
    lines = [f"{one.id[:60]} {scale.weight(one.weight)}"]
    if one.path:
      lines[0] += f" leaf {one.path}"
    text = " ".join(one.text.split())[:_SNIPPET]
    lines += [text[:45], text[45:]]
    found.append("<br>".join(map(escape.label, filter(None, lines))))
    room -= len(found[-1].encode(errors="replace"))
    if room < 0:
      break
  return found


def section(found: Results, shown: int, name: str) -> str:
  """The map, and what it shows.

  Args:
    found: of the job.
    shown: points of the map.
    name: of the figure in the page.
  """
  assert found.documents is not None
  told = (
    f"{shown:,} of {found.documents.all.documents:,} documents at the first two "
    "principal components of their features. Colour and shape: how often a document "
    "is seen, beside the natural mixture."
  )
  return page.figure(name, told=told, height=560)
