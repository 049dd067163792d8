"""Several views of a document side by side: what it is about, how it is written.

Each view is an embedder of its own with unit rows and gives one block of columns. A
level of a tree projects all of them, and so can choose which it cuts by; whoever takes
cosines takes the mean of the views' cosines.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cmtree_jax import embed
from cmtree_jax.shapes import FloatNE


def fit(
  texts: Sequence[str], goals: embed.Goals, plan: embed.Plan, cache_dir: Path
) -> "ViewsEmbedder":
  """Every view of the plan, made of the same texts."""
  part_of = {
    name: embed.VIEWS[name](texts, goals, plan, cache_dir)
    for name in plan.of_texts
  }
  widths = [part(texts[:1]).shape[1] for part in part_of.values()]
  return ViewsEmbedder(part_of, np.cumsum(widths))


def load(arrays: Mapping[str, np.ndarray], cache_dir: Path) -> "ViewsEmbedder":
  """The embedder that `to_arrays` was called on."""
  part_of = {}
  for name in arrays[embed.NAMES].tolist():
    start = f"{name}."
    own = {
      field.removeprefix(start): array
      for field, array in arrays.items()
      if field.startswith(start)
    }
    part_of[name] = embed.from_arrays(own, cache_dir=cache_dir)
  return ViewsEmbedder(part_of, arrays[embed.STOPS])


def extended(
  base: embed.Embedder,
  blocks: embed.Blocks,
  more: Mapping[str, embed.Embedder],
  widths: Sequence[int],
) -> "ViewsEmbedder":
  """An embedder with more views, which come after its own.

  Args:
    base: of one view or of several.
    blocks: of its columns.
    more: the others.
    widths: how many columns each of these has.
  """
  (name, *_) = (block.name for block in blocks)
  own = base.part_of if isinstance(base, ViewsEmbedder) else {name: base}
  stops = [block.stop for block in blocks]
  stop_V = np.concatenate([stops, stops[-1] + np.cumsum(widths)])
  return ViewsEmbedder({**own, **more}, stop_V.astype(np.int64))


def side_by_side(
  base_NE: np.ndarray, number: int, more: Sequence[np.ndarray]
) -> np.ndarray:
  """Unit rows of several views, and of more; each view counts for as much.

  Args:
    base_NE: of the first views.
    number: how many these are.
    more: unit rows of each of the others.
  """
  total = number + len(more)
  rows = [base_NE * np.float32(np.sqrt(number)), *more]
  return np.concatenate(rows, axis=1) / np.float32(np.sqrt(total))


class ViewsEmbedder:
  r"""Gives texts their place in every view: :math:`(h_1, .., h_V) / \sqrt V`.

  Rows of views have unit length, and so have these: no view counts for more than
  another in a document's cosines, whichever numbers it has, and how many.
  """

  def __init__(self, part_of: Mapping[str, embed.Embedder], stop_V: np.ndarray):
    self.part_of, self._stop_V = dict(part_of), stop_V

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text, float32."""
    first, *others = (part(texts) for part in self.part_of.values())
    return side_by_side(first, 1, others)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """The views' names, where the columns of each end, and what each keeps."""
    kept = {
      f"{name}.{field}": array
      for name, part in self.part_of.items()
      for field, array in embed.to_arrays(part).items()
    }
    names = np.array(list(self.part_of))
    return {embed.NAMES: names, embed.STOPS: self._stop_V, **kept}
