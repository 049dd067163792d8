"""One pass over a corpus before anything is written: is it sound, and what is in it?"""

import functools
from typing import NamedTuple

import numpy as np

from cmtree_jax.recipe.export import counts
from cmtree_jax.recipe.export.base import Corpus, Options, Shard
from cmtree_jax.types import UserError


class Survey(NamedTuple):
  """Sums over the documents of each leaf."""

  documents_L: np.ndarray
  tokens_L: np.ndarray
  expected_tokens_L: np.ndarray  # of the training tokens, from the weights
  repeats_L: np.ndarray  # copies of documents, as rounded
  repeated_tokens_L: np.ndarray  # tokens of these copies


def survey(corpus: Corpus, options: Options) -> Survey:
  """Counts what is in the corpus and what its resampling comes to.

  Raises:
    UserError: a document is not usable, or the corpus is not as described.
  """
  size = len(corpus.leaf_names)
  sums = Survey(*(np.zeros(size) for _ in Survey._fields))
  rate = options.token_budget / corpus.total_tokens
  for shard, count_N in counts.counted(_sound(corpus, rate), options):
    tokens_N = shard.num_tokens_N
    values = (
      np.ones(len(tokens_N)),
      tokens_N,
      tokens_N * shard.weight_N * rate,
      count_N,
      tokens_N * count_N,
    )
    # Whole numbers below 2**53 are exact in float64.
    for total_L, value_N in zip(sums, values, strict=True):
      total_L += np.bincount(shard.leaf_N, value_N, size)
  found = int(sums.documents_L.sum()), int(sums.tokens_L.sum())
  if found != (corpus.num_documents, corpus.total_tokens):
    raise UserError(
      f"Wanted {corpus.num_documents:,} documents and {corpus.total_tokens:,} "
      f"tokens as described, came {found[0]:,} and {found[1]:,}. The source has "
      "changed since it was prepared; prepare it again."
    )
  return sums


def _sound(corpus: Corpus, rate: float) -> Corpus:
  """The same corpus, which stops at a document that cannot be used."""

  def checked(part):
    shard = part()
    _check_shard(shard, len(corpus.leaf_names), rate)
    return shard

  parts = (functools.partial(checked, part) for part in corpus.parts)
  return corpus._replace(parts=tuple(parts))


def _check_shard(shard: Shard, num_leaves: int, rate: float) -> None:
  sizes = {len(column) for column in shard}
  assert len(sizes) == 1, f"columns of a shard have lengths {sizes}"
  expected_N = shard.weight_N * rate
  faults = {
    "a weight of at least zero that is finite": (
      ~(shard.weight_N >= 0) | np.isinf(shard.weight_N),
      shard.weight_N,
    ),
    "less than two million repeats": (expected_N >= 2**21, expected_N),
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
