"""Answers to questions about a corpus or two recipes, as a person reads them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmtree_jax.evaluate.presence import Presence
from cmtree_jax.report import screen, tables

_PRESENCE = (
  *("texts", "KL", "by\nchance", "of the\npool", "near\npool", "near\nothers"),
  "overlap",
)
_LEGEND = (
  "KL: of the target's clusters against the pool's, in nats, and what as many texts of "
  "the pool itself would have. Of the pool: its tokens in the clusters that hold nine "
  "tenths of the target. Near: median cosine of a text to the nearest document of the "
  "pool, and to the nearest other text of the target. Overlap: share of the "
  "target's runs of thirteen words that stand in the pool as they are."
)
# Far from the pool, where fewer texts than this are nearer to it than to each other and
# the pool has little of the target's clusters.
_FEW, _LITTLE = 0.1, 0.01
_SHOWN = 12  # settings and leaves that differ


def show_presence(
  found: Mapping[str, Presence], overlap: Mapping[str, float]
) -> None:
  """Prints a row and a sentence for every target."""
  console = screen.console()
  rows = [
    [
      name,
      f"{one.texts}",
      f"{one.kl:.2f}",
      f"{one.kl_of_chance:.2f}",
      f"{one.share:.1%}",
      f"{one.nearest:.2f}",
      f"{one.among:.2f}",
      f"{overlap.get(name, math.nan):.1%}",
    ]
    for name, one in found.items()
  ]
  console.print(
    tables.table("Targets in the pool", _PRESENCE, rows, first="target")
  )
  for name, one in found.items():
    console.print(presence_line(name, one))
  console.print(_LEGEND)


def presence_line(name: str, one: Presence) -> str:
  """One sentence on a target."""
  if one.nearer < _FEW and one.share < _LITTLE:
    return (
      f"{name} is hardly represented: {one.share:.1%} of the pool is in its clusters, "
      f"and {one.nearer:.0%} of its texts are nearer to the pool than to each other. "
      "No recipe draws what is not there."
    )
  extra = max(0.0, one.kl - one.kl_of_chance)
  return (
    f"{name} is represented: its clusters hold {one.share:.1%} of the pool, "
    f"{one.nearer:.0%} of its texts are nearer to a document of the pool than to each "
    f"other, and the pool is {extra:.2f} nats from it beyond chance."
  )


def show_changes(found: Mapping[str, Any]) -> None:
  """Prints what changed between two recipes."""
  console = screen.console()
  for line in change_lines(found):
    console.print(line, soft_wrap=True)


def change_lines(found: Mapping[str, Any]) -> Iterator[str]:
  """Sentences on two recipes.

  Args:
    found: "facts" and "settings" as (name, before, after); "shares" of groups of
      documents, alike, by the name of the grouping; "leaves" alike; and "moved", the
      share of the tokens that go to other documents, with "common", how many
      documents both know; None where they know none together.
  """
  for name, before, after in found["facts"]:
    yield f"{name}: {before}" + ("" if before == after else f" -> {after}")
  settings = found["settings"]
  yield (
    f"{len(settings)} settings differ"
    + (": " if settings else ".")
    + "; ".join(f"{k} {a!r} -> {b!r}" for k, a, b in settings[:_SHOWN])
    + (" ..." if len(settings) > _SHOWN else "")
  )
  for name, shares in found["shares"].items():
    yield f"Tokens by {name}: {_listed(shares)}."
  if found["leaves"]:
    yield f"Weights of leaves, which are the same: {_listed(found['leaves'], '.2f')}."
  if found["moved"] is None:
    yield "They know no document together, so weights are not compared one by one."
  else:
    yield (
      f"{found['moved']:.1%} of the training tokens go to other documents, of the "
      f"{found['common']:,} that both weigh."
    )


def _listed(
  changes: Sequence[tuple[str, float, float]], form: str = ".1%"
) -> str:
  """The largest changes first."""
  order = sorted(changes, key=lambda one: -abs(one[2] - one[1]))
  return ", ".join(
    f"{name or 'unknown'} {before:{form}} -> {after:{form}}"
    for name, before, after in order[:_SHOWN]
  )
