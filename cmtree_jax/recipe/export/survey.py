"""One pass over a corpus before anything is written: is it sound, and what is in it?"""

from typing import NamedTuple

import numpy as np

from cmtree_jax.recipe.export.base import Corpus, Shard
from cmtree_jax.types import UserError


class Survey(NamedTuple):
  """The numbers of all documents, in the order of the corpus."""

  tokens_N: np.ndarray  # int64
  weight_N: np.ndarray  # float64, the recipe's
  leaf_N: np.ndarray  # int32
  start_P1: (
    np.ndarray
  )  # int64, where the parts of the corpus begin, and its end
  num_leaves: int

  def of_leaves(self, value_N: np.ndarray) -> np.ndarray:
    """Sums over the documents of each leaf."""
    # Whole numbers below 2**53 are exact in float64.
    return np.bincount(self.leaf_N, value_N, self.num_leaves)


def survey(corpus: Corpus) -> Survey:
  """Reads the numbers of a corpus.

  Raises:
    UserError: a document is not usable, or the corpus is not as described.
  """
  num_leaves = len(corpus.leaf_names)
  columns = []
  for shard in corpus.shards():
    _check_shard(shard, num_leaves)
    columns.append((shard.num_tokens_N, shard.weight_N, shard.leaf_N))
  tokens_N, weight_N, leaf_N = map(np.concatenate, zip(*columns, strict=True))
  found = len(tokens_N), int(tokens_N.sum())
  if found != (corpus.num_documents, corpus.total_tokens):
    raise UserError(
      f"Wanted {corpus.num_documents:,} documents and {corpus.total_tokens:,} "
      f"tokens as described, came {found[0]:,} and {found[1]:,}. The source has "
      "changed since it was prepared; prepare it again."
    )
  if not (tokens_N * weight_N > 0).any():
    raise UserError(
      "Wanted a document with tokens and a weight above zero, came none. Export "
      "the recipe with the corpus that it was made for."
    )
  sizes = [len(tokens_P) for tokens_P, _, _ in columns]
  start_P1 = np.cumsum([0, *sizes])
  return Survey(tokens_N, weight_N, leaf_N, start_P1, num_leaves)


def _check_shard(shard: Shard, num_leaves: int) -> None:
  sizes = {len(column) for column in shard}
  assert len(sizes) == 1, f"columns of a shard have lengths {sizes}"
  faults = {
    "a weight of at least zero that is finite": (
      ~(shard.weight_N >= 0) | np.isinf(shard.weight_N),
      shard.weight_N,
    ),
    "a number of tokens of at least zero": (
      shard.num_tokens_N < 0,
      shard.num_tokens_N,
    ),
    f"a leaf below {num_leaves}": (
      (shard.leaf_N < 0) | (shard.leaf_N >= num_leaves),
      shard.leaf_N,
    ),
  }
  for wanted, (bad_N, value_N) in faults.items():
    if bad_N.any():
      row = int(np.argmax(bad_N))
      raise UserError(
        f"Document {shard.id[row]!r}: wanted {wanted}, came {value_N[row]}. Make "
        "the recipe again or leave the document out."
      )
  for row, (name, text) in enumerate(zip(shard.id, shard.text, strict=True)):
    for what, value in (("id", name), ("text", text)):
      try:
        value.encode()
      except UnicodeEncodeError as error:
        raise UserError(
          f"Document {shard.id[row]!r}: wanted Unicode in its {what}, came half "
          f"of a surrogate pair at position {error.start}. Leave it out or "
          "repair it."
        ) from error
