"""report.html: all that a job found, on one page; of several jobs side by side."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax.data import mirror, store
from cmtree_jax.report import guard, tables
from cmtree_jax.report.html import (
  asked,
  escape,
  facts,
  looks,
  nodes,
  notebook,
  page,
  rounds,
  scatter,
  standings,
  tree,
  values,
)
from cmtree_jax.report.html import results as reading
from cmtree_jax.report.html.nodes import Look
from cmtree_jax.report.html.page import Section
from cmtree_jax.report.html.results import Results

FILE = "report.html"


class Place(NamedTuple):
  """Where a part of the page stands."""

  name: str  # of the part's figure
  tree: str  # of the figure and list of the same job's tree
  figures: dict[str, Any]  # the part puts those that it needs there
  share: float  # of the room of a page that the job has
  nodes: list[Look]  # of the job


# HTML of a job; "" where there is nothing to tell.
_Part = Callable[[Results, Place], str]


def write(
  folders: Sequence[Path],
  path: Path,
  *,
  tell: Callable[[str], None] = lambda line: None,
) -> Path:
  """Reads workdirs and writes their page, whole or not at all.

  Args:
    folders: the workdirs.
    path: of the page.
    tell: gets a line for every file that the page had to do without.
  Raises:
    UserError: a folder holds no results.
    ImportError: plotly is not installed.
  """
  found = [reading.load(folder) for folder in folders]
  store.write_atomically(path, mirror.addressed(build(found)))
  for one in found:
    for lack in one.lacks:
      tell(lack.line)
  return path


def missing(error: ImportError) -> str:
  """What to do where the page could not be made."""
  return f"No {FILE}: it needs {error.name or error}, pip install cmtree_jax[report]."


def build(several: Sequence[Results]) -> str:
  """The page of one workdir, or of several side by side."""
  share = 1 / len(several)
  built = _built(several, share)
  # Long names, or texts of many escapes: with fewer documents it fits.
  while len(built.encode()) > _BYTES and share > _LEAST:
    share /= 2
    built = _built(several, share)
  return built


_BYTES = 6_000_000  # of a page
_LEAST = 1 / 64  # of the usual documents, and then it may be longer


def _built(several: Sequence[Results], share: float) -> str:
  figures: dict[str, Any] = {}
  looked = [nodes.looks(one, share=share) for one in several]
  sections = []
  for name, part in _PARTS.items():
    bodies = []
    for number, one in enumerate(several):
      own = f"{escape.identifier(name)}-{number}"
      place = Place(own, f"Tree-{number}", figures, share, looked[number])
      told = [page.paragraph(x.line) for x in one.lacks if x.section == name]
      bodies.append("\n".join([*told, part(one, place)]).strip())
    if any(bodies):
      sections.append(Section(name, _beside(several, bodies)))
  title, lead = _of_one(several[0]) if len(several) == 1 else _of_many(several)
  if len(several) > 1:
    sections.append(Section("Differences", facts.differences(several)))
  return page.page(title, lead, sections, figures)


def _of_one(one: Results) -> tuple[str, str]:
  return asked.title(one), _lead(one)


def _of_many(several: Sequence[Results]) -> tuple[str, str]:
  bodies = [page.paragraph(asked.title(one)) + _lead(one) for one in several]
  lead = asked.glance(several) + _beside(several, bodies)
  return f"{len(several)} jobs side by side", lead


def _lead(one: Results) -> str:
  lines = "".join(page.paragraph(x, "lead") for x in asked.sentences(one))
  where = f"{one.folder.resolve()}"
  return lines + asked.cards(one) + page.paragraph(where, "soft")


def _beside(several: Sequence[Results], bodies: Sequence[str]) -> str:
  """Columns under the names of the workdirs; of one alone the body as it is."""
  if len(several) == 1:
    return bodies[0]
  columns = [
    f"<div><h3>{escape.text(one.name)}</h3>"
    f"{body or page.paragraph('Nothing of this.', 'soft')}</div>"
    for one, body in zip(several, bodies, strict=True)
  ]
  # Three are the most that have room; four stand two by two.
  across = 2 if len(several) % 3 == 1 or len(several) == 2 else 3
  return (
    f'<div class="beside" style="--across:{across}">{"".join(columns)}</div>'
  )


def _table(found: Results, place: Place) -> str:
  blocks = tables.blocks(found.standings)
  if not blocks:
    return ""
  place.figures[place.name] = standings.figure(blocks)
  parts = [standings.section(blocks, place.name)]
  if made := standings.curves(found):
    place.figures[f"{place.name}-curves"] = made
    told = "Bits per byte over training tokens, mean over seeds."
    parts.append(page.figure(f"{place.name}-curves", told=told, height=420))
  judged = found.recipe.get("guard")
  if judged and (verdict := guard.from_json(judged)):
    rows = guard.rows(verdict)
    table = page.table(guard.COLUMNS, rows, caption=guard.HEADING)
    parts.append(page.fold(f"What the guard tried: {len(rows)} recipes", table))
  return "\n".join(parts)


def _tree(found: Results, place: Place) -> str:
  if not place.nodes:
    body = _documents(found)
    return body + _flow(found) if body else ""
  place.figures[place.name] = tree.figure(place.nodes, place.name)
  return tree.section(place.nodes, place.name) + _flow(found)


def _flow(found: Results) -> str:
  """Where the tokens go, and what the levels of a tree see."""
  lines = tables.level_lines(found.recipe.get("levels") or ())
  if "token_shares" in found.recipe:
    lines += tables.token_lines(found.recipe["token_shares"])
  if "concentration" in found.recipe:
    lines.append(tables.concentration_line(found.recipe["concentration"]))
  return "<h3>Where the tokens go</h3>" + page.bullets(lines) if lines else ""


def _documents(found: Results) -> str:
  """What weights of single documents prefer."""
  body = notebook.favored(found.recipe)
  if not body:
    return ""
  if (found.folder / "selection.html").is_file():
    body += (
      '<p><a href="selection.html">What is kept, held back and left out, with the '
      "reasons</a></p>"
    )
  return body


def _map(found: Results, place: Place) -> str:
  if not found.documents or not found.documents.sample:
    return ""
  sample = found.documents.sample[:: round(1 / place.share)]
  figure = scatter.figure(sample, place.tree, share=place.share)
  place.figures[place.name] = figure
  return scatter.section(found, len(sample), place.name)


def _looks(found: Results, place: Place) -> str:
  if not found.documents:
    return ""
  epochs = found.budget.epochs if found.budget else 1.0
  place.figures[place.name] = looks.figure(found.documents, epochs)
  return looks.section(found, place.name)


def _values(found: Results, place: Place) -> str:
  if not values.is_known(place.nodes):
    return ""
  place.figures[place.name] = values.figure(place.nodes)
  return values.section(found, place.nodes, place.name)


def _search(found: Results, place: Place) -> str:
  parts = []
  if rows := rounds.history(found):
    made = rounds.figures(rows)
    names = {title: f"{place.name}-h{i}" for i, title in enumerate(made)}
    place.figures.update({names[title]: one for title, one in made.items()})
    parts.append(rounds.section(rows, names))
  for number, (method, schedule) in enumerate(found.schedules.items()):
    name = f"{place.name}-{number}"
    place.figures[name] = rounds.over_time(schedule)
    told = rounds.told_over_time(method, schedule)
    parts.append(f"<h3>{escape.text(method)}: the mixture over time</h3>")
    parts.append(page.figure(name, told=told, height=460))
  return "\n".join(parts)


def _costs(found: Results, place: Place) -> str:
  if made := facts.cost_figure(found):
    place.figures[place.name] = made
  return facts.costs(found, place.name)


def _left_out(found: Results, place: Place) -> str:
  del place
  return page.bullets(facts.left_out(found))


def _settings(found: Results, place: Place) -> str:
  del place
  return facts.settings(found)


def _commands(found: Results, place: Place) -> str:
  del place
  return facts.commands(found)


_PARTS: dict[str, _Part] = {
  "Results": _table,
  "Tree": _tree,
  "Map": _map,
  "Repeats": _looks,
  "Values": _values,
  "Search": _search,
  "Costs": _costs,
  "Left out": _left_out,
  "Settings": _settings,
  "Commands": _commands,
}
