"""Questions as tokens: prompts and choices apart, so that it is exact which tokens
spell an answer.

Q counts questions and A the choices of all questions, one question's after the
other's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.data.build import tokenizer
from cmtree_jax.data.draw import packing
from cmtree_jax.types import Question


class Questions(NamedTuple):
  """The questions of a target's split, in the order of its texts."""

  prompts: packing.TokenStore  # one for each of Q questions
  # A in all; those of a question stand one after the other.
  choices: packing.TokenStore
  count_Q: np.ndarray  # int64, choices of each question; one: an open answer
  right_Q: np.ndarray  # int64, the right one among them, from 0

  @property
  def first_Q(self) -> np.ndarray:
    """The index in A of each question's first choice."""
    return np.cumsum(self.count_Q) - self.count_Q


def encode(questions: Sequence[Question], tok) -> Questions:
  """Prompts and choices as tokens of `tok`."""
  choices = [choice for one in questions for choice in one.choices]
  return Questions(
    prompts=_store([one.prompt for one in questions], tok),
    choices=_store(choices, tok),
    count_Q=np.array([len(one.choices) for one in questions], np.int64),
    right_Q=np.array([one.answer for one in questions], np.int64),
  )


def _store(texts, tok) -> packing.TokenStore:
  return packing.store(
    tok.encode_batch(texts),
    [len(text.encode()) for text in texts],
    end_of_text=tokenizer.EOS_ID,
  )


def write(folder: Path, prefix: str, questions: Questions) -> None:
  """Every array as a file of its own, `prefix.questions.name.npy`."""
  arrays = {"count_Q": questions.count_Q, "right_Q": questions.right_Q}
  for name in ("prompts", "choices"):
    tokens = getattr(questions, name)
    arrays |= {f"{name}.{k}": x for k, x in tokens._asdict().items()}
  store.write_arrays(folder, f"{prefix}.questions", arrays)


def load(folder: Path, prefix: str) -> Questions | None:
  """What `write` wrote; None where nothing was."""
  if not (folder / f"{prefix}.questions.right_Q.npy").exists():
    return None

  def array(name):
    return np.load(folder / f"{prefix}.questions.{name}.npy")

  def tokens(name):
    fields = packing.TokenStore._fields
    return packing.TokenStore(*(array(f"{name}.{field}") for field in fields))

  return Questions(
    tokens("prompts"), tokens("choices"), array("count_Q"), array("right_Q")
  )
