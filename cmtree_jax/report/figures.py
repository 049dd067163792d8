"""The standings of a comparison as a figure: differences to natural per target."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.data import store
from cmtree_jax.evaluate.results import NATURAL, Standing
from cmtree_jax.report import tables
from cmtree_jax.report.screen import printable

# Shape and colour both tell the verdict; the colours differ for the colour-blind.
_MARKS = {
  "better": ("#0072b2", "o"),
  "worse": ("#d55e00", "s"),
}
_OTHER = ("#767676", "D")


def draw(standings: Sequence[Standing], path: Path) -> None:
  """Writes a dot plot, one panel per target, whole or not at all.

  Args:
    standings: of all targets.
    path: its suffix is the format: .svg or .png.
  """
  from matplotlib.figure import Figure

  blocks = [
    sorted(block, key=lambda one: one.to_natural.mean)
    for block in tables.blocks(standings)
  ]
  heights = [len(block) + 1.5 for block in blocks]
  figure = Figure((7.5, 0.26 * sum(heights) + 0.9), layout="constrained")
  axes = figure.subplots(
    len(blocks),
    squeeze=False,
    sharex=True,
    gridspec_kw={"height_ratios": heights},
  )[:, 0]
  limit = _limit(standings)
  for ax, block in zip(axes, blocks, strict=True):
    _panel(ax, block, limit)
  if any(one.to_natural.mean > limit for one in standings):
    axes[-1].set_xlim(right=limit)
  axes[-1].set_xlabel(
    "test bits per byte, difference to natural with its 95 % interval"
  )
  figure.legend(
    handles=_legend(), loc="outside upper center", ncols=4, frameon=False
  )
  save(figure, path, salt="comparison")


def plain(text: str) -> str:
  r"""The text as matplotlib shows it letter by letter, without formulas.

  >>> plain("$x$ of \x1b[1mcode")
  '\\$x\\$ of \\x1b[1mcode'
  """
  return printable(text).replace("$", r"\$")


def save(figure: Any, path: Path, *, salt: str) -> None:
  """Writes a figure, whole or not at all; equal figures give equal bytes.

  Args:
    figure: of matplotlib.
    path: its suffix is the format: .svg or .png.
    salt: names the kind of figure; ids within an SVG are made of it.
  """
  import io

  import matplotlib

  content = io.BytesIO()
  with matplotlib.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
    figure.savefig(
      content,
      format=path.suffix[1:],
      dpi=150,
      metadata={"Date": None} if path.suffix == ".svg" else None,
    )
  store.write_atomically(path, content.getvalue())


def _limit(standings: Sequence[Standing]) -> float:
  """Right end of the axis: a method far worse than most is marked at the edge."""
  import numpy as np

  mean = np.array([one.to_natural.mean for one in standings])
  usual = max(np.quantile(mean, 0.75), -mean.min(), 1e-3)
  return float(2 * usual)


def _panel(ax: Any, block: Sequence[Standing], limit: float) -> None:
  floor = block[0].noise_floor
  ax.axvline(0, color="black", linewidth=0.8)
  if floor == floor:  # not NaN
    ax.axvspan(-floor, floor, color="#e8e8e8", linewidth=0, zorder=0)
  for y, one in enumerate(block):
    mean, low, high = one.to_natural
    color, marker = _MARKS.get(one.verdict, _OTHER)
    if mean > limit:
      ax.annotate(
        f"{mean:+.2f} →",
        (limit, y),
        color=color,
        ha="right",
        va="center",
        fontsize=9,
      )
      continue
    if one.method != NATURAL:
      ax.plot([low, high], [y, y], color=color, linewidth=1.6)
    ax.plot(mean, y, marker, color=color, markersize=5.5)
  ax.set_yticks(
    range(len(block)), [f"{one.method}  {one.bpb:.3f}" for one in block]
  )
  ax.set_ylim(len(block) - 0.4, -0.6)
  ax.set_title(plain(tables.place(block[0])), loc="left", fontsize=10)
  ax.grid(axis="x", color="#dddddd", linewidth=0.6)
  ax.set_axisbelow(True)
  ax.tick_params(axis="y", length=0, labelsize=9)
  ax.spines[["top", "right", "left"]].set_visible(False)


def _legend() -> list[Any]:
  from matplotlib.lines import Line2D
  from matplotlib.patches import Patch

  marks = [
    Line2D([], [], color=color, marker=marker, linewidth=1.6, label=name)
    for name, (color, marker) in (
      *_MARKS.items(),
      ("no difference", _OTHER),
    )
  ]
  return [*marks, Patch(color="#e8e8e8", label="noise floor")]
