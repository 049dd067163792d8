"""Measured hypergradients as a table and a figure; `bench_hypergrad` makes them."""

from pathlib import Path
from typing import NamedTuple

from rich.table import Table

WARM = 200  # age of the proxy that is drawn, steps


class Row(NamedTuple):
  """One line of the table and of the JSON file; None where not measured."""

  variant: str
  optimizer: str
  K: int
  age: int  # of the proxy, steps
  flops: float | None  # matrix products of one call
  flops_multiple: float | None  # of the plain inner steps
  wall_multiple: float | None
  temp_bytes: int | None
  peak_rss_bytes: int | None
  compile_seconds: float | None
  utilization: float | None  # share of the device's measured matrix rate
  cosine: float | None
  relative_error: float | None
  device: str


def table(rows: list[Row]) -> Table:
  """The rows for a terminal."""
  found = Table(title="Hypergradients: multiples of the plain inner steps")
  for name in (
    "optimizer",
    "K",
    "variant",
    "FLOPs",
    "time",
    "temporary",
    "peak RSS",
    "compile",
    "utilization",
    "age",
    "cosine",
    "error",
  ):
    left = name in ("optimizer", "variant")
    found.add_column(name, justify="left" if left else "right")
  for row in rows:
    found.add_row(
      row.optimizer,
      str(row.K),
      row.variant,
      _format(row.flops_multiple, "{:.2f}"),
      _format(row.wall_multiple, "{:.2f}"),
      _format(row.temp_bytes and row.temp_bytes / 1e6, "{:,.0f} MB"),
      _format(row.peak_rss_bytes and row.peak_rss_bytes / 1e6, "{:,.0f} MB"),
      _format(row.compile_seconds, "{:.1f} s"),
      _format(row.utilization, "{:.0%}"),
      str(row.age),
      _format(row.cosine, "{:.5f}"),
      _format(row.relative_error, "{:.1e}"),
    )
  return found


def _format(value, form):
  return "-" if value is None else form.format(value)


def draw(rows: list[Row], path: Path) -> None:
  """Time against temporary memory, one curve per K, one panel per optimizer."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  optimizers = list(dict.fromkeys(row.optimizer for row in rows))
  figure, panels = pyplot.subplots(
    1,
    len(optimizers),
    figsize=(6.5 * len(optimizers), 5),
    sharey=True,
    squeeze=False,
  )
  for panel, optimizer in zip(panels[0], optimizers, strict=True):
    mine = [
      row
      for row in rows
      if row.optimizer == optimizer
      and row.age == WARM
      and row.wall_multiple
      and row.variant not in ("plain", "neumann", "cg")
    ]
    for index, steps in enumerate(sorted({row.K for row in mine})):
      color = f"C{index}"
      points = [row for row in mine if steps == row.K]
      curve = sorted(filter(_is_exact, points), key=lambda row: row.temp_bytes)
      others = [row for row in points if not _is_exact(row)]
      for marker, kind, rows in (
        ("o-", "exact", curve),
        ("^", "approximate", others),
      ):
        panel.plot(
          [row.temp_bytes / 1e6 for row in rows],
          [row.wall_multiple for row in rows],
          marker,
          color=color,
          label=f"K = {steps}, {kind}",
        )
    _name_points(panel, [row for row in mine if row.K == mine[0].K])
    panel.set_xscale("log")
    panel.set_title(optimizer)
    panel.set_xlabel("compiled temporary memory, MB")
    panel.grid(alpha=0.3)
  panels[0][0].set_ylabel("time, multiples of the plain inner steps")
  panels[0][0].set_ylim(bottom=0)
  panels[0][-1].legend(fontsize=8)
  figure.tight_layout()
  path.parent.mkdir(parents=True, exist_ok=True)
  figure.savefig(path)
  pyplot.close(figure)


def _is_exact(row: Row) -> bool:
  return row.variant in ("naive", "checkpoint") or row.variant.startswith(
    "unrolled"
  )


def _name_points(panel, rows):
  for row in rows:
    panel.annotate(
      row.variant.removeprefix("unrolled_"),
      (row.temp_bytes / 1e6, row.wall_multiple),
      textcoords="offset points",
      xytext=(5, 5),
      fontsize=8,
    )
