"""What a job left in its workdir, as far as the report tells of it.

Everything is read from files alone, whatever job wrote them; what it did not write is
None or empty.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax import budget as budgets
from cmtree_jax.budget import Budget
from cmtree_jax.data import mirror
from cmtree_jax.evaluate.results import MEAN, NATURAL, Standing, standings
from cmtree_jax.recipe import recipe as recipes
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.report.html import damage, documents
from cmtree_jax.report.html.damage import Lack
from cmtree_jax.report.html.documents import Documents
from cmtree_jax.types import UserError

SETTINGS_FILE = "config.json"
SUMMARY_FILE = "summary.json"
ROWS_FILE = "results.parquet"
EXPORT = "export"

Schedule = Sequence[Mapping[str, Any]]  # the rows of a schedule.parquet


class Results(NamedTuple):
  """A workdir as it is read; a notebook shows it by its table."""

  folder: Path
  settings: dict[str, Any]  # of the job
  recipe: dict[
    str, Any
  ]  # recipe.json, or what a schedule says it was made from
  summary: dict[str, Any]
  rows: list[dict[str, Any]]  # of results.parquet
  standings: list[Standing]
  schedules: dict[str, Schedule]  # by method, of its first run
  documents: Documents | None
  manifest: dict[str, Any]  # of the export
  lacks: tuple[Lack, ...] = ()  # files that are missing or not whole

  @property
  def name(self) -> str:
    """The folder as a person gave it, which tells several apart."""
    return str(self.folder) if self.folder.name else self.folder.resolve().name

  @property
  def method(self) -> str:
    """What was asked for."""
    return self.settings.get("method", "")

  @property
  def handed(self) -> str:
    """The method that was handed over; "" where there is nothing to hand over."""
    guard = self.recipe.get("guard")
    if guard:
      return guard["handed_over"]["method"]
    return self.recipe.get("method", "")

  @property
  def budget(self) -> Budget | None:
    """The training that the recipe is for."""
    told = self.recipe.get("budget")
    return budgets.from_json(told) if told else None

  @property
  def is_schedule(self) -> bool:
    """Whether weights moved while the final model was trained."""
    return schedules.is_in(self.folder)

  @property
  def main(self) -> Standing | None:
    """What was handed over, or asked for, on all targets together."""
    name = self.handed or self.method
    mine = [one for one in self.standings if one.method == name]
    means = [one for one in mine if one.target == MEAN]
    return next(iter(means or mine), None)

  def _repr_html_(self) -> str:
    """The table, for a notebook."""
    from cmtree_jax.report.html import notebook

    return notebook.of_results(self)


def load(folder: Path | str) -> Results:
  """What a job left in a workdir.

  Raises:
    UserError: it left nothing there, or a file is damaged.
  """
  folder = mirror.reading(folder)
  if not (folder / SETTINGS_FILE).is_file():
    raise UserError(
      f"No {SETTINGS_FILE} in {folder}. Give the workdir of a job that has ended."
    )
  recipe = damage.whole(folder / recipes.FILE, *_OF_RECIPE)
  if schedules.is_in(folder):
    recipe = damage.whole(folder / schedules.FILE, "made")["made"]
  settings = damage.whole(folder / SETTINGS_FILE, "method")
  rows, found_standings = damage.checked(folder / ROWS_FILE, _standings)
  if not (rows or recipe or (folder / documents.FILE).is_file()):
    raise UserError(
      f"{folder} has no results yet. Run the job to its end: the same command goes "
      "on where it was stopped."
    )
  found = Results(
    folder=folder,
    settings=settings,
    recipe=recipe,
    summary=damage.whole(folder / SUMMARY_FILE, cure=damage.REMOVE),
    rows=rows,
    standings=found_standings,
    schedules=_schedules(folder, settings.get("method", "")),
    documents=None,
    manifest=damage.whole(folder / EXPORT / "manifest.json"),
    lacks=tuple(damage.lacks(folder, rows=bool(rows))),
  )
  budget = damage.checked(folder / recipes.FILE, lambda _: found.budget)
  told = damage.checked(
    folder / documents.FILE,
    lambda _: documents.load(folder, epochs=budget.epochs if budget else 1.0),
  )
  return found._replace(documents=told)


_OF_RECIPE = ("method", "targets", "budget", "nodes")  # what the page reads


def _standings(path: Path) -> tuple[list[dict[str, Any]], list[Standing]]:
  rows = _rows(path)
  return rows, standings(rows, seeds=_seeds(rows))


def _rows(path: Path) -> list[dict[str, Any]]:
  import pyarrow.parquet as pq

  return pq.read_table(path).to_pylist() if path.is_file() else []


def _seeds(rows: Sequence[Mapping[str, Any]]) -> int:
  """Those that are compared: natural may have more, which tell the noise."""
  of_method: dict[str, set[int]] = {}
  for row in rows:
    of_method.setdefault(row["method"], set()).add(row["seed"])
  others = [seeds for name, seeds in of_method.items() if name != NATURAL]
  return max(map(len, others or of_method.values()), default=0)


def _schedules(folder: Path, first: str) -> dict[str, Schedule]:
  """How online methods moved their mixtures, by method, in the run of seed 0."""
  found: dict[str, Schedule] = {}
  for path in sorted(folder.glob(f"cells/search/*.0.run/{schedules.FILE}")):
    method = damage.whole(path, "method")["method"]
    table = path.with_name(schedules.TABLE_FILE)
    found[method] = damage.checked(table, _rows)
  return dict(sorted(found.items(), key=lambda item: item[0] != first))
