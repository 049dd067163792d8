"""What the experiments on the joint tree share: one comparison each, over common cells.

Each experiment names methods and variants of configs/claims.py, has them compared,
and draws what it shows from the rows. Cells lie in WORKDIR/cells, so what one
experiment has trained another does not train again, and a stopped command goes on.
"""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from cmtree_jax import budget
from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs import cells, guard
from cmtree_jax.methods import METHODS
from cmtree_jax.types import UserError

# Methods and variants whose search trains nothing: what a search has to beat.
FREE = guard.Plan().rivals

# The lines of a figure; also the colour-blind can tell these apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#767676", "#e69f00")


class Results(NamedTuple):
  """The rows of a comparison, as an experiment asks for them."""

  config: Any
  folder: Path  # where the experiment writes
  cells: cells.Folder
  rows: list[dict[str, Any]]

  @property
  def targets(self) -> list[str]:
    """Target sets; larger models stand in sets of their own."""
    return list(dict.fromkeys(row["target_set"] for row in self.rows))

  def trained(self, methods: Iterable[str]) -> list[str]:
    """Which of these methods were compared."""
    methods_seen = {row["method"] for row in self.rows}
    return [name for name in methods if name in methods_seen]

  def bpb(
    self,
    method: str,
    target: str,
    split: str = "test",
    *,
    fraction: float = FULL,
  ) -> list[float]:
    """Bits per byte of every seed, each the mean over a set's targets."""
    seeds: dict[int, list[float]] = {}
    for row in self.rows:
      if (row["method"], row["target_set"]) == (method, target) and (
        row["split"] == split and row["fraction"] == fraction
      ):
        seeds.setdefault(row["seed"], []).append(row["bpb"])
    wanted = range(self.config.compare.seeds)
    return [sum(seeds[seed]) / len(seeds[seed]) for seed in wanted]

  @property
  def searches(self) -> list[int]:
    """The search that each seed's training stands on."""
    seeds = self.config.compare.seeds
    count = self.config.compare.search_seeds or seeds
    return [seed % count for seed in range(seeds)]

  def difference(
    self, method: str, other: str, target: str, split: str = "test"
  ) -> Interval:
    """The mean of method - other, paired, with its interval over searches."""
    return statistics.paired_difference(
      self.bpb(method, target, split),
      self.bpb(other, target, split),
      search_S=self.searches,
    )

  def value(self, method: str, target: str, column: str) -> float:
    """The mean over seeds of a column of full trainings."""
    found = [
      row[column]
      for row in self.rows
      if (row["method"], row["target_set"]) == (method, target)
      and row["fraction"] == FULL
    ]
    return sum(found) / len(found)

  def data(self) -> Any:
    """The corpus, as the comparison prepared it."""
    return prepared(self.config, self.folder)

  def found(self, method: str, target: str) -> cells.Found:
    """What the first search of a method handed over."""
    found = self.cells.found(cells.Search(method, target, 0))
    assert found is not None
    return found


def prepared(config: Any, folder: Path) -> Any:
  """The corpus of a comparison that writes to this folder."""
  from cmtree_jax.jobs import compare, plan

  folder.mkdir(parents=True, exist_ok=True)
  with opened(config, folder) as job:
    return compare.prepared(job, plan.of_comparison(config))


@contextlib.contextmanager
def opened(config: Any, folder: Path) -> Iterator[Any]:
  """A job of this config in this folder, which nothing but its end stops."""
  from cmtree_jax.jobs.job import Job, set_up
  from cmtree_jax.loops.checkpoint import StopFlag
  from cmtree_jax.report.progress import Reporter

  set_up(config)
  with Reporter() as reporter:
    yield Job(config, folder, reporter, StopFlag())


def job(
  name: str,
  methods: Sequence[str],
  show: Callable[[Results], Iterable[Path]],
  *,
  concentrations: bool = False,
  sizes: bool = False,
) -> Callable[..., int]:
  """What `cmtree_jax.main.command` runs for an experiment.

  Args:
    name: what the experiment and its folder in the workdir are called.
    methods: names of methods and variants, unless the config names some. Those
      that the config does not know at its scale are left out.
    show: draws and writes; returns the files.
    concentrations: compare also at the effective sample sizes of the config.
    sizes: train also models of the other sizes of the config.
  """

  def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
    from cmtree_jax.report import tables

    own, wanted = plain(config), config.compare
    if concentrations:
      own.compare.effective_sample_sizes = wanted.effective_sample_sizes
    if sizes:
      own.compare.final_presets = wanted.final_presets
    status, found = compared(
      own.lock(), workdir, name, methods, overwrite=overwrite
    )
    if not status:
      tables.show_files(list(show(found)))
    return status

  return run


def require_block(config: Any, name: str, example: str) -> None:
  """Refuses a config that is none of this experiment's.

  Args:
    config: of the job.
    name: of a block that the experiment reads.
    example: a config that has it.
  Raises:
    UserError: it is not there.
  """
  if name not in config:
    raise UserError(
      f"The config has no block `{name}`; take one that has, as --config {example}."
    )


def plain(config: Any) -> Any:
  """A copy that can be changed, with full trainings of one size alone."""
  require_block(config, "compare", "claims:toy")
  own = config.copy_and_resolve_references().unlock()
  own.compare.effective_sample_sizes = ()
  own.compare.final_presets = ()
  own.compare.fractions = (FULL,)
  own.compare.natural_multiples = ()
  return own


def compared(
  config: Any,
  workdir: Path,
  name: str,
  methods: Sequence[str],
  *,
  overwrite: bool = False,
) -> tuple[int, Results]:
  """Does what is left of a comparison: (exit status, its rows if that is 0).

  Args:
    config: of the comparison; its methods and its cells are set here.
    workdir: holds the cells.
    name: of the folder in it for what this comparison writes.
    methods: see `job`.
    overwrite: throws away what another comparison wrote there; no cells.
  """
  from cmtree_jax.jobs import compare

  with config.unlocked():
    known = {*config.variants, *METHODS}
    config.compare.methods = config.compare.methods or tuple(
      one for one in methods if one in known
    )
    config.compare.cells = str(workdir / "cells")
  folder = workdir / name
  status = compare.run(config, folder, overwrite=overwrite)
  found = Results(config, folder, cells.Folder(workdir / "cells"), [])
  if status:
    return status, found
  rows = pq.read_table(folder / compare.RESULTS_FILE).to_pylist()
  return status, found._replace(rows=rows)


def searched(
  config: Any,
  workdir: Path,
  name: str,
  show: Callable[[Any], Iterable[Path]],
  *,
  overwrite: bool = False,
) -> int:
  """Does the searches of a comparison and trains nothing; returns the exit status.

  Args:
    config: of the comparison; its cells are set here.
    workdir: holds the cells.
    name: of the folder in it for what is shown.
    show: gets the comparison, writes and returns files.
    overwrite: as in `compared`.
  """
  from cmtree_jax.jobs import compare, plan
  from cmtree_jax.jobs import job as jobs
  from cmtree_jax.report import tables

  with config.unlocked():
    config.compare.cells = str(workdir / "cells")
  plan.check_comparison(config)

  def story(job):
    chosen = plan.of_comparison(job.config)
    with compare.cell_folder(job.config, job.workdir) as folder:
      data = compare.prepared(job, chosen)
      comparison = compare.Comparison.make(job, data, chosen, folder)
      compare.find(comparison)
      files = list(show(comparison))
    return lambda: tables.show_files(files)

  return jobs.run(story, config, workdir / name, overwrite=overwrite)


# Looks at a document, at most, for one that natural has; never below the config's.
_LOOKS = 2


def at_epochs(
  config: Any,
  workdir: Path,
  name: str,
  methods: Sequence[str],
  epochs: Sequence[float],
  *,
  overwrite: bool = False,
) -> tuple[int, dict[float, Results]]:
  """Does one comparison at each of several budgets: (exit status, by epochs).

  Args:
    config: of the comparisons.
    workdir: `epochs_4` in it holds the cells of four epochs.
    name: as in `compared`.
    methods: see `job`.
    epochs: of the corpus; every method searches, is tried and trained for each.
    overwrite: as in `compared`.
  """
  parts: dict[float, Results] = {}
  status = 0
  for one in epochs:
    status, parts[one] = compared(
      at_budget(config, one),
      workdir / f"epochs_{one:g}",
      name,
      methods,
      overwrite=overwrite,
    )
    if status:
      break
  return status, parts


def over_budgets(
  name: str,
  methods: Sequence[str],
  epochs: Sequence[float],
  show: Callable[[Mapping[float, Results], Path], Iterable[Path]],
) -> Callable[..., int]:
  """What `command` runs: a comparison at each budget, then all side by side.

  Args:
    name: as in `compared`.
    methods: see `job`.
    epochs: the budgets; one that the config sets is the only one.
    show: writes files into `WORKDIR/name`, from the results by epochs.
  """

  def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
    from cmtree_jax.report import tables

    own = config.budget.epochs
    status, parts = at_epochs(
      config,
      workdir,
      name,
      methods,
      epochs if own == budget.Plan().epochs else (own,),
      overwrite=overwrite,
    )
    if not status:
      tables.show_files(list(show(parts, workdir / name)))
    return status

  return run


def at_budget(config: Any, epochs: float) -> Any:
  """A config for so many epochs, with full trainings of one size alone."""
  own = plain(config)
  own.budget.epochs = epochs
  # With four looks at most, four epochs leave nothing but natural.
  own.budget.max_epochs = max(own.budget.max_epochs, _LOOKS * epochs)
  return own.lock()


def write_table(
  path: Path,
  title: str,
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  printed: bool = True,
) -> Path:
  """Writes a Markdown table and, unless it is too wide, prints it; makes its folder."""
  from cmtree_jax.data import store

  path.parent.mkdir(parents=True, exist_ok=True)
  lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
  table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
  text = f"## {title}\n\n{table}\n"
  store.write_atomically(path, text)
  if printed:
    print(text)
  return path


def signed(interval: Interval) -> str:
  """A difference with half the width of its interval, where it has one."""
  spread = interval.high - interval.mean
  return f"{interval.mean:+.3f}" + (f" ±{spread:.3f}" if spread >= 0 else "")


def write_differences(
  found: Results, file: str, what: str, methods: Sequence[str]
) -> Path:
  """Writes a table: natural's bits per byte, then differences to it by target."""
  rows = [
    [NATURAL]
    + [
      f"{sum(bpb) / len(bpb):.3f}"
      for bpb in (found.bpb(NATURAL, target) for target in found.targets)
    ]
  ]
  for method in methods:
    row = [signed(found.difference(method, NATURAL, t)) for t in found.targets]
    rows.append([method, *row])
  return write_table(
    found.folder / file,
    "Test bits per byte: natural's, and differences to it",
    [what, *found.targets],
    rows,
  )


def panels(
  count: int, *, width: float = 3.1, height: float = 2.7, zero: bool = True
):
  """A figure with one panel per target: (figure, axes).

  Args:
    count: of panels.
    width: of one, in inches.
    height: of one.
    zero: draw a line there, for differences.
  """
  from matplotlib.figure import Figure

  columns = 2 if count in (2, 4) else min(count, 3)
  lines = -(-count // columns)
  figure = Figure((width * columns, height * lines + 0.5), layout="constrained")
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax in axes[count:]:
    ax.set_visible(False)
  for ax in axes[:count]:
    if zero:
      ax.axhline(0, color="black", linewidth=0.8)
    ax.grid(axis="y", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
  return figure, axes[:count]


def legend(figure: Any, axes: Sequence[Any]) -> None:
  """One legend for all panels, above them."""
  handles, labels = axes[0].get_legend_handles_labels()
  handle_of = dict(zip(labels, handles, strict=True))
  columns = 4 if len(axes) > 2 else 2
  figure.legend(
    handle_of.values(),
    handle_of.keys(),
    loc="outside upper center",
    ncols=columns,
    frameon=False,
  )


def line(
  ax: Any,
  points: Mapping[float, Interval],
  *,
  color: str,
  marker: str = "o",
  **style: Any,
) -> None:
  """Means with their intervals, joined."""
  x = list(points)
  mean = [one.mean for one in points.values()]
  # Of resamples, one side may be longer, and a mean at the very end of them.
  spread = [
    [max(one.mean - one.low, 0) for one in points.values()],
    [max(one.high - one.mean, 0) for one in points.values()],
  ]
  ax.errorbar(
    x, mean, spread, color=color, marker=marker, markersize=4, capsize=2,
    linewidth=1.4, **style,
  )  # fmt: skip


def save(figure: Any, path: Path) -> Path:
  """Writes a figure; equal results give equal bytes."""
  import matplotlib

  from cmtree_jax.data import store

  content = io.BytesIO()
  style = {
    "svg.hashsalt": path.stem,
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans", "Arial"],  # named by every text
  }
  with matplotlib.rc_context(style):
    figure.savefig(
      content, format="svg", metadata={"Date": None}, bbox_inches="tight"
    )
  store.write_atomically(path, content.getvalue())
  return path
