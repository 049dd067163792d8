"""The command line: `python -m cmtree_jax.main --config configs/quickstart.py`."""

import sys
from collections.abc import Sequence
from typing import Any

from cmtree_jax.jobs.command import command

_DESCRIPTION = """Learn a division of a corpus and a mixture for a target, and
measure them against other recipes."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one job; returns the exit status (0, 1 fault, 2 user, 143 interrupted)."""

  def job(*args: Any, **kwargs: Any) -> int:
    from cmtree_jax.jobs import learn  # heavy imports wait for --help

    return learn.run(*args, **kwargs)

  def estimate(config: Any) -> int:
    from cmtree_jax.jobs import estimate

    return estimate.run(config, compares=False)

  return command(
    "cmtree_jax.main", _DESCRIPTION, job, arguments, estimate=estimate
  )


if __name__ == "__main__":
  sys.exit(main())
