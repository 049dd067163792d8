"""The command line: `python -m cmtree_jax.report WORKDIR...` makes report.html anew."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cmtree_jax.data import mirror
from cmtree_jax.report.screen import printable
from cmtree_jax.types import UserError

_DESCRIPTION = """Make the report of a job from the files in its workdir; of several
workdirs side by side."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Writes the page; returns the exit status (0, 2 for a mistake of the user)."""
  parser = argparse.ArgumentParser(
    prog="python -m cmtree_jax.report",
    description=_DESCRIPTION,
    allow_abbrev=False,
  )
  parser.add_argument(
    "workdirs", nargs="+", metavar="WORKDIR", help="of a job that has ended"
  )
  parser.add_argument(
    "--output",
    metavar="FILE",
    help="the page; else WORKDIR/report.html, of several workdirs ./report.html",
  )
  flags = parser.parse_args(arguments)
  try:
    print(printable(f"wrote {_written(flags.workdirs, flags.output)}"))
  except UserError as error:
    print(printable(f"Error: {error}"), file=sys.stderr)
    return 2
  finally:
    mirror.close()
  return 0


def _written(workdirs: Sequence[str], output: str | None) -> Path:
  from cmtree_jax.report.html import report  # heavy imports wait for --help

  folders = [mirror.reading(one) for one in workdirs]
  folder = folders[0] if len(folders) == 1 else Path()
  path = Path(output) if output else folder / report.FILE
  try:
    report.write(folders, path, tell=_warn)
    mirror.publish(path)
    return path
  except ImportError as error:
    raise UserError(report.missing(error)) from error
  except OSError as error:
    raise UserError(
      f"Cannot write {path}: {error.strerror or error}. Choose another --output."
    ) from error


def _warn(line: str) -> None:
  print(f"Warning: {printable(line)}", file=sys.stderr)


if __name__ == "__main__":
  sys.exit(main())
