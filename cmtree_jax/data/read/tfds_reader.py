"""TFDS data sets that are on disk already, read without TensorFlow.

Nothing is prepared or fetched here; `tfds_builder` makes a data set out of other
sources.
"""

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip, UserError

# A split begins with a letter, which tells it from a version such as 1.0.0.
_SPLIT = r"(?P<split>[A-Za-z]\w*(\[[^\]]*\])?)"
_ADDRESS = re.compile(rf"(?P<name>.+?)(:{_SPLIT})?(@(?P<data_dir>.+))?")
_PATH = re.compile(rf"(?P<folder>.+?):{_SPLIT}")
_INFO = "dataset_info.json"


def parts(address: str) -> list[Part]:
  """One part per split of `NAME_OR_FOLDER[/CONFIG][:SPLIT][@DATA_DIR]`.

  Args:
    address: a folder that holds a data set, or the name of one that lies in the
      data folder of TFDS or in DATA_DIR.
  Raises:
    UserError: it is not there, or in a form without random access.
  """
  match = _ADDRESS.fullmatch(address)
  if match is None:
    raise UserError(
      f"tfds:{address}: wanted NAME_OR_FOLDER[:SPLIT][@DATA_DIR], came no name; "
      "give tfds:folder or tfds:name."
    )
  builder = _load(_folder(match["name"], match["data_dir"], address), address)
  known = list(builder.info.splits)
  splits = [match["split"]] if match["split"] else sorted(known)
  for split in splits:
    _check_split(builder, split, known, address)
  folder = str(builder.data_dir)
  return [
    Part("tfds", f"{folder}:{split}", f"{builder.info.name}:{split}")
    for split in splits
  ]


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a split; one without an id is `<part name>:<row>`."""
  return fields.records(_rows(part.path, rules), part, rules)


def digest(part: Part) -> str:
  """A hash of the files that the split lies in."""
  folder, split = _folder_and_split(part.path)
  info = _load(folder, part.path).info
  shards = [x.filename for x in info.splits[split].file_instructions]
  features = posixpath.join(folder, "features.json")
  return files.digest_of([features, *map(str, shards)])


def _rows(path: str, rules: Rules) -> Iterator[Row | Skip]:
  folder, split = _folder_and_split(path)
  number, num_rows = 0, 1
  try:
    builder = _load(folder, path)
    num_rows = builder.info.splits[split].num_examples
    _check_features(list(builder.info.features), rules)
    wanted = fields.record_fields(rules)
    documents = builder.as_data_source(split)
    for number in range(1, len(documents) + 1):
      found = documents[number - 1]
      if all(value is None for value in found.values()):
        # What the reader makes of a file that ends where a block does.
        raise EOFError("a record without content")
      values = {name: found[name] for name in wanted if name in found}
      yield Row(number, f"{path}, row {number}", values)
    number += 1  # the first that is not there
    if number <= num_rows:
      raise EOFError("fewer records than the split should have")
  except UserError as error:
    yield Skip(files.UNREADABLE, path, str(error))
  except Unusable as problem:
    yield problem.at(path, num_rows)
  # The library and its record reader tell damage by errors of many types.
  except Exception as error:
    where = f"{path}, row {number}" if number else path
    yield files.damaged(error).at(where, num_rows - max(number - 1, 0))


def _folder_and_split(path: str) -> tuple[str, str]:
  match = _PATH.fullmatch(path)
  assert match is not None, path
  return match["folder"], match["split"]


def _check_features(names: list[str], rules: Rules) -> None:
  field = rules.text_field
  if field not in names:
    raise Unusable(
      f"no text in the field {field!r}",
      f"wanted a feature {field!r}, came {fields.short(names)}; name the one "
      "that holds the text.",
    )


def _folder(name: str, data_dir: str | None, address: str) -> str:
  """The folder of one version of a data set."""
  from etils import epath

  folder = epath.Path(name).expanduser()
  if data_dir is None and (folder / _INFO).exists():
    return str(folder)
  if data_dir is None and folder.is_dir():
    return _newest(folder, address)
  fields.library("tensorflow_datasets", "all")
  from tensorflow_datasets.core import read_only_builder, registered

  try:
    builder = read_only_builder.builder_from_files(name, data_dir=data_dir)
  except (registered.DatasetNotFoundError, ValueError):
    raise UserError(
      f"tfds:{address}: wanted a data set that is on disk, came no folder and "
      f"none called {name!r} in {data_dir or 'the data folder of TFDS'}; prepare "
      "it with file_format=array_record, or give its folder."
    ) from None
  return str(builder.data_dir)


def _newest(folder: Any, address: str) -> str:
  """The highest version below a data set's folder."""
  import tensorflow_datasets as tfds

  # A glob would take what the folder itself is called for a pattern.
  versions = {
    tfds.core.Version(path.name): path
    for path in folder.iterdir()
    if tfds.core.Version.is_valid(path.name) and (path / _INFO).exists()
  }
  if not versions:
    raise UserError(
      f"tfds:{address}: wanted a folder with {_INFO}, or with versions that have "
      "one, came neither; give the folder of one version or configuration."
    )
  return str(versions[max(versions)])


def _load(folder: str, address: str) -> Any:
  tfds = fields.library("tensorflow_datasets", "all")
  from tensorflow_datasets.core import file_adapters

  try:
    builder = tfds.builder_from_directory(folder)
    formats = builder.info.available_file_formats()
  except Exception as error:  # a damaged file of settings may raise anything
    raise UserError(
      f"tfds:{address}: wanted a sound data set, came {fields.short(str(error))};"
      " copy or prepare it again."
    ) from None
  fit = file_adapters.FileFormat.with_random_access()
  if not formats & fit:
    came = ", ".join(sorted(x.value for x in formats)) or "none"
    raise UserError(
      f"tfds:{address}: wanted the file format array_record, came {came}; "
      "convert it with python -m tensorflow_datasets.scripts.convert_format."
    )
  return builder


def _check_split(
  builder: Any, split: str, known: list[str], address: str
) -> None:
  try:
    _ = builder.info.splits[split].num_examples
  except (KeyError, ValueError):
    raise UserError(
      f"tfds:{address}: unknown split {split!r}. Known: {', '.join(known)}."
    ) from None
