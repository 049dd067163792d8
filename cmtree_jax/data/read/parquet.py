"""Parquet files, a few rows of one row group at a time.

The columns are called as the fields of a JSON line are; others are not read.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cmtree_jax.data.read import fields, files
from cmtree_jax.data.read.fields import Found, Part, Row, Rules, Unusable
from cmtree_jax.types import Skip

ROWS = 64  # read together; more is hardly faster
# Of a row group, for so many rows at a time. A dictionary can make each of them as
# large as the whole of it.
_BATCH_BYTES = 1 << 28
# A column's page comes out in one piece, and some copies of it are made.
_PAGE_BYTES = 1 << 26


def parts(pattern: str) -> list[Part]:
  """One part per file."""
  return files.parts("parquet", pattern)


def read(part: Part, rules: Rules) -> Iterator[Found]:
  """The documents of a file; a row without an id is `<part name>:<row>`."""
  wanted = fields.record_fields(rules)
  found = rows(
    part.path,
    wanted,
    check=lambda x: check_columns(x, rules),
    most=rules.max_document_bytes,
  )
  return fields.records(found, part, rules)


def rows(
  path: str,
  wanted: Sequence[str],
  *,
  check: Callable[[Any], None],
  most: int,
) -> Iterator[Row | Skip]:
  """The rows of a file, and why others of it could not be read.

  As many rows as the file's footer says come out, or are told as lost.

  Args:
    path: the file.
    wanted: columns that are read if they are there.
    check: raises `Unusable` for a schema that will not do.
    most: bytes of a string that may be of use.
  """
  import pyarrow.parquet as pq

  num_rows, first = 1, 0  # of a file that says nothing of them
  try:
    with files.raw(path) as file:
      # Given a Python file, Arrow's threads may still hold it when the process
      # ends, and abort it (apache/arrow 33975); its own local files are safe.
      source = file if files.is_remote(path) else path
      table = pq.ParquetFile(source, page_checksum_verification=True)
      num_rows = table.metadata.num_rows
      _refuse_twins(table.schema_arrow, wanted)
      check(table.schema_arrow)
      names = [name for name in wanted if name in table.schema_arrow.names]
      one = _File(
        table, names, path, files.Meter(file.seek(0, os.SEEK_END)), most
      )
      for group in range(table.num_row_groups):
        yield from _group_rows(one, group, first)
        first += table.metadata.row_group(group).num_rows
    if first < num_rows:
      raise files.damaged(f"{num_rows - first:,} rows are in no row group")
  # What the readers of damaged files raise has no end.
  except Exception as error:
    yield _problem(error).at(path, num_rows - first)


class _File(NamedTuple):
  """What is read of an open file."""

  table: Any
  names: Sequence[str]
  path: str
  meter: files.Meter
  most: int


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


def values_of(
  batch: Any, names: Sequence[str], meter: files.Meter, *, most: int
) -> Iterator[dict[str, Any]]:
  """The rows of an Arrow batch; text that is no UTF-8 stays bytes.

  Args:
    batch: some rows.
    names: of its columns.
    meter: of its file; a dictionary holds once what comes out many times.
    most: bytes of a string that may be of use.
  Raises:
    Unusable: the file is a bomb, or its strings are not where it says.
  """
  columns = [batch.column(name) for name in names]
  for column in columns:
    _require_sound(column)
  for scalars in zip(*columns, strict=True):
    values = [_value(scalar, most) for scalar in scalars]
    meter.add(sum(map(_size, values)))
    yield dict(zip(names, values, strict=True))


def _require_sound(column: Any) -> None:
  """Refuses a column of which a string would be read from anywhere in memory.

  Raises:
    Unusable: it is damaged; not for bytes that are no UTF-8, which the row tells.
  """
  import pyarrow as pa

  try:
    column.validate(full=True)
  except pa.ArrowInvalid as error:
    # Of strings themselves, Arrow looks at the places first.
    is_string = _is_text(column.type) and "UTF8" in str(error)
    if not is_string:
      raise files.damaged(error) from None


def _group_rows(one: _File, group: int, first: int) -> Iterator[Row | Skip]:
  """The rows of one row group; the first of them is number `first` + 1."""
  number, path = first, one.path
  # Arrow aborts the process where the description of a single column is damaged.
  about = one.table.metadata.row_group(group)
  last, size = first + about.num_rows, about.total_byte_size
  try:
    files.refuse_bomb(size, one.meter.taken, _PAGE_BYTES)
    for batch in one.table.iter_batches(
      max(1, min(ROWS, _BATCH_BYTES // max(size, 1))),
      row_groups=[group],
      columns=list(one.names),
      use_threads=False,
    ):
      if number + len(batch) > last:
        raise files.damaged("more rows than the footer says")
      for values in values_of(batch, one.names, one.meter, most=one.most):
        number += 1
        yield Row(number, f"{path}, row {number}", values)
    if number < last:
      raise files.damaged("fewer rows than the footer says")
  except Exception as error:
    where = f"{path}, rows {number + 1} to {last}"
    yield _problem(error).at(where, last - number)


def _problem(error: Exception) -> Unusable:
  return error if isinstance(error, Unusable) else files.damaged(error)


def _refuse_twins(schema: Any, wanted: Sequence[str]) -> None:
  """Refuses a table in which a name does not say which column is meant."""
  for name in wanted:
    if schema.names.count(name) > 1:
      raise Unusable(
        f"two columns {name!r}",
        f"wanted one column {name!r}, came {schema.names.count(name)}, as a join "
        "leaves them; rename or drop the others.",
      )


def _value(scalar: Any, most: int) -> Any:
  """A Python value; bytes where a string column holds something else."""
  import pyarrow as pa

  if isinstance(scalar, pa.DictionaryScalar):
    scalar = scalar.value
  if isinstance(scalar, pa.BinaryScalar) and scalar.is_valid:
    size = scalar.as_buffer().size
    if size > most:
      return fields.TooLong(size)
  try:
    return scalar.as_py()
  # Some types have values that Python has no type for.
  except (ValueError, OverflowError, NotImplementedError):
    if isinstance(scalar, pa.ListScalar):
      return [_value(item, most) for item in scalar]
    if isinstance(scalar, pa.BinaryScalar):  # strings are binaries too
      return scalar.as_buffer().to_pybytes()
    return scalar.type  # a value that no field accepts, so the row is skipped


def _size(value: Any) -> int:
  """About the bytes of a string; of other values, which are small, nothing."""
  if isinstance(value, fields.TooLong):
    return value.size
  return len(value) if isinstance(value, str | bytes) else 0


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
