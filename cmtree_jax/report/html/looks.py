"""How often documents are seen in the training of the budget: a histogram."""

from typing import Any

import numpy as np

from cmtree_jax.budget import in_epochs
from cmtree_jax.report.html import page
from cmtree_jax.report.html.documents import OUT, Documents
from cmtree_jax.report.html.results import Results


def figure(found: Documents, epochs: float) -> dict[str, Any]:
  """Shares of the documents, and of the training tokens, by looks at a document."""
  width = found.edges[1] - found.edges[0]
  middle = [-width, *(found.edges[:-1] + width / 2).tolist()]
  begin = 0 if found.out else 1
  total = max(found.all.documents, 1)
  documents = [found.out / total, *(found.counts / total).tolist()]
  tokens = [0.0, *(found.flows / max(found.all.flow, 1e-12)).tolist()]
  ranges = [
    "left out",
    *(
      f"{low:.2f} to {high:.2f} times"
      for low, high in zip(found.edges[:-1], found.edges[1:], strict=True)
    ),
  ]

  def bars(name: str, shares: list[float], color: str, pattern: str):
    return {
      "type": "bar",
      "name": name,
      "x": middle[begin:],
      "y": shares[begin:],
      "text": [
        f"{told}: {share:.1%} of the {name}"
        for told, share in zip(ranges, shares, strict=True)
      ][begin:],
      "textposition": "none",
      "hoverinfo": "text",
      "marker": {"color": color, "pattern": {"shape": pattern, "size": 6}},
    }

  out = [-width] if found.out else []
  ticks = np.unique(np.round(np.linspace(0, found.edges[-1], 5), 2)).tolist()
  return {
    "data": [
      bars("documents", documents, "--other", ""),
      bars("training tokens", tokens, "--accent", "/"),
    ],
    "layout": {
      "barmode": "group",
      "bargap": 0.08,
      "xaxis": {
        "title": {"text": "looks at a document"},
        "zeroline": False,
        "tickvals": [*out, *ticks],
        "ticktext": [*["out" for _ in out], *(f"{x:g}" for x in ticks)],
      },
      "yaxis": {"automargin": True, "tickformat": ".0%", "rangemode": "tozero"},
      "shapes": [
        {
          "type": "line",
          "x0": epochs,
          "x1": epochs,
          "yref": "paper",
          "y0": 0,
          "y1": 1,
          "line": {"color": "--text", "dash": "dot", "width": 1.5},
        }
      ],
      "annotations": [
        {
          "x": epochs,
          "y": 1,
          "yref": "paper",
          "text": "natural mixture",
          "showarrow": False,
          "xanchor": "left",
          "xshift": 4,
          "yanchor": "top",
        }
      ],
      "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    },
  }


def section(found: Results, name: str) -> str:
  """The histogram, and its two ends in words."""
  documents, budget = found.documents, found.budget
  assert documents is not None
  epochs = budget.epochs if budget else 1.0
  lines = [
    f"{documents.out:,} of {documents.all.documents:,} documents are left out "
    f"(weight below {OUT:g}); the one that is seen most often is seen "
    f"{documents.at_most:.3g} times."
  ]
  if budget:
    lines = [budget.text(), *lines]
  if found.is_schedule:
    lines.append("Of a schedule these are the mean weights over the training.")
  told = (
    f"Looks at a document in {in_epochs(epochs)} of the pool. Plain bars count "
    "documents, hatched ones training tokens."
  )
  return "\n".join(
    [*map(page.paragraph, lines), page.figure(name, told=told, height=360)]
  )
