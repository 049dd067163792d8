"""Targets: files of documents that say which split they belong to.

A line or row holds a `split` and a text, or a multiple-choice question:
`question`, `choices`, `answer` and perhaps a `context` that stands before the
question. A text beside a `question` that ends with the string `answer` is a
question with an open answer. A target is small, so it is held whole. One that has
test documents only is scored and drives no search.
"""

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cmtree_jax.data import store
from cmtree_jax.data.read import fields, files, jsonl, parquet
from cmtree_jax.data.read.fields import Row, Rules, Unusable
from cmtree_jax.types import Question, Skip, Target, UserError

_SPELLINGS = {**{split: split for split in store.SPLITS}, "valid": "validation"}
_QUESTION = ("context", "question", "choices", "answer")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read(address: str, rules: Rules) -> tuple[Target, list[Skip]]:
  """The target in a file, and which of its lines are not used.

  A text that stands in two splits is kept in the later one of train, validation
  and test, so that a test measures learning and not recall.

  Args:
    address: "jsonl:FILE", "parquet:FILE", or the file alone. The target is called
      after the file, without its extensions.
    rules: which field holds a text, and how long it may be.
  Raises:
    UserError: the file cannot be read to its end, a split is missing, unknown
      or empty, or only some of the lines are questions.
  """
  path, rows = _open(address, rules)
  items: list[_Item] = []
  skips: list[Skip] = []
  for row in rows:
    if isinstance(row, Skip):
      _refuse_part_of_a_file(row)
      skips.append(row)
      continue
    split = _split(row)
    try:
      items.append(_item(row, split, rules))
    except Unusable as problem:
      skips.append(problem.at(row.where))
  items, leaks = _without_leaks(items)
  skips += leaks
  _check_questions(items)
  _check_splits(path, items, skips)
  return _target(path, items), skips


class _Item(NamedTuple):
  split: str
  where: str
  text: str
  question: Question | None


def _open(address: str, rules: Rules) -> tuple[str, Iterator[Row | Skip]]:
  kind, _, path = address.partition(":")
  if kind not in ("jsonl", "parquet") or not path:
    path = address
    kind = "parquet" if address.endswith(".parquet") else "jsonl"
  path = os.path.expanduser(path)
  if kind == "jsonl":
    return path, jsonl.rows(path, rules)
  wanted = (rules.text_field, "split", *_QUESTION)
  return path, parquet.rows(path, wanted, check=lambda schema: None)


def _refuse_part_of_a_file(skip: Skip) -> None:
  """A target that is not whole measures something else than it did before."""
  if skip.kind in files.WHOLE_FILE:
    raise UserError(f"{skip.where}: {skip.message}")


def _split(row: Row) -> str:
  split = row.values.get("split")
  if not isinstance(split, str) or split not in _SPELLINGS:
    raise UserError(
      f"{row.where}: wanted a 'split' out of train, validation and test, came "
      f"{fields.shown(row.values, 'split')}; give every line of a target its "
      "split."
    )
  return _SPELLINGS[split]


def _item(row: Row, split: str, rules: Rules) -> _Item:
  values = row.values
  if values.get("choices") is None:
    text = fields.text_of(values, rules)
    return _Item(split, row.where, text, _open_question(values, text))
  question = _question(values)
  if values.get(rules.text_field) is None:
    text = question.prompt + question.choices[question.answer]
    values = {rules.text_field: text}
  return _Item(split, row.where, fields.text_of(values, rules), question)


def _open_question(values: Mapping[str, Any], text: str) -> Question | None:
  """What stands before the answer, and the answer; None where there is none.

  White space between them goes to the answer: a word and the space before it are
  one token.
  """
  asked, answer = values.get("question"), values.get("answer")
  if not isinstance(asked, str) or not isinstance(answer, str):
    return None
  if not asked.strip() or not answer.strip() or not text.endswith(answer):
    return None
  prompt = text.removesuffix(answer).rstrip()
  return Question(prompt, (text[len(prompt) :],), 0)


def _question(values: Mapping[str, Any]) -> Question:
  """The layout of a multiple-choice question, up to where the answer goes."""
  asked = fields.string_of(values, "question")
  if not asked or not asked.strip():
    raise Unusable(
      "no question",
      "wanted a string in the field 'question' beside 'choices', came "
      f"{fields.shown(values, 'question')}; write what is asked.",
    )
  texts = _choices(values)
  lettered = [
    f"({letter}) {text}" for letter, text in zip(_LETTERS, texts, strict=False)
  ]
  context = fields.string_of(values, "context")
  lines = [*([context] if context else []), f"Question: {asked}", *lettered]
  return Question(
    prompt="\n".join([*lines, "Answer:"]),
    choices=tuple(f" {choice}" for choice in lettered),
    answer=_answer(values, texts),
  )


def _choices(values: Mapping[str, Any]) -> list[str]:
  choices = values["choices"]
  if (
    not isinstance(choices, list)
    or not 2 <= len(choices) <= len(_LETTERS)
    or not all(isinstance(choice, str) for choice in choices)
  ):
    raise Unusable(
      "no choices",
      f"wanted 2 to {len(_LETTERS)} strings in the field 'choices', came "
      f"{fields.shown(values, 'choices')}; write them as a list.",
    )
  for choice in choices:
    fields.string_of({"choices": choice}, "choices")
  return choices


def _answer(values: Mapping[str, Any], choices: list[str]) -> int:
  answer = values.get("answer")
  if isinstance(answer, str) and choices.count(answer) == 1:
    return choices.index(answer)
  is_index = isinstance(answer, int) and not isinstance(answer, bool)
  if is_index and 0 <= answer < len(choices):
    return answer
  raise Unusable(
    "no answer among the choices",
    f"wanted one of {len(choices)} choices in the field 'answer', as its text "
    f"or as its number from 0, came {fields.shown(values, 'answer')}; write "
    "which choice is right.",
  )


def _without_leaks(items: list[_Item]) -> tuple[list[_Item], list[Skip]]:
  """Leaves out what a later split holds too."""
  last: dict[str, _Item] = {}
  for item in items:
    known = last.setdefault(item.text, item)
    if store.SPLITS.index(item.split) > store.SPLITS.index(known.split):
      last[item.text] = item
  kept = [item for item in items if item.split == last[item.text].split]
  leaks = [
    Skip(
      "a text in two splits",
      item.where,
      f"wanted a text in one split, came one of {item.split} that "
      f"{last[item.text].where} has for {last[item.text].split}; drop one.",
    )
    for item in items
    if item.split != last[item.text].split
  ]
  return kept, leaks


def _check_questions(items: list[_Item]) -> None:
  def has_choices(item: _Item) -> bool:
    return item.question is not None and len(item.question.choices) > 1

  asked = [item for item in items if has_choices(item)]
  if asked and len(asked) < len(items):
    plain = next(item for item in items if not has_choices(item))
    raise UserError(
      f"{plain.where}: wanted 'choices' as in {asked[0].where}, came a line "
      "without; make two targets of the file."
    )


def _check_splits(path: str, items: list[_Item], skips: list[Skip]) -> None:
  counts = {x: sum(item.split == x for item in items) for x in store.SPLITS}
  if counts["test"] == len(items) > 0:
    return
  for split, count in counts.items():
    if not count:
      came = ", ".join(f"{counts[x]} {x}" for x in store.SPLITS)
      message = (
        f"{path}: wanted documents in every split, came none for {split!r} "
        f'({came}); mark some lines with "split": "{split}".'
      )
      if skips:
        first = f"{skips[0].where}: {skips[0].message}"
        message += f" {len(skips)} not used, such as {first}"
      raise UserError(message)


def _target(path: str, items: list[_Item]) -> Target:
  name = posixpath.basename(path)
  name = re.sub(r"(\.(jsonl|ndjson|json|gz|zst|parquet))+$", "", name)
  of_split = {
    x: [item for item in items if item.split == x] for x in store.SPLITS
  }
  texts = {x: tuple(item.text for item in of_split[x]) for x in store.SPLITS}
  questions: dict[str, tuple[Question, ...]] = {}
  if any(item.question is not None for item in items):
    questions = {
      # A text that does not end with its answer is an answer as a whole.
      x: tuple(one.question or Question("", (one.text,), 0) for one in found)
      for x, found in of_split.items()
    }
  return Target(name, **texts, questions=questions)
