"""From proxy to target: is a recipe found with a small model good for a larger one?

  python -m experiments.transfer --config claims:toy --workdir runs/claims

Recipes found with proxies of size s and 4 s train models of 4 s and 16 s.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import Results

AT_S, AT_4S = "joint_16", "found_at_4s"
METHODS = (AT_S, AT_4S, "crisp_256")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.transfer",
    "Recipes of small proxies, used for larger models.",
    claims.job("transfer", METHODS, show, sizes=True),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """Every target at both sizes, and what the size of the search changes."""
  yield claims.write_differences(found, "transfer.md", "recipe", METHODS)
  yield claims.write_table(
    found.folder / "sizes.md",
    f"Found at s ({AT_S}) - found at 4 s",
    ["target", "difference"],
    (
      [
        target,
        claims.signed(found.difference(AT_S, AT_4S, target)),
      ]
      for target in found.targets
    ),
  )


if __name__ == "__main__":
  sys.exit(main())
