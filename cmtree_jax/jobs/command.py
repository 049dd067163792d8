"""A command line: flags to a config, the config to a job, its errors to one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cmtree_jax.types import Fault, UserError


def command(
  name: str,
  description: str,
  job: Callable[..., int],
  arguments: Sequence[str] | None,
) -> int:
  """Runs `job(config, workdir, overwrite=...)` as the arguments say.

  Args:
    name: of the module that is run.
    description: what the job does, for --help.
    job: returns its exit status; imports what is heavy when it is called.
    arguments: of the command line; None: those of this process.
  Returns:
    The exit status: the job's, 1 for a fault, 2 for a mistake of the user, 143 if it
    was stopped.
  """
  arguments = sys.argv[1:] if arguments is None else arguments
  prefix = "--config."
  overrides = [a[len(prefix) :] for a in arguments if a.startswith(prefix)]
  flags = _parser(name, description).parse_args(
    [a for a in arguments if not a.startswith(prefix)]
  )
  try:
    from cmtree_jax import config

    resolved = config.load(flags.config, overrides)
    return job(resolved, Path(flags.workdir), overwrite=flags.overwrite)
  except UserError as error:
    print(f"Error: {error}", file=sys.stderr)
    return 2
  except Fault as error:
    print(f"Fault: {error}", file=sys.stderr)
    return 1
  except KeyboardInterrupt:  # before the job looks after signals itself
    print("Interrupted. Run the same command to go on.", file=sys.stderr)
    return 143


def _parser(name: str, description: str) -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog=f"python -m {name}",
    description=f"{description} The same command continues what was stopped.",
    epilog="Any field of the config is overridden by --config.FIELD=VALUE, "
    "for example --config.cmtree.branching=4,4.",
    allow_abbrev=False,
  )
  parser.add_argument(
    "--config", required=True, help="file with get_config(), or file:argument"
  )
  parser.add_argument(
    "--workdir", required=True, help="folder for checkpoints and results"
  )
  parser.add_argument(
    "--overwrite", action="store_true", help="start anew in a used workdir"
  )
  return parser
