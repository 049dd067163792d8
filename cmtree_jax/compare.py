"""The command line: `python -m cmtree_jax.compare --config configs/compare.py`."""

import sys
from collections.abc import Sequence
from typing import Any

from cmtree_jax.jobs.command import command

_DESCRIPTION = """Compare methods on targets and seeds under one token budget, with
one frozen evaluation."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one comparison; returns the exit status as `cmtree_jax.main` does."""

  def job(*args: Any, **kwargs: Any) -> int:
    from cmtree_jax.jobs import compare  # heavy imports wait for --help

    return compare.run(*args, **kwargs)

  def estimate(config: Any) -> int:
    from cmtree_jax.jobs import estimate

    return estimate.run(config, compares=True)

  return command(
    "cmtree_jax.compare", _DESCRIPTION, job, arguments, estimate=estimate
  )


if __name__ == "__main__":
  sys.exit(main())
