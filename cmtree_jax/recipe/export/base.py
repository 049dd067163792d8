"""What an export is made from: the corpus in shards, with a recipe's verdict.

A corpus is read from its start as often as a format needs it, and no function here
or beside holds more of it than a shard, a bounded buffer, and a few numbers of every
document.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.budget import Budget, in_epochs
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.types import UserError


class Shard(NamedTuple):
  """Some consecutive documents of the corpus, at most some ten thousand."""

  id: list[str]
  text: list[str]
  num_tokens_N: np.ndarray  # int64
  weight_N: np.ndarray  # float64, density against the natural tokens
  leaf_N: np.ndarray  # int32, index into `Corpus.leaf_names`


class Stage(NamedTuple):
  """A stage of a schedule: what is trained on from one step to another."""

  begin: int  # step of the trainer
  end: int
  share: float  # of the training tokens
  # By part of the corpus: weights of its documents, float64.
  weights: tuple[Callable[[], np.ndarray], ...]


class Corpus(NamedTuple):
  """A corpus that can be read several times."""

  parts: tuple[Callable[[], Shard], ...]  # the same documents at every call
  leaf_names: tuple[str, ...]  # unique, safe as file names
  leaf_paths: tuple[str, ...]  # child numbers from the root, "2.0"
  num_documents: int
  total_tokens: int
  workers: Workers = Workers()  # call pickled parts
  # By part, with a path that documents are read along: each one's place on it, int64.
  places: tuple[Callable[[], np.ndarray], ...] = ()
  # With a schedule: its stages, whose weights stand for those of the shards, and the
  # rows of a step of the trainer.
  stages: tuple[Stage, ...] = ()
  step_rows: int = 0

  def shards(self) -> Iterator[Shard]:
    """The documents, part after part."""
    for part in self.parts:
      yield part()


class CappedStage(NamedTuple):
  """A stage within a budget; see `staging`."""

  begin: int  # step of the trainer
  end: int
  mixture: Mapping[str, float]  # leaf name -> share of the stage's tokens
  # By part of the corpus: none is above the cap, and their mean is one; float64.
  weights: tuple[np.ndarray, ...]
  # By part: copies of each document in the stage's resampled text, int64.
  repeats: tuple[np.ndarray, ...]


class Capped(NamedTuple):
  """A corpus within a budget, what every format is written from; see `capping`."""

  corpus: Corpus  # no weight is above the cap, and their mean is one
  mixture: Mapping[str, float]  # leaf name -> share of the training tokens
  # By part of the corpus: copies of each document in resampled text, int64.
  repeats: tuple[np.ndarray, ...]
  # With a schedule. What stands above is then of the training as a whole.
  stages: tuple[CappedStage, ...] = ()


class Options(NamedTuple):
  """What a person decides about an export."""

  budget: Budget  # of a training on this corpus
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
  if corpus.num_documents < 1 or corpus.total_tokens < 1:
    raise UserError(
      "Wanted a corpus with documents and tokens, came "
      f"{corpus.num_documents} and {corpus.total_tokens}."
    )
  if options.budget.tokens <= 0 or options.seed < 0:
    raise UserError(
      "Wanted a token budget above zero and a seed of at least zero, came "
      f"{options.budget.tokens} and {options.seed}."
    )
  _check_stages(corpus.stages)
  pool = options.budget.pool_tokens
  assert pool == corpus.total_tokens, f"a budget for {pool} other tokens"


def _check_stages(stages: Sequence[Stage]) -> None:
  """Refuses stages that are shorter than a step.

  Raises:
    UserError: for the first of them.
  """
  last = 0
  for number, stage in enumerate(stages):
    assert stage.begin == last, f"stage {number} begins at {stage.begin}"
    last = stage.end
    if stage.end <= stage.begin:
      raise UserError(
        f"Wanted stages of at least one step of the trainer, came stage {number} "
        f"of {len(stages)} without: it begins and ends at step {stage.begin}. Make "
        "steps smaller (config.export.rows, config.export.row_tokens) or raise "
        "config.export.tokens."
      )


def purpose(options: Options) -> str:
  """What the comments of trainers' configs say of the budget."""
  budget = options.budget
  return (
    f"For a training of {budget.tokens:,} tokens, {in_epochs(budget.epochs)} of the "
    "corpus: a longer one repeats documents more often."
  )


def location(folder: Path, options: Options) -> str:
  """The path by which trainers find the folder, without a slash at its end."""
  return root_of(folder, options.root)


def root_of(folder: Path, root: str) -> str:
  """As `location`, before there are options.

  Args:
    folder: that files are written to.
    root: where trainers will look; "": there.
  Raises:
    UserError: trainers would take the path for a pattern.
  """
  root = root.rstrip("/") or str(folder.resolve())
  if _PATTERN & set(root):
    raise UserError(
      f"Wanted a folder whose path no trainer takes for a pattern, came {root!r}. "
      "Choose a path without * ? [ ] { } and newlines."
    )
  return root
