"""What a workdir lacks, or holds damaged: a line for each file, with what cures it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cmtree_jax.recipe import assign
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.report import metrics
from cmtree_jax.types import UserError

_T = TypeVar("_T")

COMPARISON_FILE = "comparison.json"
RESTORE = "Restore it from a copy, or run its job anew with --overwrite."
REMOVE = "Remove it: the page is made without it."

_KEYS = {"loop", "run", "step"}  # of a line of metrics.jsonl


class Lack(NamedTuple):
  """A file that is not there, or not whole, and that the page can do without."""

  section: str  # of the page, where it is told
  line: str


def checked(
  path: Path, read: Callable[[Path], _T], *, cure: str = RESTORE
) -> _T:
  """What a file holds.

  Args:
    path: of the file, which the error names.
    read: reads it.
    cure: a sentence.
  Raises:
    UserError: it cannot be read.
  """
  try:
    return read(path)
  except UserError:
    raise
  except KeyError as error:
    raise UserError(f"{path} is damaged: it has no {error}. {cure}") from error
  except (
    AttributeError,
    IndexError,
    OSError,
    TypeError,
    ValueError,
  ) as error:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    raise UserError(f"{path} is damaged: {why}. {cure}") from error


def whole(path: Path, *names: str, cure: str = RESTORE) -> dict[str, Any]:
  """The object that a file of JSON holds; empty where there is no file.

  Args:
    path: of the file.
    names: that it must have.
    cure: a sentence.
  Raises:
    UserError: it cannot be read, or lacks a name; an object of nothing is refused.
  """

  def read(path: Path) -> dict[str, Any]:
    told = json.loads(path.read_text("utf-8"))
    if not isinstance(told, Mapping) or not told:
      raise ValueError(f"wanted an object with names, came {str(told)[:40]}")
    for name in names:
      told[name]
    return dict(told)

  return checked(path, read, cure=cure) if path.is_file() else {}


def lacks(folder: Path, *, rows: bool) -> Iterator[Lack]:
  """What a job of this kind leaves and this workdir does not hold, or not whole.

  Args:
    folder: of the job.
    rows: whether it scored methods.
  """
  # A seal binds a recipe to its documents; the job writes the other two after both.
  made = (folder / recipes.FILE).is_file()
  documents = (folder / assign.DOCUMENTS_FILE).is_file()
  wanted = (
    (
      made and rows,
      COMPARISON_FILE,
      "Results",
      "the table below is from results.parquet",
    ),
    (made, assign.DOCUMENTS_FILE, "Repeats", "no weights of documents, no map"),
    (documents, "sample.parquet", "Map", "no map, no documents of leaves"),
    (made, "summary.json", "Costs", "no time, memory and commit"),
  )
  for is_wanted, name, section, without in wanted:
    if is_wanted and not (folder / name).is_file():
      line = f"{folder / name} is missing: {without}. {RESTORE}"
      yield Lack(section, line)
  path = folder / metrics.FILE
  if path.is_file() and (line := _bad_line(path)):
    yield Lack("Search", line)


def _bad_line(path: Path) -> str:
  """The first line of metrics.jsonl that is none; "" where all are whole."""
  lines = path.read_bytes().splitlines(keepends=True)
  for number, line in enumerate(lines, 1):
    if not line.endswith(b"\n"):  # the job was killed while it wrote
      break
    try:
      told = json.loads(line)
      why = "" if isinstance(told, dict) and told.keys() >= _KEYS else "no step"
    except ValueError as error:
      why = str(error)
    if why:
      return (
        f"{path} is damaged in line {number}: {why}. The page does not need it; "
        "remove the line before the job goes on."
      )
  return ""
