"""Parquet files, a few rows of one row group at a time.

The columns are called as the fields of a JSON line are; others are not read.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip

ROWS = 64  # read together; more is hardly faster


def parts(pattern: str) -> list[Part]:
  """One part per file."""
  return files.parts("parquet", pattern)


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a file; a row without an id is `<part name>:<row>`."""
  wanted = fields.record_fields(rules)
  found = rows(part.path, wanted, check=lambda x: check_columns(x, rules))
  return fields.records(found, part, rules)


def rows(
  path: str, wanted: Sequence[str], *, check: Callable[[Any], None]
) -> Iterator[Row | Skip]:
  """The rows of a file, and why others of it could not be read.

  Args:
    path: the file.
    wanted: columns that are read if they are there.
    check: raises `Unusable` for a schema that will not do.
  """
  import pyarrow as pa
  import pyarrow.parquet as pq

  num_rows = 1  # of a file that says nothing of them
  try:
    with files.raw(path) as file:
      # Given a Python file, Arrow's threads may still hold it when the process
      # ends, and abort it (apache/arrow 33975); its own local files are safe.
      source = file if files.is_remote(path) else path
      try:
        table = pq.ParquetFile(source)
      except (pa.ArrowException, OSError) as error:
        raise files.damaged(error) from None
      num_rows = table.metadata.num_rows
      _refuse_twins(table.schema_arrow, wanted)
      check(table.schema_arrow)
      names = [name for name in wanted if name in table.schema_arrow.names]
      first = 0
      for group in range(table.num_row_groups):
        yield from _group_rows(table, group, names, path=path, first=first)
        first += table.metadata.row_group(group).num_rows
  except Unusable as problem:
    yield problem.at(path, num_rows)


def check_columns(schema: Any, rules: Rules) -> None:
  """Refuses a table whose columns cannot hold texts and ids.

  Raises:
    Unusable: no text column, or one of the two of another type.
  """
  import pyarrow as pa

  field = rules.text_field
  if field not in schema.names:
    raise Unusable(
      f"no text in the field {field!r}",
      f"wanted a column {field!r}, came {fields.short(schema.names)}; name the "
      "column that holds the text.",
    )
  for name in (field, rules.id_field):
    if name not in schema.names:
      continue
    kind = schema.field(name).type
    if pa.types.is_dictionary(kind):
      kind = kind.value_type
    fit = _is_text(kind) or pa.types.is_null(kind)
    if name != field:
      fit = fit or pa.types.is_integer(kind)
    if not fit:
      noun = "text" if name == field else "string"
      raise Unusable(
        f"no {noun} in the field {name!r}",
        f"wanted strings in the column {name!r}, came {kind}; name another "
        "column or write it as strings.",
      )


def values_of(batch: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:
  """The rows of an Arrow batch; text that is no UTF-8 stays bytes."""
  columns = [batch.column(name) for name in names]
  for values in zip(*columns, strict=True):
    yield dict(zip(names, map(_value, values), strict=True))


def _group_rows(
  table: Any, group: int, names: Sequence[str], *, path: str, first: int
) -> Iterator[Row | Skip]:
  """The rows of one row group; the first of them is number `first` + 1."""
  import pyarrow as pa

  number = first
  try:
    _refuse_bomb(table.metadata.row_group(group), names)
    for batch in table.iter_batches(
      ROWS, row_groups=[group], columns=list(names), use_threads=False
    ):
      for values in values_of(batch, names):
        number += 1
        yield Row(number, f"{path}, row {number}", values)
  except (Unusable, pa.ArrowException, OSError) as error:
    problem = error if isinstance(error, Unusable) else files.damaged(error)
    last = first + table.metadata.row_group(group).num_rows
    where = f"{path}, rows {number + 1} to {last}"
    yield problem.at(where, last - number)


def _refuse_twins(schema: Any, wanted: Sequence[str]) -> None:
  """Refuses a table in which a name does not say which column is meant."""
  for name in wanted:
    if schema.names.count(name) > 1:
      raise Unusable(
        f"two columns {name!r}",
        f"wanted one column {name!r}, came {schema.names.count(name)}, as a join "
        "leaves them; rename or drop the others.",
      )


def _refuse_bomb(group: Any, names: Sequence[str]) -> None:
  chunks = [group.column(i) for i in range(group.num_columns)]
  chunks = [x for x in chunks if x.path_in_schema.split(".")[0] in names]
  files.refuse_bomb(
    sum(chunk.total_uncompressed_size for chunk in chunks),
    sum(chunk.total_compressed_size for chunk in chunks),
  )


def _value(scalar: Any) -> Any:
  """A Python value; bytes where a string column holds something else."""
  import pyarrow as pa

  if isinstance(scalar, pa.DictionaryScalar):
    scalar = scalar.value
  try:
    return scalar.as_py()
  # Some types have values that Python has no type for.
  except (ValueError, OverflowError, NotImplementedError):
    if isinstance(scalar, pa.ListScalar):
      return [_value(item) for item in scalar]
    if isinstance(scalar, pa.BinaryScalar):  # strings are binaries too
      return scalar.as_buffer().to_pybytes()
    return scalar.type  # a value that no field accepts, so the row is skipped


def _is_text(kind: Any) -> bool:
  import pyarrow as pa

  is_of = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_string_view,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
  )
  return any(is_kind(kind) for is_kind in is_of)
