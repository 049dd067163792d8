"""The command line: `python -m cmtree_jax.verify ~/.cache/cmtree_jax`."""

import argparse
import sys
from collections.abc import Sequence

from cmtree_jax.data import mirror
from cmtree_jax.jobs.command import status_of

_DESCRIPTION = """Hash every byte of a cache that jobs share. A job itself hashes what it
opens up to half a gigabyte, and looks at the sizes of what is larger."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Returns the exit status: 1 if anything is damaged, 2 if there is no cache."""
  parser = argparse.ArgumentParser(
    prog="python -m cmtree_jax.verify", description=_DESCRIPTION
  )
  parser.add_argument("cache", help="as config.cache_dir")
  folder = parser.parse_args(arguments).cache

  def verified() -> int:
    from cmtree_jax.jobs import verify  # heavy imports wait for --help

    return verify.run(mirror.reading(folder).expanduser())

  return status_of(verified)


if __name__ == "__main__":
  sys.exit(main())
