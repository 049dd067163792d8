"""The tree: an icicle, and a list of its nodes with documents for eyes and keys."""

from collections.abc import Iterator, Sequence
from typing import Any

from cmtree_jax.report import tables
from cmtree_jax.report.describe import ROOT, Node
from cmtree_jax.report.html import documents, escape, nodes, page, scale
from cmtree_jax.report.html.documents import Shown
from cmtree_jax.report.html.nodes import Look

_HOVER = 140  # characters of a document in a figure


def figure(found: Sequence[Look], name: str) -> dict[str, Any]:
  """An icicle: widths are shares, colours and labels tell weights.

  Args:
    found: the nodes.
    name: of the list that a click chooses from.
  """
  paths = [one.node.path for one in found]
  inner = {path.rpartition(".")[0] for path in paths if path}

  def shares(field: str) -> list[float]:
    return [
      0.0 if one.node.path in inner else getattr(one.node, field)
      for one in found
    ]

  return {
    "data": [
      {
        "type": "icicle",
        "ids": [path or ROOT for path in paths],
        "parents": [
          (path.rpartition(".")[0] or ROOT) if path else "" for path in paths
        ],
        "labels": [_label(one.node) for one in found],
        "text": [scale.weight(one.node.weight) for one in found],
        "textinfo": "label+text",
        "values": shares("mixture"),
        "hovertext": [_hover(one) for one in found],
        "hoverinfo": "text",
        "sort": False,
        "tiling": {"orientation": "v", "pad": 2},
        "pathbar": {"visible": False},
        "marker": {
          "colors": [scale.log2(one.node.weight) for one in found],
          **scale.SCALE,
        },
      }
    ],
    "layout": {
      "margin": {"l": 0, "r": 0, "t": 4, "b": 4},
      "uniformtext": {"minsize": 11, "mode": "hide"},
    },
    "nodes": name,
    "switch": {"training": shares("mixture"), "corpus": shares("mass")},
  }


def _label(node: Node) -> str:
  if not node.path:
    return ROOT
  words = node.terms[:2] if node.mixture > _WIDE else ()
  return escape.name(" ".join([node.path, *words]))


_WIDE = 0.08  # share of a node that has room for words


def _hover(one: Look) -> str:
  node = one.node
  lines = [
    f"{node.path or ROOT}: {', '.join(node.terms)}",
    f"{node.mass:.1%} of the corpus, {node.mixture:.1%} of the training",
    f"weight {scale.weight(node.weight)}",
  ]
  text = one.typical[0].text if one.typical else node.typical
  if text and node.path:
    lines.append(f"“{' '.join(text.split())[:_HOVER]}…”")
  return "<br>".join(
    "<br>".join(map(escape.label, _broken(line))) for line in lines
  )


def _broken(line: str, width: int = 48) -> Iterator[str]:
  """Lines that fit a narrow screen; plotly breaks none itself."""
  while len(line) > width:
    at = line.rfind(" ", 1, width)
    at = width if at < 0 else at
    yield line[:at]
    line = line[at:].lstrip()
  yield line


def section(found: Sequence[Look], name: str) -> str:
  """The icicle with the documents of a node beside it, and the list of all nodes."""
  return "\n".join(
    [
      page.paragraph(
        "Choose a node, by a click or in the list below, to read documents of it. "
        "The weight of a node is its share of the training over its share of the "
        "corpus.",
        "soft",
      ),
      f'<div class="buttons" role="group" aria-label="Widths" data-for="{name}">'
      "<span>Widths are shares of the</span>"
      '<button type="button" data-switch="training" aria-pressed="true">training'
      "</button>"
      '<button type="button" data-switch="corpus" aria-pressed="false">corpus'
      "</button></div>",
      '<div class="look"><div class="figure-side">',
      page.figure(
        name,
        told=f"{len(found)} nodes of the tree. Width: share of tokens. Colour and "
        "number: weight.",
        height=440,
      ),
      f'</div><div class="detail" data-detail="{name}" '
      f'data-first="{_heaviest(found) or ROOT}" aria-live="polite">'
      "<h3>No node is chosen</h3></div></div>",
      "<h3>All nodes</h3>",
      listed(found, name),
    ]
  )


def _heaviest(found: Sequence[Look]) -> str:
  """The largest leaf of the training; the page begins with it."""
  inner = {one.node.path.rpartition(".")[0] for one in found if one.node.path}
  leaves = [one.node for one in found if one.node.path not in inner]
  return max(leaves or [found[0].node], key=lambda one: one.mixture).path


def listed(found: Sequence[Look], name: str, above: str = "") -> str:
  """The node and those below it, as nested lists; what they hold is folded away.

  Args:
    found: all nodes.
    name: of the list in the page.
    above: path of the node.
  """
  (own,) = [one for one in found if one.node.path == above]
  depth = above.count(".") + 1 if above else 0
  below = [
    one.node.path
    for one in found
    if one.node.path
    and nodes.is_below(one.node.path, above)
    and one.node.path.count(".") == depth
  ]
  inside = _entry(own, name)
  if below:
    inside += f"<ul>{''.join(listed(found, name, one) for one in below)}</ul>"
  item = f"<li>{inside}</li>"
  return item if above else f'{_LEGEND}<ul class="tree">{item}</ul>'


_LEGEND = page.paragraph(
  "Upper bar: share of the corpus. Lower bar: share of the training. Number: weight.",
  "soft",
)


def _entry(one: Look, name: str) -> str:
  node = one.node
  kind = "more" if node.weight > 1.02 else "less" if node.weight < 0.98 else ""
  shares = "".join(
    f'<span class="{which}"><i style="--of:{100 * share:.1f}"></i>{share:.1%}</span>'
    for which, share in (("corpus", node.mass), ("training", node.mixture))
  )
  place = escape.text(f"{name}:{node.path or ROOT}")
  return (
    f'<details class="node" data-node="{place}"><summary>'
    f'<span class="path">{escape.text(node.path or ROOT)}</span>'
    f'<span class="terms">{escape.text(", ".join(node.terms))}</span>'
    f'<span class="shares" title="share of the corpus, share of the training">'
    f"{shares}</span>"
    f'<span class="weight {kind}">{scale.weight(node.weight)}</span></summary>'
    f'<div class="node-body">{_body(one)}</div></details>'
  )


def _body(one: Look) -> str:
  node, sums = one.node, one.sums
  told = f"{node.mass:.1%} of the corpus, {node.mixture:.1%} of the training."
  if sums.documents:
    told = f"{sums.documents:,} documents. {told}"
  if sums.valued > 1:
    told += (
      f" Mean value of {sums.valued:,} of them: {sums.mean_value:+.4f} "
      f"±{sums.error:.4f}."
    )
  lines = [page.paragraph(told, "soft")]
  if node.times is not None:
    lines.append(page.paragraph(tables.leaning(node), "soft"))
  if one.typical:
    lines += map(document, one.typical)
  elif node.typical:
    lines.append(page.document(node.typical_id, node.typical))
  return "\n".join(lines)


def document(one: Shown) -> str:
  """A document of the sample, for a person."""
  told = [one.id, one.source, f"weight {scale.weight(one.weight)}"]
  if one.value == one.value:
    told.append(f"value {one.value:+.4f}")
  cut = "…" * (len(one.text) == documents.SNIPPET)
  return page.document(" · ".join(filter(None, told)), one.text.strip() + cut)
