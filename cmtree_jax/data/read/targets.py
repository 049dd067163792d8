"""Targets: files of documents that say which split they belong to.

A line or row holds a `split` and a text, or a multiple-choice question:
`question`, `choices`, `answer` and perhaps a `context` that stands before the
question. A text beside a `question` that ends with its `answer` is a question with an
open answer. All lines of a target are scored alike: those that cannot be are left out
where most can, and else no answer is, and a person is told. A target is small, so it is
held whole. One that has test documents only is scored and drives no search.
"""

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cmtree_jax.data import store
from cmtree_jax.data.read import fields, files, jsonl, parquet
from cmtree_jax.data.read.fields import Row, Rules, Unusable
from cmtree_jax.types import Question, Skip, Target, UserError

_SPELLINGS = {**{split: split for split in store.SPLITS}, "valid": "validation"}
_TEXT = "text"
_QUESTION = ("context", "question", "choices", "answer")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Read(NamedTuple):
  """A target's file."""

  target: Target
  skips: list[Skip]  # lines that are not used
  notes: tuple[str, ...] = ()  # what else a person must be told


def read(address: str, rules: Rules) -> Read:
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
  items, others, notes = _scored_alike(path, items)
  skips += others
  _check_splits(path, items, skips)
  return Read(_target(path, items), skips, notes)


class _Item(NamedTuple):
  split: str
  where: str
  text: str
  question: Question | None
  unasked: str = ""  # why the answer that stands beside the text is not scored


def _open(address: str, rules: Rules) -> tuple[str, Iterator[Row | Skip]]:
  kind, _, path = address.partition(":")
  if kind not in ("jsonl", "parquet") or not path:
    path = address
    kind = "parquet" if address.endswith(".parquet") else "jsonl"
  path = os.path.expanduser(path)
  if kind == "jsonl":
    return path, jsonl.rows(path, rules)
  wanted = tuple(dict.fromkeys((rules.text_field, _TEXT, "split", *_QUESTION)))
  return path, parquet.rows(
    path, wanted, check=lambda schema: None, most=rules.max_document_bytes
  )


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
  # Targets may have a field of their own for texts, or that of the pool.
  if rules.text_field not in values and _TEXT in values:
    values = {**values, rules.text_field: values[_TEXT]}
  if values.get("choices") is None:
    text = fields.text_of(values, rules)
    asked = _open_question(values, text)
    if isinstance(asked, str):
      return _Item(split, row.where, text, None, asked)
    whole = asked.prompt + asked.choices[0]
    return _Item(split, row.where, whole, asked)
  question = _question(values)
  if values.get(rules.text_field) is None:
    text = question.prompt + question.choices[question.answer]
    values = {rules.text_field: text}
  return _Item(split, row.where, fields.text_of(values, rules), question)


def _open_question(values: Mapping[str, Any], text: str) -> Question | str:
  """What stands before the answer, and the answer; or why none is scored, perhaps "".

  White space between them goes to the answer: a word and the space before it are
  one token. White space after it is left out where the answer itself has none.
  """
  asked, came = values.get("question"), values.get("answer")
  if came is None or not str(came).strip() or came != came:  # not a number
    return ""
  answers = _spelled(came)
  if not answers:
    return "an answer that is neither text nor number"
  if not isinstance(asked, str) or not asked.strip():
    return "no 'question' beside the answer"
  for whole in (text, text.rstrip()):
    for answer in answers:
      if whole.endswith(answer):
        prompt = whole.removesuffix(answer).rstrip()
        return Question(prompt, (whole[len(prompt) :],), 0)
  return "a text that does not end with its answer"


def _spelled(answer: Any) -> tuple[str, ...]:
  """How an answer may stand in a text; tables make floats of whole numbers."""
  if isinstance(answer, bool) or not isinstance(answer, str | int | float):
    return ()
  if isinstance(answer, float) and float(answer).is_integer():
    return str(answer), str(int(answer))
  return tuple(dict.fromkeys((str(answer), str(answer).strip())))


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


def _scored_alike(
  path: str, items: list[_Item]
) -> tuple[list[_Item], list[Skip], tuple[str, ...]]:
  """Answers alone or whole texts, never both in one number.

  Returns:
    What is scored, what is left out of it, and what a person must be told.
  """
  asked = [item for item in items if item.question is not None]
  others = [item for item in items if item.question is None]
  if asked and len(asked) >= len(others):
    skips = [
      Skip(
        one.unasked or "no answer",
        one.where,
        f"wanted a text that ends with its answer, as that of {asked[0].where} does, "
        f"came {one.unasked or 'no answer'}; mend the line or drop it.",
      )
      for one in others
    ]
    return asked, skips, ()
  plain = [item._replace(question=None) for item in items]
  reasons = Counter(one.unasked for one in others if one.unasked)
  if not asked and not reasons:
    return plain, [], ()
  told = "; ".join(
    f"{count:,} times {reason}, first in "
    f"{next(one.where for one in others if one.unasked == reason)}"
    for reason, count in reasons.items()
  )
  if not told:
    told = f"{len(others):,} lines without an answer"
  note = (
    f"{path}: its {len(items):,} texts are scored whole, not on their answers "
    f"({told}). An answer is scored where most texts stand beside a 'question' and "
    "end with it."
  )
  return plain, [], (note,)


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
      x: tuple(one.question for one in found if one.question is not None)
      for x, found in of_split.items()
    }
  return Target(name, **texts, questions=questions)
