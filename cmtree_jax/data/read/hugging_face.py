"""Data sets that Hugging Face `datasets` saved on disk; a part is one split."""

import glob
import json
from collections.abc import Iterator

from cmtree_jax.data.read import fields, files, parquet
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip, UserError


def parts(folder: str) -> list[Part]:
  """One part per split of a folder that `save_to_disk` wrote.

  Raises:
    UserError: it wrote none, or `datasets` is not installed.
  """
  fields.library("datasets", "hf")
  from etils import epath

  path = epath.Path(folder).expanduser()
  if (path / "state.json").exists():
    return [Part("hf", str(path), path.name)]
  try:
    splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
  except (OSError, ValueError, KeyError):
    raise UserError(
      f"hf:{folder}: wanted a folder that Dataset.save_to_disk wrote, came one "
      "without state.json and dataset_dict.json; check the path."
    ) from None
  return [
    Part("hf", str(path / split), f"{path.name}/{split}")
    for split in sorted(splits)
  ]


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a split; one without an id is `<part name>:<row>`."""
  return fields.records(_rows(part.path, rules), part, rules)


def digest(part: Part) -> str:
  """A hash of all files of the split."""
  return files.digest_of(files.find(f"{glob.escape(part.path)}/*"))


def _rows(path: str, rules: Rules) -> Iterator[Row | Skip]:
  datasets = fields.library("datasets", "hf")
  number, num_rows = 0, 1
  if _is_without_rows(path):
    return
  try:
    found = datasets.load_from_disk(path)
    num_rows = len(found)
    parquet.check_columns(found.features.arrow_schema, rules)
    names = [x for x in fields.record_fields(rules) if x in found.column_names]
    tables = found.select_columns(names).with_format("arrow")
    for table in tables.iter(batch_size=parquet.ROWS):
      for batch in table.to_batches():
        for values in parquet.values_of(batch, names):
          number += 1
          yield Row(number, f"{path}, row {number}", values)
  except Unusable as problem:
    yield problem.at(path, num_rows)
  # pyarrow's own errors derive from these.
  except (ValueError, OSError, LookupError) as error:
    where = f"{path}, after row {number}" if number else path
    yield files.damaged(error).at(where, num_rows - number)


def _is_without_rows(path: str) -> bool:
  """Whether a split was saved without a row, which `datasets` itself cannot load."""
  from etils import epath

  try:
    state = json.loads((epath.Path(path) / "state.json").read_text())
    return state["_data_files"] == []
  except (OSError, ValueError, LookupError, TypeError):
    return False  # loading it tells what is wrong
