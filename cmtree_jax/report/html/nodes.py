"""The nodes of a recipe, with what is measured in each and documents that are typical."""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cmtree_jax.report.describe import Node
from cmtree_jax.report.html.documents import Shown, Sums
from cmtree_jax.report.html.results import Results

_NODES = 500  # of a page
_DOCUMENTS = 500  # in all nodes of a page together
_MOST = 5  # of one node


class Look(NamedTuple):
  """A node with what is measured in it, and documents that are typical of it."""

  node: Node
  sums: Sums = Sums()
  typical: tuple[Shown, ...] = ()


def looks(found: Results, *, share: float = 1.0) -> list[Look]:
  """Every node, parents before children; none where documents have own weights.

  Of very many nodes those that have most of the training.

  Args:
    found: of the job.
    share: of the room in a page that this tree has.
  """
  nodes = _largest(_nodes(found), int(_NODES * share))
  most = min(_MOST, max(1, int(_DOCUMENTS * share) // max(len(nodes), 1)))
  leaves = _by_leaf(found)
  made = []
  for node in nodes:
    sums = Sums()
    if found.documents is not None:
      sums = _inside(node.path, found.documents.leaves)
    made.append(Look(node, sums, _typical(node.path, leaves, most)))
  return made


def _largest(nodes: Sequence[Node], most: int) -> list[Node]:
  """Some nodes in their order; no child has more than its parent, nor comes first."""
  order = sorted(range(len(nodes)), key=lambda i: -nodes[i].mixture)[:most]
  return [nodes[i] for i in sorted(order)]


def _nodes(found: Results) -> list[Node]:
  """As the recipe tells them, or as leaves and the names of a schedule do."""
  if "nodes" in found.recipe:
    return [Node(**one) for one in found.recipe["nodes"]]
  if found.documents is None or set(found.documents.leaves) == {""}:
    return []
  leaves, terms = found.documents.leaves, _terms(found)
  paths = {
    path.rsplit(".", n)[0] if n else path
    for path in leaves
    for n in range(path.count(".") + 1)
  }
  total = found.documents.all
  nodes = []
  for path in sorted({"", *paths}, key=lambda one: (one.count("."), one)):
    sums = _inside(path, leaves)
    mass, mixture = sums.tokens / total.tokens, sums.flow / total.flow
    words = terms.get(path, ())
    nodes.append(Node(path, path, mass, mixture, mixture / mass, words, "", ""))
  return nodes


def _terms(found: Results) -> dict[str, tuple[str, ...]]:
  """Of the leaves of a schedule, out of their names: leaf_2.0_film-plot."""
  rows = found.schedules.get(found.method, ())
  named = (row["leaf"].split("_", 2) for row in rows if row["stage"] == 0)
  return {
    parts[1]: tuple(parts[2].split("-")) for parts in named if len(parts) == 3
  }


def is_below(path: str, above: str) -> bool:
  """Whether a node is another or lies below it."""
  return not above or path == above or path.startswith(f"{above}.")


def _inside(path: str, leaves: dict[str, Sums]) -> Sums:
  total = Sums()
  for leaf, one in leaves.items():
    if is_below(leaf, path):
      total = total.plus(one)
  return total


def _by_leaf(found: Results) -> dict[str, list[Shown]]:
  """The documents of the sample, the most typical of each leaf first."""
  leaves: dict[str, list[Shown]] = {}
  for one in found.documents.sample if found.documents else ():
    leaves.setdefault(one.path, []).append(one)
  return {
    path: sorted(some, key=lambda one: -one.near)
    for path, some in leaves.items()
  }


def _typical(
  path: str, leaves: Mapping[str, Sequence[Shown]], most: int
) -> tuple[Shown, ...]:
  """The most typical documents of a leaf; of an inner node, of its leaves in turn."""
  inside = [some for leaf, some in leaves.items() if is_below(leaf, path)]
  turns = itertools.zip_longest(*(some[:most] for some in inside))
  found = (one for turn in turns for one in turn if one is not None)
  return tuple(itertools.islice(found, most))
