"""Runs that a person has: a table of mixtures and the losses that came of them.

One run a row, in a CSV file with a header or in a Parquet file. The columns of the
mixture and those of losses are known by how their names begin; others are not read.
"""

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.types import UserError

_SUM = 1e-3  # by which the shares of a run may miss one: they are often rounded


class Runs(NamedTuple):
  """A table of runs."""

  domains: tuple[str, ...]
  targets: tuple[str, ...]
  mixture_RK: np.ndarray  # float64; rows sum to one
  loss_RT: np.ndarray  # float64, positive


def read(path: Path, *, mixture: str, loss: str) -> Runs:
  """The runs of a file.

  Args:
    path: ends in .csv or .parquet.
    mixture: how the names of the mixture's columns begin; domains are called by the
      rest.
    loss: the same, of the columns of losses.
  Raises:
    UserError: naming the file, the line and what is wrong there, for the first.
  """
  if path.suffix not in _READERS:
    raise UserError(
      f"{path}: wanted a table of runs that ends in {' or '.join(_READERS)}."
    )
  try:
    rows = list(_READERS[path.suffix](path))
  except OSError as error:
    raise UserError(f"{path}: {error.strerror or error}.") from error
  if not rows:
    raise UserError(f"{path}: wanted a line for every run, came none.")
  names = list(rows[0][1])
  domains = _columns(path, names, mixture, "from_runs.mixture", 2)
  targets = _columns(path, names, loss, "from_runs.loss", 1)
  found_mixture, found_loss = [], []
  for where, row in rows:
    share_K = [_number(where, row, name) for name in domains]
    for name, share in zip(domains, share_K, strict=True):
      if share < 0:
        raise UserError(
          f"{where}: {name} is a share and must not be {share:g}."
        )
    if abs(sum(share_K) - 1) > _SUM:
      raise UserError(
        f"{where}: the shares of a mixture must sum to one, these "
        f"{len(domains)} to {sum(share_K):.6g}."
      )
    loss_T = [_number(where, row, name) for name in targets]
    for name, one in zip(targets, loss_T, strict=True):
      if one <= 0:
        raise UserError(f"{where}: {name} is a loss and must be above 0.")
    found_mixture.append(np.array(share_K) / sum(share_K))
    found_loss.append(loss_T)
  return Runs(
    tuple(name.removeprefix(mixture) for name in domains),
    tuple(name.removeprefix(loss) for name in targets),
    np.array(found_mixture),
    np.array(found_loss),
  )


def _columns(
  path: Path, names: list[str], prefix: str, field: str, least: int
) -> list[str]:
  found = [name for name in names if name and name.startswith(prefix)]
  if len(found) < least or not prefix:
    raise UserError(
      f"{path}, line 1: wanted at least {least} columns whose names begin with "
      f"{prefix!r} (--config.{field}), came {', '.join(map(str, names))}."
    )
  return found


def _number(where: str, row: dict[str, Any], name: str) -> float:
  value = row[name]
  try:
    number = float(value)
  except (TypeError, ValueError):
    number = math.nan
  if not math.isfinite(number):
    raise UserError(
      f"{where}: wanted a finite number in column {name}, came {value!r}; fill it "
      "in or drop the run."
    )
  return number


def _csv_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  with path.open(newline="", encoding="utf-8-sig") as file:
    reader = csv.DictReader(file)
    try:
      header = _header(path, reader)
      for row in reader:
        where = f"{path}, line {reader.line_num}"
        if None in row or None in row.values():
          cells = len(header) + len(row.get(None, ()))
          cells -= list(row.values()).count(None)
          raise UserError(
            f"{where}: wanted {len(header)} cells as the header has, came {cells}."
          )
        yield where, row
    except UnicodeDecodeError as error:
      raise _not_utf8(path) from error
    except csv.Error as error:
      raise UserError(
        f"{path}, line {reader.line_num + 1}: {error}."
      ) from error


def _header(path: Path, reader: csv.DictReader) -> list[str]:
  header = list(reader.fieldnames or [])
  if "\0" in "".join(header):  # letters of two bytes, and no mark that says so
    raise _not_utf8(path)
  for name in header:
    if header.count(name) > 1:
      raise UserError(f"{path}, line 1: column {name!r} comes twice.")
  return header


def _not_utf8(path: Path) -> UserError:
  return UserError(
    f"{path}: wanted text in UTF-8, came another encoding; save the table as CSV "
    "in UTF-8."
  )


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
  import pyarrow as pa
  import pyarrow.parquet as pq

  try:
    table = pq.read_table(path)
  except pa.ArrowException as error:
    raise UserError(f"{path} is no Parquet file: {error}") from error
  for number, row in enumerate(table.to_pylist(), 1):
    yield f"{path}, row {number}", row


_READERS = {".csv": _csv_rows, ".parquet": _parquet_rows}
