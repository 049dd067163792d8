"""The command line: `python -m cmtree_jax.ask pool --config configs/quickstart.py`."""

import argparse
import sys
from collections.abc import Callable, Sequence

from cmtree_jax.jobs.command import config_arguments, status_of

_DESCRIPTION = (
  """Answer a question about a corpus or a recipe; nothing is trained."""
)


def main(arguments: Sequence[str] | None = None) -> int:
  """Answers one question; returns the exit status as `cmtree_jax.main` does."""
  overrides, rest = config_arguments(arguments)
  flags = _parser().parse_args(rest)

  def answered() -> int:
    from cmtree_jax import config  # heavy imports wait for --help
    from cmtree_jax.jobs import ask

    answers: dict[str, Callable[[], int]] = {
      "pool": lambda: ask.pool(config.load(flags.config, overrides)),
      "recipes": lambda: ask.recipes_differ(flags.old, flags.new),
      "leaf": lambda: ask.leaf(
        config.load(flags.config, overrides),
        flags.workdir,
        flags.leaf,
        flags.output,
      ),
    }
    return answers[flags.question]()

  return status_of(answered)


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m cmtree_jax.ask",
    description=_DESCRIPTION,
    epilog="--config.FIELD=VALUE as for the job that a question is about.",
    allow_abbrev=False,
  )
  asked = parser.add_subparsers(dest="question", required=True)
  one = asked.add_parser("pool", help="is a target represented in the pool?")
  one.add_argument("--config", required=True, help="with corpus and targets")
  one = asked.add_parser("recipes", help="what changed between two recipes?")
  one.add_argument("old", help="workdir of a job that has ended")
  one.add_argument("new", help="workdir of another")
  one = asked.add_parser("leaf", help="a leaf's documents as a file")
  one.add_argument("leaf", help='its path, such as 0.1, or "all"')
  one.add_argument("--config", required=True, help="that of the job")
  one.add_argument("--workdir", required=True, help="of the job")
  one.add_argument(
    "--output", required=True, help="FILE.jsonl or FILE.jsonl.zst"
  )
  return parser


if __name__ == "__main__":
  sys.exit(main())
