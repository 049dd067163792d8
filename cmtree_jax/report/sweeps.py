"""What a sweep found: a table over its runs, and a figure with a line for each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.evaluate.results import MEAN, NATURAL, Standing
from cmtree_jax.report import figures, tables

TABLE_FILE = "table.md"
ROWS_FILE = "runs.parquet"
FIGURE_FILE = "runs.svg"


class Row(NamedTuple):
  """One method on one target in one run."""

  run: str
  fields: dict[str, Any]  # that the sweep set, dotted -> value
  told: dict[str, str]  # the same as a person reads them
  found: Standing
  is_own: bool  # whether the table shows it; runs.parquet has all


def write(
  rows: Sequence[Row], folder: Path, *, finished: int, planned: int
) -> list[Path]:
  """Writes table.md, runs.parquet and, with matplotlib, runs.svg; returns them.

  Args:
    rows: of all runs that are finished.
    folder: gets the files.
    finished: how many these are.
    planned: how many the sweep has.
  """
  shown = _shown(rows)
  names = list(dict.fromkeys(name for row in rows for name in row.fields))
  folder.mkdir(parents=True, exist_ok=True)
  head = f"{finished} of {planned} runs are finished."
  text = f"{head}\n\n{_markdown(shown, names)}" if shown else f"{head}\n"
  store.write_atomically(folder / TABLE_FILE, text)
  files = [folder / TABLE_FILE]
  if not rows:
    return files
  _write_rows(rows, names, folder / ROWS_FILE)
  files.append(folder / ROWS_FILE)
  if shown:
    try:
      draw(shown, names, folder / FIGURE_FILE)
      files.append(folder / FIGURE_FILE)
    except ImportError:
      print(
        f"No {FIGURE_FILE}: it needs matplotlib, pip install cmtree_jax[report]."
      )
  return files


def _shown(rows: Sequence[Row]) -> list[Row]:
  """Of every run its own methods, on the mean of several targets if there is one."""
  means = {
    (row.run, row.found.target_set) for row in rows if row.found.target == MEAN
  }
  return [
    row
    for row in rows
    if row.is_own
    and row.found.method != NATURAL
    and (
      row.found.target == MEAN or (row.run, row.found.target_set) not in means
    )
  ]


_COLUMNS = ("method", "target", "BPB", "− natural", "verdict", "ESS", "share")
_LEGEND = (
  "BPB: bits per byte on the test split. − natural: the paired difference to the "
  "natural mixture of the same run, ± half of its 95 % interval; below zero is "
  "better. ESS: effective share of the corpus. Share: FLOPs of search and trials "
  "in those of one final training."
)


def _markdown(rows: Sequence[Row], names: Sequence[str]) -> str:
  lines = [[*names, *_COLUMNS], ["---"] * (len(names) + 2) + ["---:"] * 5]
  for row in rows:
    one = row.found
    lines.append(
      [
        *(row.told.get(name, "") for name in names),
        one.method,
        tables.place(one),
        f"{one.bpb:.4f}",
        tables.difference(one.to_natural),
        one.verdict,
        f"{one.effective_sample_size:.1%}",
        f"{one.search_share:.0%}",
      ]
    )
  table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
  best = min(rows, key=lambda row: row.found.to_natural.mean)
  settings = ", ".join(f"{k} = {v}" for k, v in best.told.items())
  told = (
    f"The largest fall below natural is {best.found.to_natural.mean:+.4f} bits per "
    f"byte, by {best.found.method} with {settings}. It is the best of {len(rows)} on "
    "the test split, so part of it is luck."
  )
  return f"{table}\n\n{told}\n\n{_LEGEND}\n"


def _write_rows(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
  """All numbers; a setting is text where runs give it several types."""
  import pyarrow as pa

  kinds = {name: {type(row.fields.get(name)) for row in rows} for name in names}
  numbers = ({int}, {float}, {int, float}, {bool})

  def setting(row: Row, name: str) -> Any:
    if kinds[name] in numbers:
      return row.fields[name]
    return row.told.get(name)

  store.write_parquet(
    path,
    pa.Table.from_pylist(
      [
        {
          "run": row.run,
          **{name: setting(row, name) for name in names},
          "method": row.found.method,
          "target_set": row.found.target_set,
          "target": row.found.target,
          "bpb": row.found.bpb,
          "validation_bpb": row.found.validation_bpb,
          "to_natural": row.found.to_natural.mean,
          "to_natural_low": row.found.to_natural.low,
          "to_natural_high": row.found.to_natural.high,
          "verdict": row.found.verdict,
          "effective_sample_size": row.found.effective_sample_size,
          "tokens": row.found.tokens,
          "search_flops": row.found.search_flops,
          "trial_flops": row.found.trial_flops,
        }
        for row in rows
      ]
    ),
  )


def draw(rows: Sequence[Row], names: Sequence[str], path: Path) -> None:
  """Writes parallel coordinates: an axis for each setting, the last for the loss.

  Args:
    rows: a line each.
    names: of the settings.
    path: of the figure, .svg or .png.
  """
  from matplotlib import colormaps
  from matplotlib.figure import Figure

  axes = [(name, [row.told.get(name, "") for row in rows]) for name in names]
  for name, values in (
    ("method", [row.found.method for row in rows]),
    ("target", [tables.place(row.found) for row in rows]),
  ):
    if len(set(values)) > 1 and name not in names:
      axes.append((name, values))
  loss_R = np.array([row.found.to_natural.mean for row in rows])
  low, high = float(loss_R.min()), float(loss_R.max())
  place_R = (loss_R - low) / ((high - low) or 1)
  figure = Figure((2.2 * len(axes) + 2.4, 4.2), layout="constrained")
  ax = figure.subplots()
  spread_R = (
    np.linspace(-1, 1, len(rows)) * 0.02
  )  # equal lines lie side by side
  columns = [_ranks(values) + spread_R for _, values in axes] + [place_R]
  colors = colormaps["cividis"](place_R)
  for line, color in zip(np.stack(columns, axis=1), colors, strict=True):
    ax.plot(line, color=color, linewidth=1.6)
  for x, (_, values) in enumerate(axes):
    ax.axvline(x, color="#767676", linewidth=0.8)
    for value, y in dict(zip(values, _ranks(values), strict=True)).items():
      _label(ax, x, y, value)
  ax.axvline(len(axes), color="black", linewidth=0.8)
  for loss, y in ((low, 0.0), (high, 1.0)):
    _label(ax, len(axes), y, f"{loss:+.4f}")
  ax.set_xticks(range(len(axes) + 1), [*(n for n, _ in axes), "− natural"])
  ax.set_yticks([])
  ax.set_xlim(-0.2, len(axes) + 0.5)
  ax.spines[:].set_visible(False)
  ax.set_title("test bits per byte, difference to natural", fontsize=10)
  figures.save(figure, path, salt="sweep")


def _ranks(values: Sequence[str]) -> np.ndarray:
  """Places from 0 to 1 of values in the order in which they come."""
  order = {value: rank for rank, value in enumerate(dict.fromkeys(values))}
  most = max(len(order) - 1, 1)
  return np.array([order[value] / most for value in values], float)


def _label(ax: Any, x: float, y: float, text: str) -> None:
  ax.annotate(
    text,
    (x, y),
    xytext=(4, 4),
    textcoords="offset points",
    fontsize=8,
    bbox={"color": "white", "alpha": 0.7, "pad": 0.5},
  )
