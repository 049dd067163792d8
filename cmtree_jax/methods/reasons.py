"""Why documents weigh less than others, in the words of the method that weighed them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np


class Reasons(NamedTuple):
  """For every document of the pool one of a few texts, with numbers to fill in.

  A text is a format string: `{NAME}` stands for a number of the document, `{other}`
  for the id of another document. What a report shows of a document that weighs less
  than the natural mixture would have it is `text(i)`; of others nobody asks.

  >>> reasons = because(
  ...   "cosine {cosine:.2f} to {other}",
  ...   other_N=np.array([-1, 0]),
  ...   cosine=np.array([0.0, 0.987]),
  ... )
  >>> reasons.text(1, {0: "doc-a"})
  'cosine 0.99 to doc-a'
  """

  texts: tuple[str, ...]
  which_N: np.ndarray  # int8, the text of each document; -1: there is none
  number_N: Mapping[str, np.ndarray] = MappingProxyType({})  # by name, [N]
  other_N: np.ndarray | None = (
    None  # int, a document's number; -1: there is none
  )

  def text(self, document: int, ids: Mapping[int, str]) -> str:
    """What is to be said of a document, "" if nothing is.

    Args:
      document: its number in the pool.
      ids: number -> id, at least of the documents that `others` names.
    """
    which = int(self.which_N[document])
    if which < 0:
      return ""
    filled = {name: x_N[document] for name, x_N in self.number_N.items()}
    if self.other_N is not None:
      other = int(self.other_N[document])
      filled["other"] = ids[other] if other >= 0 else "none"
    return self.texts[which].format(**filled)

  def others(self, documents: np.ndarray) -> np.ndarray:
    """Numbers of the documents that the texts of some name, each once."""
    if self.other_N is None:
      return np.zeros(0, np.int64)
    named = np.asarray(self.other_N)[documents]
    return np.unique(named[named >= 0])

  def to_arrays(self) -> dict[str, np.ndarray]:
    """What `from_arrays` reads back; names begin with "reasons."."""
    arrays = {"texts": np.array(self.texts), "which_N": self.which_N}
    if self.other_N is not None:
      arrays["other_N"] = self.other_N
    arrays |= {f"number.{name}": x_N for name, x_N in self.number_N.items()}
    return {PREFIX + name: x for name, x in arrays.items()}


PREFIX = "reasons."


def because(
  text: str, *, other_N: np.ndarray | None = None, **number_N: np.ndarray
) -> Reasons:
  """One text for all documents.

  Args:
    text: see `Reasons`.
    other_N: number of the document that `{other}` stands for; -1: there is none.
    **number_N: the numbers that the text names.
  """
  size = len(next(x for x in (other_N, *number_N.values()) if x is not None))
  return Reasons((text,), np.zeros(size, np.int8), number_N, other_N)


def first(parts: Sequence[tuple[np.ndarray, Reasons]]) -> Reasons:
  """Of several reasons the first that is meant for a document.

  Args:
    parts: (whether it is meant, [N]; reasons). Numbers of one name must be equal.
  """
  texts: list[str] = []
  which_N = np.full(len(parts[0][0]), -1, np.int8)
  number_N: dict[str, np.ndarray] = {}
  other_N = None
  for meant_N, one in parts:
    new_N = meant_N & (which_N < 0) & (one.which_N >= 0)
    which_N[new_N] = one.which_N[new_N] + len(texts)
    texts += one.texts
    number_N |= one.number_N
    if one.other_N is not None:
      if other_N is None:
        other_N = np.full(len(which_N), -1, np.int64)
      other_N[new_N] = one.other_N[new_N]
  return Reasons(tuple(texts), which_N, number_N, other_N)


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Reasons | None:
  """Out of arrays that may hold others, too; None if they hold no reasons."""
  found = {
    name.removeprefix(PREFIX): x
    for name, x in arrays.items()
    if name.startswith(PREFIX)
  }
  if not found:
    return None
  numbers = {
    name.removeprefix("number."): x
    for name, x in found.items()
    if name.startswith("number.")
  }
  texts = tuple(map(str, found["texts"]))
  return Reasons(texts, found["which_N"], numbers, found.get("other_N"))
