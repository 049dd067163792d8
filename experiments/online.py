"""Online against static: what is it worth to move division and mixture in training?

  python -m experiments.online --config claims:toy --workdir runs/online

Final trainings that move their own weights: the tree with all of its parts, with its
tilts alone, with one angle for all levels, without any event; and the methods that
steer a mixture of clusters, in the training that they are for. Beside them stand the
tree by a static search, the classifier, CRISP and natural, all for the same training
tokens; what each takes beside its training is in the last column, and a figure has the
gain against all FLOPs. A budget that the config sets (--config.budget.epochs=0.25) is
the only one.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs.command import command
from configs.claims import online_variants
from experiments import claims
from experiments.claims import Results

EPOCHS = (1 / 4, 1)
JOINT, STATIC = "online_joint", "joint_16"
ONLINE = tuple(online_variants())
ALL = (*ONLINE, STATIC, "classifier_soft", "crisp_64")


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.online",
    "Trainings that move their own weights, beside static recipes.",
    claims.over_budgets("online", ALL, EPOCHS, show),
    arguments,
  )


def show(parts: Mapping[float, Results], folder: Path) -> Iterator[Path]:
  """For each budget: what every method is worth, and the joint tree's differences."""
  for epochs, found in parts.items():
    methods = [one for one in found.config.compare.methods if one != NATURAL]
    yield claims.write_table(
      folder / f"methods.epochs_{epochs:g}.md",
      f"Test bits per byte - natural's, {epochs:g} epochs",
      ["method", *found.targets, "FLOPs beside the training"],
      [_line(one, found) for one in methods],
    )
    yield _draw(found, folder / f"flops.epochs_{epochs:g}.svg")
    if found.trained([JOINT]):
      yield claims.write_table(
        folder / f"joint.epochs_{epochs:g}.md",
        f"{JOINT} - others, test bits per byte, {epochs:g} epochs",
        [f"{JOINT} -", *found.targets],
        [
          [
            one,
            *(
              claims.signed(found.difference(JOINT, one, t))
              for t in found.targets
            ),
          ]
          for one in methods
          if one != JOINT
        ],
      )


def _beside(method: str, target: str, found: Results) -> float:
  """FLOPs that a method takes beside the training, in units of it."""
  search, trial, final = (
    found.value(method, target, f"{what}_flops")
    for what in ("search", "trial", "final")
  )
  return (search + trial) / final


def _line(method: str, found: Results) -> list[str]:
  """A method on every set of targets, and what it takes beside the training."""
  shares = [_beside(method, target, found) for target in found.targets]
  return [
    method,
    *(
      claims.signed(found.difference(method, NATURAL, target))
      for target in found.targets
    ),
    f"{sum(shares) / len(shares):.2f}",
  ]


def _draw(found: Results, path: Path) -> Path:
  """What every method is worth against all FLOPs that it takes."""
  figure, axes = claims.panels(len(found.targets), width=4.4, height=3.4)
  kinds = {
    "moves in training": lambda name: name in ONLINE,
    "made before": lambda name: name not in ONLINE,
  }
  for ax, target in zip(axes, found.targets, strict=True):
    placed: list[str] = []
    for (kind, is_of), color in zip(kinds.items(), claims.COLORS, strict=False):
      for method in filter(is_of, found.config.compare.methods):
        if method == NATURAL:
          continue
        total = 1 + _beside(method, target, found)
        gain = found.difference(method, NATURAL, target)
        claims.line(ax, {total: gain}, color=color, label=kind)
        placed.append(f"{total:.2f}")  # names of equal costs stand in a column
        ax.annotate(
          method.removeprefix("online_"),
          (total, gain.mean),
          xytext=(3, 9 - 7 * placed.count(placed[-1])),
          textcoords="offset points",
          fontsize=6,
        )
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_title(target, fontsize=10)
  axes[0].set_ylabel("test BPB - natural's")
  figure.supxlabel(
    "FLOPs in all, in final trainings (95 % intervals over searches)",
    fontsize=10,
  )
  claims.legend(figure, axes)
  return claims.save(figure, path)


if __name__ == "__main__":
  sys.exit(main())
