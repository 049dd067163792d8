"""What an export is made from: the corpus in shards, with a recipe's verdict.

A corpus is read from its start as often as a format needs it, and no function here
or beside holds more of it than a shard and a bounded buffer.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.build.workers import Workers
from cmtree_jax.types import UserError


class Shard(NamedTuple):
  """Some consecutive documents of the corpus, at most some ten thousand."""

  id: list[str]
  text: list[str]
  num_tokens_N: np.ndarray  # int64
  weight_N: np.ndarray  # float64, density against the natural tokens, mean one
  leaf_N: np.ndarray  # int32, index into `Corpus.leaf_names`


class Corpus(NamedTuple):
  """A corpus that can be read several times, and the mixture of its leaves."""

  parts: tuple[Callable[[], Shard], ...]  # the same documents at every call
  leaf_names: tuple[str, ...]  # unique, safe as file names
  leaf_paths: tuple[str, ...]  # child numbers from the root, "2.0"
  mixture: Mapping[str, float]  # leaf name -> share of the training tokens
  num_documents: int
  total_tokens: int
  workers: Workers = Workers()  # call pickled parts

  def shards(self) -> Iterator[Shard]:
    """The documents, part after part."""
    for part in self.parts:
      yield part()


class Options(NamedTuple):
  """What a person decides about an export."""

  token_budget: int  # training tokens, repeats included
  seed: int  # of repeats and orders
  tokenizer: str  # path or name of the trainer's tokenizer, for its config
  root: str  # where trainers will find the folder, gs://...; "": where it is


# A word, so that a name is safe in file names, glob patterns and lists.
_NAME = re.compile(r"\w[\w.-]*")
_PATTERN = frozenset("*?[]{}\n")


def check(corpus: Corpus, options: Options) -> None:
  """Refuses a description of a corpus that no format could be written from.

  Raises:
    UserError: what was wanted, what came, what to do.
  """
  for name in corpus.leaf_names:
    if not _NAME.fullmatch(name) or len(name.encode()) > 200:
      raise UserError(
        f"Leaf name {name!r}: wanted at most 200 bytes of letters, digits, _, . "
        "and -, as it becomes a file name. Rename the leaf."
      )
  if len(set(corpus.leaf_names)) != len(corpus.leaf_names):
    raise UserError(
      f"Wanted unique leaf names, came {', '.join(corpus.leaf_names)}. Rename "
      "the leaves."
    )
  if len(corpus.leaf_paths) != len(corpus.leaf_names):
    raise UserError(
      f"Wanted one path per leaf, came {len(corpus.leaf_paths)} paths for "
      f"{len(corpus.leaf_names)} leaves."
    )
  _check_mixture(corpus)
  if corpus.num_documents < 1 or corpus.total_tokens < 1:
    raise UserError(
      "Wanted a corpus with documents and tokens, came "
      f"{corpus.num_documents} and {corpus.total_tokens}."
    )
  if options.token_budget <= 0 or options.seed < 0:
    raise UserError(
      "Wanted a token budget above zero and a seed of at least zero, came "
      f"{options.token_budget} and {options.seed}."
    )


def served_mixture(
  corpus: Corpus, num_tokens_L: np.ndarray
) -> dict[str, float]:
  """The mixture over the leaves that have tokens and a share, summing to one.

  Args:
    corpus: names and mixture.
    num_tokens_L: tokens of the documents in each leaf.
  Raises:
    UserError: there is no such leaf.
  """
  kept = {
    name: corpus.mixture.get(name, 0.0)
    for name, tokens in zip(corpus.leaf_names, num_tokens_L, strict=True)
    if tokens > 0 and corpus.mixture.get(name, 0.0) > 0
  }
  total = math.fsum(kept.values())
  if not kept:
    raise UserError(
      "Wanted a leaf with documents and a share of the mixture, came none. "
      "Export the recipe with the corpus that it was made for."
    )
  return {name: float(share / total) for name, share in kept.items()}


def location(folder: Path, options: Options) -> str:
  """The path by which trainers find the folder, without a slash at its end.

  Raises:
    UserError: trainers would take it for a pattern.
  """
  root = options.root.rstrip("/") or str(folder.resolve())
  if _PATTERN & set(root):
    raise UserError(
      f"Wanted a folder whose path no trainer takes for a pattern, came {root!r}. "
      "Choose a path without * ? [ ] { } and newlines."
    )
  return root


def _check_mixture(corpus: Corpus) -> None:
  unknown = sorted(set(corpus.mixture) - set(corpus.leaf_names))
  if unknown:
    raise UserError(
      f"The mixture names {unknown[0]!r}, which is no leaf. Known: "
      f"{', '.join(corpus.leaf_names)}."
    )
  shares = list(corpus.mixture.values())
  total = math.fsum(shares)
  # A float32 softmax sums to one within about 1e-6.
  if not all(share >= 0 for share in shares) or abs(total - 1) > 1e-4:
    raise UserError(
      "Wanted shares of the mixture that are at least zero and sum to one, came "
      f"{dict(corpus.mixture)} with sum {total}."
    )
