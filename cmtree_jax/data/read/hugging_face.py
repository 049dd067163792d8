"""Data sets that Hugging Face `datasets` saved on disk; a part is one split."""

import contextlib
import glob
import json
import os
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
  number, num_rows, most = 0, 1, rules.max_document_bytes
  if _is_without_rows(path):
    return
  try:
    found = datasets.load_from_disk(path)
    num_rows = len(found)
    parquet.check_columns(found.features.arrow_schema, rules)
    names = [x for x in fields.record_fields(rules) if x in found.column_names]
    paths = [] if files.is_remote(path) else _arrow_files(path)
    meter = files.Meter(sum(map(os.path.getsize, paths)))
    tables = found.select_columns(names).with_format("arrow")
    for table in tables.iter(batch_size=parquet.ROWS):
      for batch in table.to_batches():
        for values in parquet.values_of(batch, names, meter, most=most):
          number += 1
          yield Row(number, f"{path}, row {number}", values)
    for one in paths:
      _require_end(one)
  except Unusable as problem:
    yield problem.at(path, num_rows - number)
  except Exception as error:  # of damaged files: of many types
    where = f"{path}, after row {number}" if number else path
    yield files.damaged(error).at(where, num_rows - number)


def _arrow_files(path: str) -> list[str]:
  return files.find(f"{glob.escape(path)}/*.arrow")


def _require_end(file: str) -> None:
  """Refuses a file that goes on where a reader takes it to end, or that has no end.

  How many rows there should be nobody says: `dataset_info.json` has the number that
  its data set had before it was filtered.

  Raises:
    Unusable: what it held is unknown.
  """
  import pyarrow as pa

  with pa.memory_map(file) as source:
    messages = pa.ipc.MessageReader.open_stream(source)
    with contextlib.suppress(StopIteration):
      while True:
        messages.read_next_message()
    end, size = source.tell(), source.size()
    source.seek(max(0, size - len(_END_OF_STREAM)))
    is_whole = end == size and source.read() == _END_OF_STREAM
  if not is_whole:
    raise files.damaged(f"{file} ends at byte {end:,} of {size:,}")


_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


def _is_without_rows(path: str) -> bool:
  """Whether a split was saved without a row, which `datasets` itself cannot load."""
  from etils import epath

  try:
    state = json.loads((epath.Path(path) / "state.json").read_text())
    return state["_data_files"] == []
  except (OSError, ValueError, LookupError, TypeError):
    return False  # loading it tells what is wrong
