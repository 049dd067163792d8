"""The command line: `python -m cmtree_jax.compare --config configs/compare.py`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cmtree_jax.types import Fault, UserError


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs one comparison; returns the exit status as `cmtree_jax.main` does."""
  arguments = sys.argv[1:] if arguments is None else arguments
  prefix = "--config."
  overrides = [a[len(prefix) :] for a in arguments if a.startswith(prefix)]
  flags = _parser().parse_args(
    [a for a in arguments if not a.startswith(prefix)]
  )
  try:
    from cmtree_jax import config  # heavy imports wait for --help
    from cmtree_jax.compare import job

    resolved = config.load(flags.config, overrides)
    return job.run_comparison(
      resolved, Path(flags.workdir), overwrite=flags.overwrite
    )
  except UserError as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  except Fault as error:
    print(f"Fault: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cmtree_jax.compare",
    description="Compare methods on targets and seeds under one token budget, "
    "with one frozen evaluation. The same command continues a comparison.",
    epilog="Any field of the config is overridden by --config.FIELD=VALUE, "
    "for example --config.compare.methods=natural,crisp.",
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", required=True, help="file with get_config(), or file:argument"
  )
  parser.add_argument(
    "--workdir", required=True, help="folder for cells and results"
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="start anew in a used workdir"
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
