"""Text files, one document each, plain, gzip or zstd; a part is one folder.

A file's path below the first folder of the pattern that is no wildcard is its id
and its original; the folder that it lies in is its hidden source label.
"""

import glob
import os
import posixpath
from collections.abc import Iterator

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Rules, Unusable
from cmtree_jax.types import Record, UserError


def parts(pattern: str) -> list[Part]:
  """One part per folder that holds a match."""
  pattern = os.path.expanduser(pattern)
  last = posixpath.basename(pattern)
  if last in ("", "**") or os.path.isdir(pattern):
    raise UserError(
      f"text:{pattern}: wanted a pattern of files, came one of folders; give one "
      f"that ends in a file, such as {_base(pattern)}/**/*.txt."
    )
  base = _base(pattern)
  if os.path.lexists(pattern):
    base, last = posixpath.dirname(pattern), glob.escape(last)
  folders = {posixpath.dirname(path) for path in _files(pattern)}
  return [
    Part(
      "text",
      # The folder stands for itself, whatever characters it is called by.
      posixpath.join(glob.escape(folder), last),
      _join(posixpath.relpath(folder or ".", base or "."), last),
    )
    for folder in sorted(folders)
  ]


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The files of a folder, by name."""
  for path in _files(part.path):
    try:
      yield _record(path, part, rules)
    except Unusable as problem:
      yield problem.at(path)


def digest(part: Part) -> str:
  """A hash of the names and bytes of all files."""
  return files.digest_of(_files(part.path))


def _files(pattern: str) -> list[str]:
  """Paths that match and are no folders; those are no documents."""
  found = files.find(pattern)
  kept = [
    path for path in found if files.is_remote(path) or not os.path.isdir(path)
  ]
  if not kept:
    raise UserError(
      f"text:{pattern}: wanted files, came {len(found)} folders; go one level "
      "deeper with /*."
    )
  return kept


def _record(path: str, part: Part, rules: Rules) -> Record:
  with files.opened(path) as stream:
    data = stream.read(rules.max_document_bytes + 1)
  if len(data) > rules.max_document_bytes:
    raise fields.too_large("a larger file", rules)
  text = fields.text_of({rules.text_field: data}, rules)
  name = _join(posixpath.dirname(part.name), posixpath.basename(path))
  source = posixpath.basename(posixpath.dirname(posixpath.abspath(path)))
  return Record(name, text, name, source, "", "", path)


def _base(pattern: str) -> str:
  """The folders of a pattern before its first wildcard."""
  folder = posixpath.dirname(pattern)
  while glob.has_magic(folder):
    folder = posixpath.dirname(folder)
  return folder


def _join(folder: str, name: str) -> str:
  return posixpath.normpath(posixpath.join(folder, name))
