"""The command line: `python -m cmtree_jax.sweep --config configs/sweeps/leaves.py`."""

import argparse
import sys
from collections.abc import Sequence

from cmtree_jax.jobs.command import config_arguments, status_of

_DESCRIPTION = """Run a config under all settings that its sweep(add) asks for, each as a
job of its own, and put them into one table. The same command continues what was
stopped, and does no run twice."""


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one sweep; returns the exit status as `cmtree_jax.main` does."""
  overrides, rest = config_arguments(arguments)
  flags = _parser().parse_args(rest)

  def job() -> int:
    from cmtree_jax.jobs import sweep  # heavy imports wait for --help

    sweep.require_parallel(flags.parallel)
    runs = sweep.plan(flags.config, flags.workdir, overrides)
    mine = sweep.shard(runs, flags.shard)
    if flags.dry_run:
      sweep.show(mine, flags.dry_run)
      return 0
    return sweep.run(runs, mine, flags.workdir, parallel=flags.parallel)

  return status_of(job)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cmtree_jax.sweep",
    description=_DESCRIPTION,
    epilog="--config.FIELD=VALUE holds for every run.",
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--config", required=True, help="file with get_config() and sweep(add)")
  add("--workdir", required=True, help="gets runs/, logs/ and the table")
  add(
    "--dry-run",
    nargs="?",
    const="here",
    choices=("here", "tpu"),
    help="print the runs' commands alone; tpu: those of tpu/run.sh",
  )
  add(
    "--parallel",
    type=int,
    default=1,
    help="runs at a time; 1 on one accelerator",
  )
  add("--shard", default="1/1", help="I/N: every Nth run from the Ith, from 1")
  return parser


if __name__ == "__main__":
  sys.exit(main())
