"""Paired differences between the recipes of two finished jobs.

  python -m experiments.compare_runs runs/quickstart runs/frozen

Runs of one seed start from the same parameters and share their documents as far as
the weights allow, so two jobs are paired if only their search differs; that is
checked on the natural mixture, whose figures must be equal.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from cmtree_jax.evaluate import comparison
from cmtree_jax.types import UserError


def compare(first: Path, second: Path) -> list[dict[str, Any]]:
  """One row per target: the recipe of `first` less that of `second`.

  Raises:
    UserError: the jobs are not finished or not paired.
  """
  a, b = _rows(first), _rows(second)
  found = []
  for target in a["natural"]:
    if a["natural"][target]["bpb"] != b["natural"].get(target, {}).get("bpb"):
      raise UserError(
        f"{first} and {second} are not paired: their natural mixtures differ "
        f"on {target}. Compare jobs with equal data, final training and seeds."
      )
    (name_a, row_a), (name_b, row_b) = _recipe(a, target), _recipe(b, target)
    interval = comparison.paired_difference(row_a["bpb"], row_b["bpb"])
    found.append(
      {
        "target": target,
        "first": f"{name_a} {row_a['bpb_mean']:.4f}",
        "second": f"{name_b} {row_b['bpb_mean']:.4f}",
        "difference": f"{interval.mean:+.3f}",
        "interval": f"{interval.low:+.3f} … {interval.high:+.3f}",
      }
    )
  return found


def _rows(workdir: Path) -> dict[str, dict[str, dict[str, Any]]]:
  """recipe -> target -> row; the job's own recipe comes first."""
  file = workdir / "comparison.json"
  if not file.is_file():
    raise UserError(
      f"No comparison.json in {workdir}: the job is not finished."
    )
  rows: dict[str, dict[str, dict[str, Any]]] = {}
  for row in json.loads(file.read_text()):
    rows.setdefault(row["recipe"], {})[row["target"]] = row
  return rows


def _recipe(rows, target):
  name = next(iter(rows))
  return name, rows[name][target]


def main() -> int:
  """Prints the table; the exit status is 2 where the jobs cannot be compared."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("first", type=Path)
  parser.add_argument("second", type=Path)
  flags = parser.parse_args()
  try:
    rows = compare(flags.first, flags.second)
  except UserError as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  table = Table(
    title="Test bits per byte, first less second",
    title_justify="left",
    box=box.SIMPLE,
  )
  for name in rows[0]:
    table.add_column(name, no_wrap=True)
  for row in rows:
    table.add_row(*row.values())
  Console().print(table)
  return 0


if __name__ == "__main__":
  sys.exit(main())
