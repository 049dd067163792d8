"""What the proxy reads at one step: packed rows that remember their documents."""

from typing import NamedTuple

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
