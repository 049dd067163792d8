"""What the guard tried and what it hands over, as a person reads it."""

from collections.abc import Sequence

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.verdict import Verdict
from cmtree_jax.report import screen, tables


def show(verdict: Verdict | None, told: Sequence[str]) -> None:
  """Prints what was tried on the validation split, and what is handed over.

  Args:
    verdict: of the guard; None: nobody judged.
    told: what a person must know besides.
  """
  console = screen.console()
  if verdict is not None:
    console.print(tables.table(_GUARD, _GUARDED[1:], _guarded(verdict)))
  for line in _sentences(verdict, told):
    console.print(line)


def markdown(verdict: Verdict | None, told: Sequence[str]) -> str:
  """The same as a Markdown text."""
  parts = [f"## {_GUARD}", *_sentences(verdict, told)]
  if verdict is not None:
    lines = [_GUARDED, ("---", *["---:"] * (len(_GUARDED) - 1))]
    lines += _guarded(verdict)
    table = "\n".join(map(tables.markdown_row, lines))
    parts.insert(1, table)
  return "\n\n".join(parts) + "\n"


_GUARD = (
  "The guard: short trainings, validation bits per byte (lower is better)"
)
_GUARDED = ("recipe", "BPB", "− natural", "worst target", "")


def _guarded(verdict: Verdict) -> list[list[str]]:
  """A row for everything that was tried."""
  rows = []
  for one in verdict.rows.values():
    beside = [
      f"{one.difference:+.4f}",
      f"{one.worst_difference:+.4f} {one.worst_target}",
    ]
    if one.name == NATURAL:
      beside = ["", ""]
    handed = "handed over" if one.name == verdict.winner else ""
    rows.append([one.name, f"{one.bpb:.4f}", *beside, handed])
  return rows


def _sentences(verdict: Verdict | None, told: Sequence[str]) -> list[str]:
  if verdict is None:
    return list(told)
  return [f"Handed over is {verdict.winner}: {verdict.why}", *told]
