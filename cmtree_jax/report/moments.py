"""How a training run moved its mixture: over time, and its leaves at three moments."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cmtree_jax.recipe.schedule import Schedule, Stage
from cmtree_jax.report import describe, figures

_LARGEST = 12  # leaves with a colour of their own; the others are one


def of_three(schedule: Schedule) -> tuple[Stage, ...]:
  """The first stage, the one in the middle of the run, and the last; fewer of few."""
  steps = (0, schedule.steps // 2, schedule.steps - 1)
  return tuple({s.begin: s for s in map(schedule.at, steps)}.values())


def markdown(schedule: Schedule, sample: describe.Sample) -> str:
  """The nodes at three moments, each with what a sample of documents shows in it.

  Args:
    schedule: of the run.
    sample: of the corpus.
  """
  lines = [f"# {schedule.method}: what it was trained on", ""]
  for stage in of_three(schedule):
    lines += [
      f"## From step {stage.begin} to {stage.end} of {schedule.steps}",
      "",
      "| node | of the corpus | of the training | weight |",
      "|---|--:|--:|--:|",
    ]
    nodes = describe.nodes(stage.partition, sample)
    for node in nodes:
      depth = len(node.path.split(".")) - 1 if node.path else 0
      name = _safe(
        f"{'· ' * depth}{node.path or describe.ROOT}: {_terms(node)}"
      )
      lines.append(
        f"| {name} | {node.mass:.1%} | {node.mixture:.1%} | {node.weight:.2f} |"
      )
    lines.append("")
  return "\n".join(lines)


def _terms(node: describe.Node) -> str:
  return ", ".join(node.terms)


def _safe(text: str) -> str:
  """As a cell of a table: terms are words of documents that others wrote."""
  return text.replace("|", "/").replace("<", "&lt;").replace("`", "'")


def draw(schedule: Schedule, path: Path) -> None:
  """Writes the mixture over time as a stacked area, with every change marked.

  Args:
    schedule: of the run.
    path: its suffix is the format: .svg or .png.
  """
  import matplotlib
  import matplotlib.colors
  from matplotlib.figure import Figure

  names, share_GL = largest(
    schedule.names,
    np.stack([stage.mixture_L for stage in schedule.stages]),
    schedule.mixture_L,
  )
  edges = [stage.begin for stage in schedule.stages] + [schedule.steps]
  figure = Figure((8.5, 4.2), layout="constrained")
  ax = figure.subplots()
  # Constant from one event to the next.
  at = np.repeat(edges, 2)[1:-1]
  palette = matplotlib.colormaps["tab20"]
  colors = [matplotlib.colors.to_hex(palette(i)) for i in range(len(names))]
  ax.stackplot(at, np.repeat(share_GL, 2, axis=0).T, colors=colors, linewidth=0)
  for before, after in itertools.pairwise(schedule.stages):
    if not _alike(before, after):
      ax.axvline(after.begin, color="white", linewidth=0.5, alpha=0.7)
  ax.set_xlim(0, schedule.steps)
  ax.set_ylim(0, 1)
  ax.set_xlabel("training step; white lines: events that moved the weights")
  ax.set_ylabel("share of the training tokens")
  ax.set_title(f"{schedule.method}, seed {schedule.seed}", loc="left")
  figure.legend(
    handles=_legend(names, colors),
    loc="outside right center",
    frameon=False,
    fontsize=7,
  )
  figures.save(figure, path, salt="moments")


def _alike(a: Stage, b: Stage) -> bool:
  """Whether leaves and weights are the same: no event moved them in between."""
  return np.array_equal(a.mass_L, b.mass_L) and np.array_equal(
    a.mixture_L, b.mixture_L
  )


def _legend(names: Sequence[str], colors: Sequence[str]):
  from matplotlib.patches import Patch

  return [
    Patch(color=color, label=figures.plain(name))
    for name, color in zip(names[::-1], colors[::-1], strict=True)
  ]


def largest(
  names: Sequence[str], share_GL: np.ndarray, mixture_L: np.ndarray
) -> tuple[list[str], np.ndarray]:
  """(names, shares [stages, names]) of the largest leaves, and of the others.

  A leaf without a share, such as a tree that grows has room for, is none of them.

  Args:
    names: of all leaves.
    share_GL: of the training tokens, by stage.
    mixture_L: shares of all training tokens.
  """
  order_L = np.argsort(-mixture_L, kind="stable")
  order_L = order_L[mixture_L[order_L] > 0]
  first, rest = np.sort(order_L[:_LARGEST]), order_L[_LARGEST:]
  found = [names[leaf] for leaf in first]
  found_GL = share_GL[:, first]
  if len(rest):
    found.append(f"{len(rest)} others")
    others_G1 = share_GL[:, rest].sum(axis=1, keepdims=True)
    found_GL = np.concatenate([found_GL, others_G1], axis=1)
  return found, found_GL
