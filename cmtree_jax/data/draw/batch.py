"""What the proxy reads at one step: packed rows that remember their documents."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from cmtree_jax import shapes


class Batch(NamedTuple):
  """B packed rows of T (input, label) pairs; leading axes may stack steps."""

  tokens_BT: shapes.IntBT  # inputs; a document starts with the end-of-text id
  label_BT: shapes.IntBT  # the next token of the same document
  segment_BT: shapes.IntBT  # attention stays within equal numbers of a row
  document_BT: shapes.IntBT  # index into the corpus (or target), -1 for padding


def stack_rows(batch: Batch, rows: int) -> Batch:
  """Rows [S * B, T] as steps [S, B, T]."""
  return Batch(*(x.reshape(-1, rows, x.shape[1]) for x in batch))


class Rows(Protocol):
  """What rows are drawn from: documents one by one, or along a path."""

  def init(self) -> Any:
    """The state before the first draw, as a checkpoint holds it."""
    ...

  def start(self, state: Any, weight_N: np.ndarray) -> Any:
    """A cursor: where draws go on from a state under the weights of documents."""
    ...

  def draw(
    self, cursor: Any, num_rows: int, *, share: tuple[int, int] = (0, 1)
  ) -> tuple[Any, Batch]:
    """The next rows, or a process's share of them; a cursor's `state` is saved."""
    ...
