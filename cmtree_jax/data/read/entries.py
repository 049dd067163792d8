"""Lists of entries for methods that match them: words, one a line, or JSON."""

import json
import re
from pathlib import Path

from cmtree_jax.data.read import fields
from cmtree_jax.embed.entries import is_mark
from cmtree_jax.types import UserError

_SYNSET = re.compile(r"(.+)\.[nvasr]\.\d\d+")  # dog.n.01
_INDEX = re.compile(r"(\S+) [nvasr] \d+ .*")  # a line of WordNet's index.noun


def read(path: Path) -> tuple[str, ...]:
  """The entries of a file, each once, in their order.

  A file that ends in `.json` holds a list of strings, as MetaCLIP's metadata does.
  Any other has an entry a line; names of WordNet's synsets, "hot_dog.n.01", and lines
  of its index files, "hot_dog n 3 ...", stand for their words. Single signs of
  punctuation are left out: they match everything.

  Raises:
    UserError: there is no such file, it is no UTF-8, or holds no entry.
  """
  try:
    content = fields.decode(path.read_bytes())
  except OSError as error:
    raise UserError(
      f"{path}: wanted a file of entries, came {error.strerror}; write one entry a "
      "line."
    ) from error
  except fields.Unusable as problem:
    raise UserError(f"{path}: {problem}") from None
  if path.suffix == ".json":
    lines = _listed(path, content)
  else:
    # WordNet's own files begin with a license, whose lines begin with two blanks.
    lines = [_words(x) for x in content.splitlines() if not x.startswith("  ")]
  words = (" ".join(line.split()) for line in lines)
  found = tuple(
    dict.fromkeys(word for word in words if word and not is_mark(word))
  )
  if not found:
    raise UserError(f"{path}: wanted entries, came none; write one a line.")
  return found


def _words(line: str) -> str:
  """An entry as it stands in texts."""
  named = _SYNSET.fullmatch(line.strip()) or _INDEX.fullmatch(line.strip())
  return (named[1] if named else line).replace("_", " ")


def _listed(path: Path, content: str) -> list[str]:
  try:
    found = json.loads(content)
  except ValueError as error:
    raise UserError(
      f"{path}: wanted a JSON list of strings, came invalid JSON ({error})."
    ) from None
  if not isinstance(found, list):
    raise UserError(
      f"{path}: wanted a JSON list of strings, came {fields.short(found)}."
    )
  for number, one in enumerate(found, 1):
    if not isinstance(one, str):
      raise UserError(
        f"{path}: wanted a JSON list of strings, came {fields.short(one)} as entry "
        f"{number}."
      )
  return found
