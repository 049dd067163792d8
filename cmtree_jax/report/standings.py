"""The standings of a comparison for people: on a terminal and as Markdown."""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from cmtree_jax.evaluate.results import MEAN, NATURAL, Standing
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.report import text

# Headings, and numbers right below them: both tables of a target fit 80 characters.
_QUALITY = ("BPB", "− natural", "verdict", "− best other")
_COST = (
  "ESS",
  "search\ntokens",
  "search\nFLOPs",
  "search\nshare",
  "to\nnatural",
  "at equal FLOPs",
)
_UNKNOWN = "-"  # natural was not trained for so long

LEGEND = (
  "BPB: bits per byte of the right answers where a target has answers, else of its "
  "texts. Acc.: share of questions whose right choice has the fewest bits per byte. "
  "Differences are paired by seed, ± is half of their 95 % interval. Better and "
  "worse: the interval excludes zero and the difference is beyond the noise floor, "
  "which is that of two means of independent seeds. The best other method is chosen "
  "on the validation split. ESS: effective share of the corpus. Search: before the "
  "final training; its share is of the final training's FLOPs. To natural: the share "
  "of natural's tokens that reaches its final loss; ≤ where the shortest training "
  'does, ">1" where the longest does not. At equal FLOPs: difference to natural '
  'trained on for the FLOPs of the search; "-" where it was not trained for so '
  "long, see config.compare.natural_multiples."
)


def show(standings: Sequence[Standing], files: Sequence[Path]) -> None:
  """Prints the tables of all targets and what was written."""
  console = Console(highlight=False)
  for block in blocks(standings):
    console.print(_table(title(block), _columns(block), map(_quality, block)))
    console.print(_table(None, _COST, map(_cost, block)))
    console.print(verdict(block), markup=False)
    console.print()
  console.print(LEGEND, markup=False)
  text.show_files(files)


def markdown(standings: Sequence[Standing]) -> str:
  """The same as a Markdown text, one table per target."""
  parts = []
  for block in blocks(standings):
    columns = [*_columns(block), *_COST]
    names = ["method", *(name.replace("\n", " ") for name in columns)]
    lines = [names, ["---"] + ["---:"] * (len(names) - 1)]
    lines += [[*_quality(one), *_cost(one)[1:]] for one in block]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    parts += [f"## {title(block)}", table, verdict(block)]
  return "\n\n".join([*parts, LEGEND]) + "\n"


def blocks(standings: Iterable[Standing]) -> list[list[Standing]]:
  """The standings of one target after the other."""
  groups = itertools.groupby(
    standings, key=lambda one: (one.target_set, one.target)
  )
  return [list(group) for _, group in groups]


def place(one: Standing) -> str:
  """The target of a standing; with its set where that has several."""
  if one.target_set == one.target:
    return one.target
  what = "mean" if one.target == MEAN else f"on {one.target}"
  return f"{one.target_set}, {what}"


def title(block: Sequence[Standing]) -> str:
  """What a table of one target shows."""
  one = block[0]
  return (
    f"{place(one)}: test bits per byte (less is better) after {one.tokens:,} "
    f"tokens, {one.seeds} seed{'s' * (one.seeds > 1)}"
  )


def verdict(block: Sequence[Standing]) -> str:
  """Whether the best method is better than the best other, with its interval."""
  floor = block[0].noise_floor
  noise = (
    "The noise floor is unknown: natural ran once."
    if math.isnan(floor)
    else f"The noise floor of a difference is {floor:.4f}."
  )
  first = min(block, key=lambda one: (one.validation_bpb, one.method))
  if not first.best_other:
    return noise
  return (
    f"Best on the validation split: {first.method}. Against {first.best_other}, "
    f"the best other: {difference(first.to_best)} bits per byte, "
    f"{first.best_verdict}. {noise}"
  )


def difference(interval: Interval) -> str:
  """A difference with half the width of its interval, where it has one."""
  if math.isnan(interval.low):
    return f"{interval.mean:+.4f}"
  return f"{interval.mean:+.4f} ±{interval.high - interval.mean:.4f}"


def _table(
  heading: str | None,
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
) -> Table:
  made = Table(
    title=heading, title_justify="left", box=box.SIMPLE, pad_edge=False
  )
  made.add_column("method", no_wrap=True)
  rows = list(rows)
  for name, cells in zip(
    columns, list(zip(*rows, strict=True))[1:], strict=True
  ):
    # Where there is no room for all, names are cut, not numbers.
    width = max(map(len, (*name.split("\n"), *cells)))
    made.add_column(name, justify="right", no_wrap=True, min_width=width)
  for row in rows:
    made.add_row(*row)
  return made


def _columns(block: Sequence[Standing]) -> tuple[str, ...]:
  """Headings of `_quality`; all methods of a target have an accuracy or none."""
  bpb, *others = _QUALITY
  return _QUALITY if math.isnan(block[0].accuracy) else (bpb, "acc.", *others)


def _quality(one: Standing) -> list[str]:
  natural = one.method == NATURAL
  accuracy = [] if math.isnan(one.accuracy) else [f"{one.accuracy:.3f}"]
  return [
    one.method,
    f"{one.bpb:.4f}",
    *accuracy,
    "" if natural else difference(one.to_natural),
    one.verdict,
    difference(one.to_best) if one.best_other else "",
  ]


def _cost(one: Standing) -> list[str]:
  equal = one.at_equal_flops
  if one.method == NATURAL:
    at_equal = ""
  else:
    at_equal = _UNKNOWN if equal is None else difference(equal)
  return [
    one.method,
    f"{one.effective_sample_size:.2f}",
    _short(one.search_tokens),
    _power(one.search_flops),
    f"{one.search_share:.2f}",
    _reach(one),
    at_equal,
  ]


def _reach(one: Standing) -> str:
  budget, at_most = one.reach
  if math.isnan(budget):
    return ">1"
  return f"{'≤' * at_most}{budget:.2f}"


def _short(number: float) -> str:
  """Three digits and a unit: 1.23M."""
  for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g}{unit}"
  return f"{number:.0f}"


def _power(number: float) -> str:
  """Two digits and a power of ten: 2.1e12."""
  mantissa, exponent = f"{number:.1e}".split("e")
  return f"{mantissa}e{int(exponent)}" if number else "0"
