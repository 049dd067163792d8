"""The page of a selection: counts by source and domain, and documents as examples."""

from collections.abc import Iterable

from cmtree_jax.report.html import page
from cmtree_jax.report.html.page import Section
from cmtree_jax.report.selection import (
  VERDICTS,
  Example,
  Group,
  Selection,
  sentences,
)

_COLUMNS = (
  *("documents", *VERDICTS, "tokens", *(f"% {one}" for one in VERDICTS)),
  "% of training",
)


def build(found: Selection, title: str, facts: Iterable[str]) -> str:
  """The whole page; all that comes from documents is escaped.

  Args:
    found: what is reported.
    title: of the page.
    facts: sentences that stand at its head.
  """
  lead = "".join(map(page.paragraph, (*facts, *sentences(found))))
  every = page.table(("", *_COLUMNS), [_row(found.all)], caption="The corpus")
  sections = [Section("The corpus", every)]
  for name, groups in found.by.items():
    table = page.table((name, *_COLUMNS), map(_row, groups))
    sections.append(Section(f"By {name}", table))
  for verdict, name in reversed(list(enumerate(VERDICTS))):
    chosen = [one for one in found.examples if one.verdict == verdict]
    if chosen:
      inside = "".join(map(_example, chosen))
      sections.append(Section(f"Some that are {name}", inside))
  return page.page(title, lead, sections)


def _row(one: Group) -> list[str]:
  tokens = sum(one.tokens)
  return [
    one.name or "unknown",
    f"{sum(one.documents):,}",
    *(f"{n:,}" for n in one.documents),
    f"{tokens:,}",
    *(f"{n / max(tokens, 1):.1%}" for n in one.tokens),
    f"{one.recipe:.1%}",
  ]


def _example(one: Example) -> str:
  told = f"{one.id} · {one.source or 'unknown'}, weight {one.weight:.3g}"
  told += f": {one.reason}" * bool(one.reason)
  shown = page.document(told, one.text)
  if one.other_id:
    shown += page.document(one.other_id, one.other_text)
  return shown
