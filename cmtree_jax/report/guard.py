"""What the guard tried and what it hands over, as a person reads it."""

from collections.abc import Mapping, Sequence
from typing import Any

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.verdict import Row, Verdict
from cmtree_jax.report import screen, tables


def show(verdict: Verdict | None, told: Sequence[str]) -> None:
  """Prints what was tried on the validation split, and what is handed over.

  Args:
    verdict: of the guard; None: nobody judged.
    told: what a person must know besides.
  """
  console = screen.console()
  if verdict is not None:
    console.print(tables.table(HEADING, COLUMNS[1:], rows(verdict)))
  for line in _sentences(verdict, told):
    console.print(line)


def markdown(verdict: Verdict | None, told: Sequence[str]) -> str:
  """The same as a Markdown text."""
  parts = [f"## {HEADING}", *_sentences(verdict, told)]
  if verdict is not None:
    lines = [COLUMNS, ("---", *["---:"] * (len(COLUMNS) - 1))]
    lines += rows(verdict)
    table = "\n".join(map(tables.markdown_row, lines))
    parts.insert(1, table)
  return "\n\n".join(parts) + "\n"


HEADING = (
  "The guard: short trainings, validation bits per byte (lower is better)"
)
COLUMNS = ("recipe", "BPB", "− natural", "worst target", "")


def rows(verdict: Verdict) -> list[list[str]]:
  """A row for everything that was tried."""
  found = []
  for one in verdict.rows.values():
    beside = [
      f"{one.difference:+.4f}",
      f"{one.worst_difference:+.4f} {one.worst_target}",
    ]
    if one.name == NATURAL:
      beside = ["", ""]
    handed = "handed over" if one.name == verdict.winner else ""
    found.append([one.name, f"{one.bpb:.4f}", *beside, handed])
  return found


def from_json(told: Mapping[str, Any]) -> Verdict | None:
  """The verdict as recipe.json has it; None where nobody judged."""
  if not told["rows"]:
    return None
  handed = told["handed_over"]
  candidate = f" {handed['candidate']}" * bool(handed["candidate"])
  at = f"@{handed['kept_share']:g}" * bool(handed["kept_share"])
  judged = [Row(**one) for one in told["rows"]]
  return Verdict(
    handed["method"] + candidate + at,
    told["why"],
    told["noise_floor"],
    {one.name: one for one in judged},
  )


def _sentences(verdict: Verdict | None, told: Sequence[str]) -> list[str]:
  if verdict is None:
    return list(told)
  return [f"Handed over is {verdict.winner}: {verdict.why}", *told]
