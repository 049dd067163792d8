"""JSON-lines files, plain, gzip or zstd: one JSON object per line.

A line needs a text; `id`, `source`, `domain`, `lang` and `orig` (or `original`)
are optional. Lines of white space only hold no document.
"""

import json
from collections.abc import Iterator
from typing import Any

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip

_ESCAPE = 6  # bytes of the longest JSON escape of one byte of text: \u0041
_OTHER_FIELDS = 1 << 20  # bytes of a line that may be something else than text


def parts(pattern: str) -> list[Part]:
  """One part per file."""
  return files.parts("jsonl", pattern)


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a file; a line without an id is `<part name>:<line>`."""
  return fields.records(rows(part.path, rules), part, rules)


def rows(path: str, rules: Rules) -> Iterator[Row | Skip]:
  """The objects of a file, and at the end why it could not be read further."""
  number = 0
  try:
    for number, line in _lines(path, rules.max_document_bytes):
      where = f"{path}, line {number}"
      if line is not None and not line.strip():
        continue
      try:
        yield Row(number, where, _parsed(line, rules))
      except Unusable as problem:
        yield problem.at(where)
  except Unusable as problem:
    yield problem.at(f"{path}, after line {number}" if number else path)


def _lines(
  path: str, max_document_bytes: int
) -> Iterator[tuple[int, bytes | None]]:
  """Yields (line number, line), None for one too long to hold a fit document.

  Such a line is read in pieces that are forgotten, so that memory is bounded.
  """
  limit = _ESCAPE * max_document_bytes + _OTHER_FIELDS
  number = 0
  with files.opened(path) as stream:
    while piece := stream.readline(limit):
      number += 1
      whole = len(piece) < limit or piece.endswith(b"\n")
      yield number, piece if whole else None
      while len(piece) == limit and not piece.endswith(b"\n"):
        piece = stream.readline(limit)


def _parsed(line: bytes | None, rules: Rules) -> dict[str, Any]:
  if line is None:
    raise fields.too_large("a longer line", rules)
  text = fields.decode(line)
  try:
    record = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise Unusable(
      "invalid JSON",
      f"wanted a JSON object, came {fields.short(text.strip())} ({error}); "
      "write one whole object per line.",
    ) from None
  if not isinstance(record, dict):
    raise Unusable(
      "no JSON object",
      f"wanted a JSON object, came {fields.short(record)}; write one object per "
      f'line, such as {{"{rules.text_field}": "..."}}.',
    )
  return record
