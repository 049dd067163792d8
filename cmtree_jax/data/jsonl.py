"""Reads a corpus and its targets from local JSON-lines files, plain or gzip.

One JSON object per line; lines of white space only hold no document. A pool line
needs a text; `id`, `source`, `domain`, `lang` and `orig` (or `original`) are
optional. A target is a file of its own, named after it, whose lines hold a text
and a `split`. Lines that hold no usable document are skipped, counted and told
in `RawCorpus.notes`; what makes the whole file doubtful stops at once.
"""

import gzip
import json
import pathlib
import re
import reprlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from cmtree_jax.types import Document, Label, RawCorpus, Target, UserError

_SPLITS = {
  "train": "train",
  "validation": "validation",
  "valid": "validation",
  "test": "test",
}
_ESCAPE = 6  # bytes of the longest JSON escape of one byte of text: \u0041
_OTHER_FIELDS = 1 << 20  # bytes of a line that may be something else than text
_LINES_TOLD = 5  # line numbers named for each kind of skip

_Row = TypeVar("_Row")


def read(
  pool: pathlib.Path,
  targets: Sequence[pathlib.Path],
  *,
  text_field: str = "text",
  id_field: str = "id",
  source_field: str = "source",
  max_document_bytes: int = 10_000_000,
  strict: bool = False,
) -> RawCorpus:
  """The corpus of one pool file and of one file for each target.

  Args:
    pool: the file of the documents to divide and to weigh.
    targets: the files of the targets; a target is called after its file, less
      the extensions .jsonl, .ndjson, .json and .gz.
    text_field: name of the field that holds the text, in every file.
    id_field: name of the field that holds a document's id; a line without one
      is called `<file name>:<line number>`.
    source_field: name of the field that holds the hidden source label.
    max_document_bytes: longest text taken, in bytes of UTF-8.
    strict: stop at the first line that would be skipped.
  Returns:
    Documents sorted by id, with labels if any line has one.
  Raises:
    UserError: a file is missing, damaged or holds no document, an id comes
      twice, a split is unknown or missing; if strict, any unusable line.
  """
  notes: list[str] = []
  rules = _Rules(text_field, max_document_bytes, strict)
  documents, labels = _read_pool(
    pathlib.Path(pool), id_field, source_field, rules=rules, notes=notes
  )
  found: dict[str, Target] = {}
  for path in map(pathlib.Path, targets):
    target = _read_target(path, rules=rules, notes=notes)
    if target.name in found:
      raise UserError(
        f"{path}: wanted one file per target, came a second one called "
        f"{target.name!r}; rename one of them."
      )
    found[target.name] = target
  return RawCorpus(documents, found, labels, tuple(notes))


class _Rules(NamedTuple):
  """What makes a line usable."""

  text_field: str
  max_document_bytes: int
  strict: bool


class _Unusable(Exception):
  """A line without a usable document: `kind` is counted, the message told."""

  def __init__(self, kind: str, message: str):
    super().__init__(message)
    self.kind = kind


def _read_pool(
  path: pathlib.Path,
  id_field: str,
  source_field: str,
  *,
  rules: _Rules,
  notes: list[str],
) -> tuple[tuple[Document, ...], tuple[Label, ...] | None]:
  def parse(record: dict[str, Any], text: str, number: int):
    name = _string(record, id_field) or f"{path.name}:{number}"
    original = _string(record, "orig") or _string(record, "original") or name
    hidden = [_string(record, x) for x in (source_field, "domain", "lang")]
    return Document(name, text, original), Label(*(x or "" for x in hidden))

  line_of: dict[str, int] = {}
  pairs: list[tuple[Document, Label]] = []
  for number, (document, label) in _rows(path, parse, rules=rules, notes=notes):
    if document.id in line_of:
      raise UserError(
        f"{path}, line {number}: wanted an {id_field!r} that is used once, came "
        f"{_short(document.id)} again (first in line {line_of[document.id]}); "
        "make the ids unique or leave them out."
      )
    line_of[document.id] = number
    pairs.append((document, label))
  pairs.sort(key=lambda pair: pair[0].id)
  documents = tuple(document for document, _ in pairs)
  known = any(any(label) for _, label in pairs)
  return documents, tuple(label for _, label in pairs) if known else None


def _read_target(
  path: pathlib.Path, *, rules: _Rules, notes: list[str]
) -> Target:
  def parse(record: dict[str, Any], text: str, number: int):
    split = record.get("split")
    if not isinstance(split, str) or split not in _SPLITS:
      raise UserError(
        f"{path}, line {number}: wanted a 'split' out of train, validation and "
        f"test, came {_shown(record, 'split')}; give every line of a target its "
        "split."
      )
    return _SPLITS[split], text

  texts: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
  for _, (split, text) in _rows(path, parse, rules=rules, notes=notes):
    texts[split].append(text)
  for split, of_split in texts.items():
    if not of_split:
      came = ", ".join(f"{len(texts[s])} {s}" for s in texts)
      raise UserError(
        f"{path}: wanted documents in every split, came none for {split!r} "
        f'({came}); mark some lines with "split": "{split}".'
      )
  name = re.sub(r"(\.(jsonl|ndjson|json|gz))+$", "", path.name)
  return Target(name, **{split: tuple(x) for split, x in texts.items()})


def _rows(
  path: pathlib.Path,
  parse: Callable[[dict[str, Any], str, int], _Row],
  *,
  rules: _Rules,
  notes: list[str],
) -> Iterator[tuple[int, _Row]]:
  """Yields (line number, parsed line); at the end appends notes of the skips."""
  skipped: dict[str, list[int]] = {}
  number, used = 0, 0
  for number, line in _lines(path, rules.max_document_bytes):
    try:
      if line is not None and not line.strip():
        continue
      record = _record(line, rules)
      row = parse(record, _text(record, rules), number)
    except _Unusable as problem:
      if rules.strict:
        raise UserError(f"{path}, line {number}: {problem}") from None
      skipped.setdefault(problem.kind, []).append(number)
    else:
      used += 1
      yield number, row
  told = [
    f"{path}: skipped {len(at)} of {number} lines, {kind}: {_numbers(at)}."
    for kind, at in skipped.items()
  ]
  if not used:
    raise UserError(
      f"{path}: wanted at least one document, came none in {number} lines; "
      "give one JSON object per line, such as "
      f'{{"{rules.text_field}": "..."}}. {" ".join(told)}'.rstrip()
    )
  notes.extend(told)


def _lines(
  path: pathlib.Path, max_document_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
  """Yields (line number, line), None for one too long to hold a fit document.

  Such a line is read in pieces that are forgotten, so that memory is bounded.
  """
  limit = _ESCAPE * max_document_bytes + _OTHER_FIELDS
  number = 0
  try:
    with open(path, "rb") as file:
      is_gzip = file.peek(2)[:2] == b"\x1f\x8b"  # whatever the file is called
      stream = gzip.GzipFile(fileobj=file) if is_gzip else file
      while piece := stream.readline(limit):
        number += 1
        whole = len(piece) < limit or piece.endswith(b"\n")
        yield number, piece if whole else None
        while len(piece) == limit and not piece.endswith(b"\n"):
          piece = stream.readline(limit)
  except FileNotFoundError:
    raise UserError(
      f"{path}: wanted a JSON-lines file, came no file; check the path."
    ) from None
  except EOFError:
    raise UserError(
      f"{path}: wanted a whole gzip file, came one that ends early, after line "
      f"{number}; copy or make it again."
    ) from None
  except (gzip.BadGzipFile, zlib.error) as error:
    raise UserError(
      f"{path}: wanted a sound gzip file, came one that is damaged after line "
      f"{number} ({error}); copy or make it again."
    ) from None
  except OSError as error:
    raise UserError(
      f"{path}: wanted a readable file, came {error.strerror!r}; check the path "
      "and its permissions."
    ) from None


def _record(line: bytes | None, rules: _Rules) -> dict[str, Any]:
  if line is None:
    raise _too_large("a longer line", rules)
  try:
    text = line.decode("utf-8-sig")  # the mark that some editors write first
  except UnicodeDecodeError as error:
    raise _Unusable(
      "invalid UTF-8",
      f"wanted UTF-8, came byte 0x{line[error.start]:02x} at position "
      f"{error.start} after {_short(line[: error.start].decode()[-20:])}; "
      "convert the file to UTF-8.",
    ) from None
  try:
    record = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise _Unusable(
      "invalid JSON",
      f"wanted a JSON object, came {_short(text.strip())} ({error}); write one "
      "whole object per line.",
    ) from None
  if not isinstance(record, dict):
    raise _Unusable(
      "no JSON object",
      f"wanted a JSON object, came {_short(record)}; write one object per line, "
      f'such as {{"{rules.text_field}": "..."}}.',
    )
  return record


def _text(record: dict[str, Any], rules: _Rules) -> str:
  field = rules.text_field
  text = record.get(field)
  if not isinstance(text, str):
    raise _Unusable(
      f"no text in the field {field!r}",
      f"wanted a string in the field {field!r}, came {_shown(record, field)}; "
      "name the field that holds the text, or drop the line.",
    )
  if not text.strip():
    raise _Unusable(
      "an empty text",
      f"wanted a text in the field {field!r}, came {_short(text)}; drop the "
      "line.",
    )
  size = len(_encoded(text, field))
  if size > rules.max_document_bytes:
    raise _too_large(f"{size:,}", rules)
  return text


def _string(record: dict[str, Any], field: str) -> str | None:
  """A short field; whole numbers are common as ids and are taken as text."""
  value = record.get(field)
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  if value is not None and not isinstance(value, str):
    raise _Unusable(
      f"no string in the field {field!r}",
      f"wanted a string or nothing in the field {field!r}, came "
      f"{_shown(record, field)}; write it as a string.",
    )
  _encoded(value or "", field)
  return value


def _encoded(value: str, field: str) -> bytes:
  """UTF-8; JSON can spell half a surrogate pair, which no file can hold."""
  try:
    return value.encode()
  except UnicodeEncodeError as error:
    raise _Unusable(
      "invalid Unicode",
      f"wanted Unicode in the field {field!r}, came half a surrogate pair "
      f"({value[error.start]!r} at position {error.start}); write the line again "
      "from its source.",
    ) from None


def _too_large(came: str, rules: _Rules) -> _Unusable:
  limit = f"{rules.max_document_bytes:,}"
  return _Unusable(
    f"a text over {limit} bytes",
    f"wanted a text of at most {limit} bytes, came {came}; cut it into "
    "documents or raise max_document_bytes.",
  )


def _numbers(at: list[int]) -> str:
  first = ", ".join(map(str, at[:_LINES_TOLD]))
  return (
    f"line{'s'[: len(at) > 1]} {first}{', ...' if at[_LINES_TOLD:] else ''}"
  )


def _shown(record: dict[str, Any], field: str) -> str:
  return _short(record[field]) if field in record else "no such field"


def _short(value: Any) -> str:
  short = reprlib.Repr()
  short.maxstring = short.maxother = 60
  return short.repr(value)
