"""Costs, what was left out and why, the settings, and the commands to go on with."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmtree_jax import budget, embed
from cmtree_jax.data import plan as data_plan
from cmtree_jax.data.build import tokenizer
from cmtree_jax.recipe import scorer
from cmtree_jax.report import tables
from cmtree_jax.report.html import escape, page
from cmtree_jax.report.html.results import EXPORT, Results


def cost_figure(found: Results) -> dict[str, Any] | None:
  """FLOPs of search, trials and one final training, by method."""
  rows = _costs(found)
  if not rows:
    return None
  parts = (
    ("search", "search_flops", "--more", ""),
    ("trials", "trial_flops", "--less", "/"),
    ("one final training", "final_flops", "--other", "."),
  )
  names = [escape.name(row["method"]) for row in rows]
  return {
    "data": [
      {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "y": list(range(len(rows))),
        "x": [row[field] for row in rows],
        "text": [f"{name}: {tables.power(row[field])} FLOPs" for row in rows],
        "textposition": "none",
        "hoverinfo": "text",
        "marker": {"color": color, "pattern": {"shape": pattern, "size": 6}},
      }
      for name, field, color, pattern in parts
    ],
    "layout": {
      "barmode": "stack",
      "xaxis": {"title": {"text": "FLOPs"}, "exponentformat": "power"},
      "yaxis": {
        "automargin": True,
        "autorange": "reversed",
        "zeroline": False,
        "tickvals": list(range(len(rows))),
        "ticktext": names,
        "ticklabelstandoff": 4,
      },
      "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
      "margin": {"l": 8, "r": 12, "t": 8, "b": 48},
    },
    "height": 110 + 30 * len(rows),
  }


def _costs(found: Results) -> list[dict[str, Any]]:
  """The first row of every method's full training."""
  rows: dict[str, dict[str, Any]] = {}
  for row in found.rows:
    if row["fraction"] == 1:
      rows.setdefault(row["method"], row)
  return list(rows.values())


def costs(found: Results, name: str) -> str:
  """The figure, and the job as a whole."""
  parts, made = [], cost_figure(found)
  if made:
    told = "FLOPs of one search, of the trials that chose, and of one final training."
    parts.append(page.figure(name, told=told, height=made["height"]))
  lines = []
  if ledger := found.recipe.get("ledger"):
    lines.append(
      f"The whole job searched on {tables.short(ledger['search_tokens'])} tokens "
      f"({tables.power(ledger['search_flops'])} FLOPs) and tried on "
      f"{tables.short(ledger['trial_tokens'])} "
      f"({tables.power(ledger['trial_flops'])} FLOPs)."
    )
  if seconds := found.summary.get("wall_seconds"):
    line = (
      f"Since it was last started or resumed the job ran for {seconds:,.0f} s"
    )
    if peak := found.summary.get("peak_rss_bytes"):
      line += f" and held {peak / 2**30:.2f} GiB at the peak"
    if device := found.summary.get("device"):
      line += f", on {device}"
    lines.append(f"{line}.")
  if commit := found.summary.get("git_commit"):
    lines.append(f"Commit {commit}.")
  return "\n".join([*parts, *map(page.paragraph, lines)])


def left_out(found: Results) -> Iterator[str]:
  """What the corpus lacks that was there, what was ruled out, and why."""
  recipe = found.recipe
  yield from recipe.get("notes") or ()
  for target, share in (recipe.get("overlap") or {}).items():
    yield f"{share:.2%} of the 13-word runs of {target} occur in the corpus."
  yield from (recipe.get("guard") or {}).get("told") or ()
  selected = recipe.get("selection") or found.summary.get("selection") or {}
  for reason, number in (selected.get("because") or {}).items():
    yield f"{number:,} documents: {reason}."


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
  """Settings by the names that a command line gives them."""
  found = {}
  for name, value in settings.items():
    if isinstance(value, Mapping) and value:
      found.update(flat(value, f"{above}{name}."))
    else:
      found[f"{above}{name}"] = _written(value)
  return found


def _written(value: Any) -> str:
  if isinstance(value, list | tuple):
    return ",".join(map(_written, value))
  return str(value).lower() if isinstance(value, bool) else str(value)


def settings(found: Results) -> str:
  """All settings, to be searched."""
  rows = sorted(flat(found.settings).items())
  inside = page.table(("--config.", "value"), rows, caption="Settings")
  inside = inside.replace("<table>", '<table class="text">', 1)
  search = (
    '<label class="buttons" hidden data-filter>Show those with '
    '<input type="search" placeholder="such as budget"></label>'
  )
  return page.fold(f"All {len(rows)} settings", search + inside)


def differences(several: Sequence[Results]) -> str:
  """The settings in which several jobs differ."""
  flats = [flat(one.settings) for one in several]
  names = sorted({name for one in flats for name in one})
  rows = [
    [name, *values]
    for name in names
    if len(set(values := [one.get(name, "") for one in flats])) > 1
  ]
  if not rows:
    return page.paragraph("All settings are equal.")
  columns = ("--config.", *(one.name for one in several))
  inside = page.table(columns, rows, caption="Settings that differ")
  return inside.replace("<table>", '<table class="text">', 1)


def commands(found: Results) -> str:
  """How to go on: to export, to apply, to read in Python, to make this page again."""
  folder, parts = str(found.folder), []
  # Formats that mix leaves refuse weights of single documents.
  leaves = found.is_schedule or found.recipe.get("nodes")
  formats = "jsonl,levanter" if leaves else "jsonl"
  if found.handed or found.is_schedule:
    parts = [
      _command(
        "Export it for a trainer, on the same corpus",
        _apply(
          found,
          "exported",
          *_given(found, "data", "budget"),
          f"export.formats={formats}",
        ),
      ),
      _command(
        "Apply it to another corpus",
        _apply(found, "applied", "data.source=jsonl:CORPUS/*.jsonl"),
      ),
    ]
  if found.handed and (
    found.recipe.get("nodes") or scorer.is_beside(found.recipe)
  ):
    parts.append(
      _command(
        "Weigh texts in Python",
        "from cmtree_jax import recipe\n\n"
        f"made = recipe.load({folder!r})\n"
        'print(made.apply(["a text", "another"]).weight_N)',
      )
    )
  if found.manifest:
    line = f"The job has written an export: {found.folder / EXPORT}."
    parts.insert(0, page.paragraph(line))
  again = shlex.join(["python", "-m", "cmtree_jax.report", folder])
  parts.append(
    _command("Make this page again, or beside others", f"{again} [OTHER ...]")
  )
  return "\n".join(parts)


def _apply(found: Results, into: str, *more: str) -> str:
  words = ["python", "-m", "cmtree_jax.main", "--config", "configs/default.py"]
  words += ["--workdir", f"runs/{into}"]
  words.append(f"--config.recipe.apply={found.folder}")
  readers = _given(found, "tokenizer", "embedding")
  words += [f"--config.{one}" for one in (*readers, *more)]
  return " \\\n  ".join(_lines(words))


_PLANS = {
  "data": data_plan.Plan(),
  "budget": budget.Plan(),
  "tokenizer": tokenizer.Plan(),
  "embedding": embed.Plan(),
}


def _given(found: Results, *blocks: str) -> list[str]:
  """Settings of the job that are not the defaults, as a command line gives them."""
  given = []
  for block in blocks:
    usual = flat(_PLANS[block]._asdict())
    given += [
      f"{block}.{name}={value}"
      for name, value in flat(found.settings.get(block, {})).items()
      if usual.get(name, value) != value
    ]
  return given


def _lines(words: Sequence[str]) -> Iterator[str]:
  """A flag and its value stand on one line."""
  yield shlex.join(words[:3])
  pairs = iter(words[3:])
  for word in pairs:
    yield shlex.join([word] if "=" in word else [word, next(pairs)])


def _command(told: str, text: str) -> str:
  return (
    f"<h3>{escape.text(told)}</h3>"
    '<div class="command"><button type="button" hidden data-copy>Copy</button>'
    f"<pre><code>{escape.text(text)}</code></pre></div>"
  )
