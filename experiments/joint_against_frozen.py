"""Joint against frozen: what is it worth to learn the partition with the mixture?

  python -m experiments.joint_against_frozen --config claims:toy --workdir runs/claims

Compares, with 4 to 64 leaves, the joint tree; trees that keep a k-means of pool and
target together, with tilts from similarity or fitted to the density ratio as the joint
tree is; trees that keep a k-means of the pool alone; trees cut by random projections; and
the labelled sources. All are weighed by the same learner, each at the concentration that
trials find best for it and, if the config names some, at equal effective sample sizes.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cmtree_jax.jobs.command import command
from configs.claims import LEAVES
from experiments import claims
from experiments.claims import NATURAL, Results

KINDS = {
  "joint": "joint tree",
  "frozen": "frozen k-means",
  "ratio": "frozen k-means, tilts by the ratio",
  "pool": "frozen k-means of the pool",
  "random": "frozen random projections",
}


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  methods = [f"{kind}_{leaves}" for leaves in LEAVES for kind in KINDS]
  return command(
    "experiments.joint_against_frozen",
    "The joint tree against frozen partitions, by the number of leaves.",
    claims.job(
      "joint_against_frozen",
      [*methods, "sources"],
      show,
      concentrations=True,
    ),
    arguments,
  )


def show(found: Results) -> Iterator[Path]:
  """A figure and a table for each concentration."""
  for share in (0.0, *found.config.compare.effective_sample_sizes):
    at = f"@{share:g}" if share else ""
    own = f"effective sample size {share:g}" if share else "each at its best"
    stem = f"ess{share:g}" if share else "own"
    yield claims.write_table(
      found.folder / f"{stem}.md",
      f"The joint tree - others, test bits per byte, {own}",
      ["joint tree -", "leaves", *found.targets],
      _differences(found, at),
    )
    yield _draw(found, at, own, found.folder / f"{stem}.svg")


def _leaves(found: Results, kind: str = "joint") -> list[int]:
  return [n for n in LEAVES if found.trained([f"{kind}_{n}"])]


def _differences(found: Results, at: str) -> Iterator[list[str]]:
  _, *others = KINDS
  for other in others:
    for leaves in _leaves(found, other):
      joint, frozen = f"joint_{leaves}{at}", f"{other}_{leaves}{at}"
      if found.trained([joint]):
        to_frozen = (found.difference(joint, frozen, t) for t in found.targets)
        yield [KINDS[other], str(leaves), *map(claims.signed, to_frozen)]


def _draw(found: Results, at: str, title: str, path: Path) -> Path:
  figure, axes = claims.panels(len(found.targets))
  for ax, target in zip(axes, found.targets, strict=True):
    for kind, color, marker, shift in zip(
      KINDS, claims.COLORS, "osv^D", (1.0, 1.06, 0.89, 1.12, 0.94), strict=False
    ):
      points = {
        shift * leaves: found.difference(
          f"{kind}_{leaves}{at}", NATURAL, target
        )
        for leaves in _leaves(found, kind)
      }
      if points:
        claims.line(ax, points, color=color, marker=marker, label=KINDS[kind])
    if found.trained([f"sources{at}"]):
      sources = found.difference(f"sources{at}", NATURAL, target)
      ax.axhspan(sources.low, sources.high, color="#e8e8e8", zorder=0)
      ax.axhline(
        sources.mean, color="#767676", linestyle="--", label="labelled sources"
      )
    ax.set_xscale("log", base=2)
    ax.set_xticks(_leaves(found), list(map(str, _leaves(found))))
    ax.minorticks_off()
    ax.set_title(target, fontsize=10)
  axes[0].set_ylabel("test BPB - natural's")
  figure.supxlabel(
    f"leaves ({title}; 95 % intervals over searches)", fontsize=10
  )
  claims.legend(figure, axes)
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
