"""Texts with scores that a person or a model has given: one JSON object a line."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data.draw import sampler
from cmtree_jax.data.read import fields, jsonl
from cmtree_jax.data.read.fields import Row, Rules, Skip
from cmtree_jax.types import UserError

_RULES = Rules("text", "id", "source", max_document_bytes=10_000_000)
_TEXTS = 4096  # that are in memory at a time


class Labels(NamedTuple):
  """Some labelled texts."""

  texts: list[str]
  score_M: np.ndarray  # float64, finite
  key_M: np.ndarray  # uint64, a hash of each text


def read(path: Path) -> Iterator[Labels]:
  """The file's lines such as {"text": "...", "score": 3}, some thousand at a time.

  Raises:
    UserError: naming the file, the line and the value, for the first that is not so.
  """
  texts, scores = [], []
  for row in jsonl.rows(str(path), _RULES):
    text, score = _label(row)
    texts.append(text)
    scores.append(score)
    if len(texts) == _TEXTS:
      yield _labels(texts, scores)
      texts, scores = [], []
  if texts:
    yield _labels(texts, scores)


def _labels(texts: list[str], scores: list[float]) -> Labels:
  return Labels(texts, np.array(scores), sampler.document_keys(texts))


def _label(row: Row | Skip) -> tuple[str, float]:
  if isinstance(row, Skip):
    raise UserError(f"{row.where}: {row.message}")
  try:
    text = fields.text_of(row.values, _RULES)
  except fields.Unusable as problem:
    raise UserError(f"{row.where}: {problem}") from None
  score = row.values.get("score")
  # To Python True is a number, too.
  if (
    isinstance(score, bool)
    or not isinstance(score, int | float)
    or not math.isfinite(score)
  ):
    raise UserError(
      f"{row.where}: wanted a finite number in the field 'score', came "
      f"{fields.shown(row.values, 'score')}; give the text a score or drop the line."
    )
  return text, float(score)
