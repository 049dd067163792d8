"""What every source asks of a document's fields, and how it says what is wrong.

The readers of this folder hand over rows of named values, whatever file they
come from; here a row becomes a `Record`, or the `Skip` that tells why not.
"""

import codecs
import importlib
import numbers
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple

from cmtree_jax.types import LostLabel, Record, Skip, UserError

# What reading a part gives: documents, and what is wrong with others or their labels.
Found = Record | Skip | LostLabel


class Rules(NamedTuple):
  """Where a source finds what, and how much of it is taken."""

  text_field: str
  id_field: str
  source_field: str
  max_document_bytes: int  # in UTF-8


class Part(NamedTuple):
  """What one worker reads on its own: a file, a folder or a split."""

  kind: str
  path: str
  name: str  # short, and unique among the parts of a corpus


class Row(NamedTuple):
  """Named values as they stand in a file."""

  number: int  # counted from 1
  where: str  # "pool.jsonl, line 7"
  values: Mapping[str, Any]


class TooLong(NamedTuple):
  """Stands for a string that no document may hold, so that it is never made."""

  size: int  # bytes


class Unusable(Exception):
  """Something holds no usable document: `kind` is counted, the message told."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind

  def at(self, where: str, documents: int = 1) -> Skip:
    """What is counted and told of a row, or of so many; of an empty file, too."""
    return Skip(self.kind, where, str(self), max(documents, 1))


def record_fields(rules: Rules) -> tuple[str, ...]:
  """The fields of a row that `records` reads."""
  return tuple(
    dict.fromkeys((rules.text_field, rules.id_field, *_labels(rules)))
  )


def records(
  rows: Iterable[Row | Skip], part: Part, rules: Rules
) -> Iterator[Found]:
  """One record, or the reason why there is none, for every row.

  Labels are hidden from all learners. One that is no string is left out and told; its
  text is no worse for it.
  """
  for row in rows:
    if isinstance(row, Skip):
      yield row
      continue
    try:
      record, lost = _record(row, part, rules)
    except Unusable as problem:
      yield problem.at(row.where)
    else:
      yield record
      yield from lost


def text_of(values: Mapping[str, Any], rules: Rules) -> str:
  """The text of a row.

  Raises:
    Unusable: it is none, blank, or over the largest size.
  """
  field = rules.text_field
  text = values.get(field)
  if isinstance(text, bytes):
    text = decode(text)
  if isinstance(text, TooLong):
    raise too_large(f"{text.size:,}", rules)
  if not isinstance(text, str):
    raise Unusable(
      f"no text in the field {field!r}",
      f"wanted a string in the field {field!r}, came {shown(values, field)}; "
      "name the field that holds the text, or drop the document.",
    )
  if not text.strip():
    raise Unusable(
      "an empty text",
      f"wanted a text in the field {field!r}, came {short(text)}; drop the "
      "document.",
    )
  size = len(_encoded(text, field))
  if size > rules.max_document_bytes:
    raise too_large(f"{size:,}", rules)
  return text


def string_of(values: Mapping[str, Any], field: str) -> str | None:
  """A short field, such as an id; a whole number is taken as text.

  Raises:
    Unusable: it is neither.
  """
  value = values.get(field)
  if isinstance(value, numbers.Integral) and not isinstance(value, bool):
    return str(int(value))
  if isinstance(value, bytes):
    value = decode(value)
  if value is not None and not isinstance(value, str):
    raise Unusable(
      f"no string in the field {field!r}",
      f"wanted a string or nothing in the field {field!r}, came "
      f"{shown(values, field)}; write it as a string.",
    )
  _encoded(value or "", field)
  return value


def decode(data: bytes) -> str:
  """UTF-8 to text, without the mark that some editors write first.

  Raises:
    Unusable: the bytes are something else.
  """
  data = data.removeprefix(codecs.BOM_UTF8)
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    before = data[: error.start].decode()[-20:]
    raise Unusable(
      "invalid UTF-8",
      f"wanted UTF-8, came byte 0x{data[error.start]:02x} at position "
      f"{error.start} after {short(before)}; convert it to UTF-8.",
    ) from None


def too_large(came: str, rules: Rules) -> Unusable:
  """What is raised for a document over the largest size."""
  limit = f"{rules.max_document_bytes:,}"
  return Unusable(
    f"a text over {limit} bytes",
    f"wanted a text of at most {limit} bytes, came {came}; cut it into "
    "documents or raise max_document_bytes.",
  )


def shown(values: Mapping[str, Any], field: str) -> str:
  """A field's value for a message."""
  return short(values[field]) if field in values else "no such field"


def short(value: Any) -> str:
  """The beginning and end of anything, in one line of a message."""
  printer = reprlib.Repr()
  printer.maxstring = printer.maxother = 60
  return " ".join(printer.repr(value).split("\n"))


def library(name: str, extra: str) -> ModuleType:
  """An optional package, imported now.

  Raises:
    UserError: it is not installed.
  """
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise UserError(
      f"This source wants the package {name}, came {error}; install it with "
      f'pip install "cmtree_jax[{extra}]".'
    ) from None


_ORIGINAL = ("orig", "original")


_LANGUAGE = ("lang", "language")


def _labels(rules: Rules) -> tuple[str, ...]:
  return (*_ORIGINAL, rules.source_field, "domain", *_LANGUAGE)


def _record(
  row: Row, part: Part, rules: Rules
) -> tuple[Record, list[LostLabel]]:
  """A row's document, and the labels that it has lost."""
  values = row.values
  text = text_of(values, rules)
  name = string_of(values, rules.id_field) or f"{part.name}:{row.number}"
  labels, lost = [], []
  for field in _labels(rules):
    try:
      labels.append(string_of(values, field) or "")
    except Unusable as problem:
      labels.append("")
      lost.append(LostLabel(problem.kind, row.where, str(problem)))
  orig, original, source, domain, lang, language = labels
  record = Record(
    name,
    text,
    orig or original or name,
    source,
    domain,
    lang or language,
    row.where,
  )
  return record, lost


def _encoded(value: str, field: str) -> bytes:
  """UTF-8; JSON can spell half a surrogate pair, which no file can hold."""
  try:
    return value.encode()
  except UnicodeEncodeError as error:
    raise Unusable(
      "invalid Unicode",
      f"wanted Unicode in the field {field!r}, came half a surrogate pair "
      f"({value[error.start]!r} at position {error.start}); write the document "
      "again from its source.",
    ) from None
