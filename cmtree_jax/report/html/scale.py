"""Weights as people see them: in words, and as colours from less to more."""

from typing import Any

import numpy as np


def log2(w: float) -> float:
  """A weight as its colour has it."""
  return round(float(np.log2(np.clip(w, 2**-_OCTAVES, 2**_OCTAVES))), 3)


_OCTAVES = 2.5
_TICKS = (0.25, 0.5, 1.0, 2.0, 4.0)

# Of weights, in octaves: fewer looks than in the natural mixture, as many, more.
SCALE: dict[str, Any] = {
  "colorscale": [[0, "--less"], [0.5, "--even"], [1, "--more"]],
  "cmin": -_OCTAVES,
  "cmax": _OCTAVES,
  "showscale": True,
  "colorbar": {
    "orientation": "h",
    "y": -0.02,
    "yanchor": "top",
    "thickness": 10,
    "len": 0.9,
    "outlinewidth": 0,
    "tickvals": [float(np.log2(x)) for x in _TICKS],
    "ticktext": [f"×{x:g}" for x in _TICKS],
    "title": {"text": "weight", "side": "top"},
  },
}


def weight(w: float) -> str:
  """A weight as people read it: how many times as often as in the natural mixture.

  >>> weight(2.3061), weight(0.0012), weight(3e-9)
  ('×2.31', '×0.001', '×3e-09')
  """
  return f"×{w:.1g}" if 0 < w < 0.005 else f"×{w:.2f}"
