"""The joint tree against every method of the package, on all targets.

  python -m experiments.against_everything --config claims:toy --workdir runs/claims

Writes the comparison's own table and figure (`table.md`, `comparison.svg`) and a
summary: on which targets the tree is better than similarity and than the best other
method, and with how many of natural's tokens it reaches natural's final loss.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtree_jax.evaluate.results import MEAN
from cmtree_jax.jobs.command import command
from cmtree_jax.methods import METHODS
from experiments import claims
from experiments.claims import Results

TREE = "joint_16"
SIMILARITY = ("crisp_16", "crisp_64", "crisp_256")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  others = [name for name in METHODS if name not in ("cmtree", "crisp")]
  return command(
    "experiments.against_everything",
    "The joint tree against every method, on all targets.",
    claims.job(
      "against_everything",
      [TREE, *SIMILARITY, *others],
      show,
      budgets=True,
    ),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """One row per target."""
  from cmtree_jax.evaluate.results import standings

  rows = []
  similarity = found.trained(SIMILARITY)
  for one in standings(found.rows, seeds=found.config.compare.seeds):
    if one.method != TREE or one.target not in (one.target_set, MEAN):
      continue  # a union of targets shows only its mean
    target = one.target_set
    rows.append(
      [
        target,
        f"{one.bpb:.3f}",
        claims.signed(one.to_natural),
        *(
          claims.signed(found.difference(TREE, other, target))
          for other in similarity
        ),
        one.best_other,
        claims.signed(one.to_best),
        one.best_verdict,
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
      *(f"- {other}" for other in similarity),
      *("best other", "- best other", "verdict"),
      *("share of natural's tokens", "search / final FLOPs"),
      "- natural at equal FLOPs",
    ],
    rows,
  )


if __name__ == "__main__":
  sys.exit(main())
