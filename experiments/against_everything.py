"""The joint tree against every method of the package, on all targets.

  python -m experiments.against_everything --config claims:toy --workdir runs/claims

Writes the comparison's own table and figure (`table.md`, `comparison.svg`) and a
summary: on which targets the tree is better than what costs nothing and than the best
other method, and with how many of natural's tokens it reaches natural's final loss.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import MEAN, NATURAL
from cmtree_jax.jobs.command import command
from cmtree_jax.methods import METHODS
from experiments import claims
from experiments.claims import Results

TREE = "joint_16"


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  named = {"cmtree", "crisp", *claims.FREE}
  others = [name for name in METHODS if name not in named]
  return command(
    "experiments.against_everything",
    "The joint tree against every method, on all targets.",
    claims.job(
      "against_everything",
      [TREE, *claims.FREE, *others],
      show,
      budgets=True,
    ),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """One row per target."""
  from cmtree_jax.evaluate.results import standings

  rows = []
  free = found.trained(claims.FREE)
  for one in standings(found.rows, seeds=found.config.compare.seeds):
    if one.method != TREE or one.target not in (one.target_set, MEAN):
      continue  # a union of targets shows only its mean
    target = one.target_set
    to_best = found.difference(TREE, one.best_other, target)
    rows.append(
      [
        target,
        f"{one.bpb:.3f}",
        claims.signed(found.difference(TREE, NATURAL, target)),
        *(
          claims.signed(found.difference(TREE, other, target)) for other in free
        ),
        one.best_other,
        claims.signed(to_best),
        statistics.verdict(to_best, one.noise_floor),
        f"{'≤' * one.reach.at_most}{one.reach.budget:.2f}",
        f"{one.search_share:.2f}",
        claims.signed(one.at_equal_flops) if one.at_equal_flops else "-",
      ]
    )
  yield claims.write_table(
    found.folder / "summary.md",
    "The tree on every target, test bits per byte",
    [
      *("target", "BPB", "- natural"),
      *(f"- {other}" for other in free),
      *("best other", "- best other", "verdict"),
      *("share of natural's tokens", "search / final FLOPs"),
      "- natural at equal FLOPs",
    ],
    rows,
  )


if __name__ == "__main__":
  sys.exit(main())
