"""What a job says at its end: the standings, a recipe's tree, and the files.

The standings also come as Markdown.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from cmtree_jax.evaluate.results import MEAN, NATURAL, Standing
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.report import screen
from cmtree_jax.report.describe import ROOT, Description, Favored, Node
from cmtree_jax.report.screen import printable

# Headings, and numbers right below them: both tables of a target fit 80 characters.
_QUALITY = ("BPB", "− natural", "verdict", "− best other")
_COST = (
  *("ESS", "kept", "search\ntokens", "search\nFLOPs", "trial\nFLOPs"),
  "share",
)
_CURVES = ("to\nnatural", "at equal FLOPs")  # of several budgets
_UNKNOWN = "-"  # natural was not trained for so long

_LEGEND = (
  "BPB: bits per byte of the right answers where a target has answers, else of its "
  "texts. Acc.: share of questions whose right choice has the fewest bits per byte. "
  "Differences are paired by seed, ± is half of their 95 % interval. Better and "
  "worse: the interval excludes zero and the difference is beyond the noise floor, "
  "which is that of two means of independent seeds. The best other method is chosen "
  "on the validation split. ESS: effective share of the corpus. Kept: the one that "
  "trials on the validation split chose, once for all seeds, or the recipe's own. "
  "Search, trial: before the final training, or beside it in an online run's "
  "events; their share is of its FLOPs."
)
_ONE_SEARCH = (
  " All {seeds} final trainings stand on one search, so the intervals hold nothing "
  "of what another search would have found."
)
_FEW_SEARCHES = (
  " Intervals are over {searches} searches, each the mean of its final trainings, "
  "{seeds} in all."
)
_OWN_SEARCH = (
  " Every seed is a pair of a search and a final training of its own, so the "
  "intervals hold the noise of both."
)
_LEGEND_OF_CURVES = (
  " To natural: the share of natural's tokens that reaches its final loss; ≤ where "
  'the shortest training does, ">1" where the longest does not. At equal FLOPs: '
  'difference to natural trained on for the FLOPs of the search; "-" where it was '
  "not trained for so long, see config.compare.natural_multiples."
)


def show(standings: Sequence[Standing]) -> None:
  """Prints the tables of all targets."""
  console = screen.console()
  for block in blocks(standings):
    console.print(table(title(block), _columns(block), map(_quality, block)))
    console.print(table(None, _cost_columns(block), map(_cost, block)))
    console.print(verdict(block))
    console.print()
  console.print(legend(standings))


def show_recipe(
  description: Description, one: Standing, summary: dict[str, Any]
) -> None:
  """Prints the recipe, what it is worth beside natural, and facts of the job.

  Args:
    description: of the recipe.
    one: of its method, on the target or on the mean of several.
    summary: what summary.json holds.
  """
  console = screen.console()
  if description.favored is not None:
    console.print(documents(description.favored, one.effective_sample_size))
  elif description.nodes:  # none, if the recipe could not be described
    console.print(tree(description.nodes))
  for line in level_lines(description.levels):
    console.print(line)
  for line in growth_lines(description.growth):
    console.print(line)
  console.print(advice(one))
  console.print(concentration_line(summary["concentration"]))
  for line in token_lines(summary["token_shares"]):
    console.print(line)
  for name, value in summary["nmi_source"].items():
    console.print(f"NMI with the hidden sources, {name}: {value:.3f}")
  peak = summary["peak_rss_bytes"] / 2**30
  console.print(f"{summary['wall_seconds']:.0f} s, {peak:.2f} GiB at the peak")


def level_lines(levels: Sequence[Mapping[str, float]]) -> list[str]:
  """What every level sees of each view, the view that it sees most of first.

  >>> level_lines([{"topic": 0.3, "form": 0.7}])
  ['Level 1 sees form .70, topic .30.']
  """
  return [
    f"Level {number} sees "
    + ", ".join(
      f"{name} {share:.2f}".replace(" 0.", " .")
      for name, share in sorted(level.items(), key=lambda one: -one[1])
    )
    + "."
    for number, level in enumerate(levels, 1)
  ]


def growth_lines(growth: Sequence[Mapping[str, Any]]) -> list[str]:
  """What happened to a tree that grows, with what it promised and what was found.

  >>> split = {"event": "split", "step": 2, "node": "", "promised": 0.5}
  >>> growth_lines([split | {"measured": 0.4, "rounds": 3, "undone": False}])
  ['Round 2: split of the root promised +0.5, 3 later rounds measured +0.4.']
  """
  lines = []
  for one in growth:
    node = f"node {one['node']}" if one["node"] else "the root"
    line = f"Round {one['step']}: {one['event']} of {node} promised "
    line += f"{one['promised']:+.3g}"
    if one["undone"]:
      line += " and was taken back"
    elif one["rounds"]:
      line += f", {one['rounds']} later rounds measured {one['measured']:+.3g}"
    lines.append(f"{line}.")
  return lines


def concentration_line(found: Mapping[str, float]) -> str:
  """How much of the corpus a recipe keeps, and where that was found."""
  line = f"The recipe keeps {found['share']:.0%} of the corpus in effect"
  if found["share"] > 0.999:
    return f"{line}."
  return (
    f"{line}, as trials of {power(found['compute'])} FLOPs would have it. What is "
    "best to keep grows with compute: by the published power of "
    f"{found['slope']:g} it would be {found['share_at_budget']:.0%} at the "
    f"{power(found['budget_compute'])} FLOPs of the budget, which is far to "
    "extrapolate: a run with a larger config.trial tells the power on this corpus."
  )


def token_lines(tokens: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
  """Where a recipe's tokens go, largest changes of sources first."""

  def listed(shares):
    return ", ".join(
      f"{one['name'] or 'unknown'} {one['recipe']:.1%} ({one['natural']:.1%})"
      for one in shares
    )

  near, source = tokens["nearest_target"], tokens["source"]
  lines = [
    "Tokens of the recipe by the target that their documents are nearest to (of "
    f"natural): {listed(near)}."
  ]
  if len(source) > 1:
    grown = [one for one in source if one["recipe"] > one["natural"]]
    grown.sort(key=lambda one: one["natural"] - one["recipe"])
    if grown:
      lines.append(f"More than natural has: {listed(grown[:_SOURCES])}.")
  if "factor" in tokens:
    listed_all = listed(tokens["factor"])
    lines.append(f"By what the bed did to documents: {listed_all}.")
  return lines


_SOURCES = 3  # at most, whose share grew most


def show_files(files: Sequence[Path]) -> None:
  """Prints what was written."""
  console = screen.console()
  for file in files:
    console.print(f"wrote {file}", soft_wrap=True)


def markdown(standings: Sequence[Standing]) -> str:
  """The same as a Markdown text, one table per target."""
  parts = []
  for block in blocks(standings):
    names, rows = whole(block)
    lines = [names, ["---"] + ["---:"] * (len(names) - 1), *rows]
    table = "\n".join(map(markdown_row, lines))
    parts += [f"## {title(block)}", table, verdict(block)]
  return "\n\n".join([*parts, legend(standings)]) + "\n"


def whole(block: Sequence[Standing]) -> tuple[list[str], list[list[str]]]:
  """Headings and rows of one target, with quality and cost side by side."""
  columns = [*_columns(block), *_cost_columns(block)]
  names = ["method", *(name.replace("\n", " ") for name in columns)]
  return names, [[*_quality(one), *_cost(one)[1:]] for one in block]


def markdown_row(cells: Iterable[str]) -> str:
  r"""A row of a Markdown table, whatever the cells hold.

  >>> markdown_row(("a|b", "-0.1"))
  '| a\\|b | -0.1 |'
  """
  safe = (printable(cell).replace("|", r"\|") for cell in cells)
  return f"| {' | '.join(safe)} |"


def legend(standings: Iterable[Standing]) -> str:
  """What the columns mean."""
  standings = list(standings)
  curves = any(_has_curves(one) for one in standings)
  text = _LEGEND
  if standings and standings[0].seeds > 1:
    searches, seeds = standings[0].searches, standings[0].seeds
    told = _ONE_SEARCH if searches == 1 else _FEW_SEARCHES
    told = _OWN_SEARCH if searches == seeds else told
    text += told.format(searches=searches, seeds=seeds)
  return text + _LEGEND_OF_CURVES * curves


def blocks(standings: Iterable[Standing]) -> list[list[Standing]]:
  """The standings of one target after the other."""
  groups = itertools.groupby(
    standings, key=lambda one: (one.target_set, one.target)
  )
  return [list(group) for _, group in groups]


def place(one: Standing) -> str:
  """The target of a standing; with its set where that has several."""
  if one.target_set == one.target:
    return printable(one.target)
  what = "mean" if one.target == MEAN else f"on {one.target}"
  return printable(f"{one.target_set}, {what}")


def title(block: Sequence[Standing]) -> str:
  """What a table of one target shows."""
  one = block[0]
  return (
    f"{place(one)}: test bits per byte (lower is better) after {one.tokens:,} "
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


def advice(one: Standing) -> str:
  """What a recipe is worth beside natural on the test split.

  What to train on was chosen on the validation split, so another choice is advised
  only where the recipe is worse.
  """
  if one.method == NATURAL:
    return "The recipe is the natural mixture."
  holds_zero = one.to_natural.low <= 0 <= one.to_natural.high
  why = (
    "the interval has zero in it"
    if holds_zero
    else f"trainings on natural alone differ by {one.noise_floor:.4f}"
  )
  what_to_do = {
    "worse": "; train on the natural mixture",
    "one seed": " (config.final.seeds: more of them give an interval)",
    "no difference": (
      f" that these final trainings can tell: {why} (config.final.seeds: more of "
      "them narrow both); the natural mixture may serve as well"
    ),
  }.get(one.verdict, "")
  return (
    f"{one.method} − natural, {place(one)}: {difference(one.to_natural)} bits per "
    f"byte, {one.verdict}{what_to_do}."
  )


def difference(interval: Interval) -> str:
  """A difference with half the width of its interval, where it has one."""
  if math.isnan(interval.low):
    return f"{interval.mean:+.4f}"
  return f"{interval.mean:+.4f} ±{interval.high - interval.mean:.4f}"


def table(
  heading: str | None,
  columns: Sequence[str],
  rows: Iterable[Sequence[str]],
  *,
  first: str = "method",
) -> Table:
  """Rows under headings; the first column is of names, the others of numbers."""
  made = Table(
    title=heading, title_justify="left", box=box.SIMPLE, pad_edge=False
  )
  made.add_column(first, no_wrap=True)
  rows = [[printable(cell) for cell in row] for row in rows]
  for name, cells in zip(
    columns, list(zip(*rows, strict=True))[1:], strict=True
  ):
    # Where there is no room for all, names are cut, not numbers.
    width = max(map(len, (*name.split("\n"), *cells)))
    made.add_column(name, justify="right", no_wrap=True, min_width=width)
  for row in rows:
    made.add_row(*row)
  return made


def tree(nodes: Sequence[Node]) -> Tree:
  """The nodes with mass, mixture, weight, top terms and a typical document.

  Of each node's children the largest by mixture; recipe.json has them all.
  """
  drawn: dict[str, Tree] = {}
  shown, rest = _largest(nodes)
  for node in shown:
    label = Text.assemble(
      (node.path or ROOT, "bold"),
      f"  mass {node.mass:.1%}  mixture {node.mixture:.1%}  "
      f"weight {node.weight:.2f}  ",
      (printable(", ".join(node.terms)), "cyan"),
    )
    if node.times is not None:
      label.append(f"\n{printable(leaning(node))}")
    if node.path:
      label.append(f"\n{printable(node.typical)}", "dim")
      parent = drawn[node.path.rpartition(".")[0]]
      drawn[node.path] = parent.add(label)
    else:
      drawn[""] = Tree(label)
  for parent, others in rest.items():
    if parent in drawn and others:
      mass, mixture = (
        sum(getattr(one, field) for one in others)
        for field in ("mass", "mixture")
      )
      drawn[parent].add(
        f"{len(others)} smaller ones: mass {mass:.1%}  mixture {mixture:.1%}"
      )
  return drawn[""]


def leaning(node: Node) -> str:
  """Which way a leaf's score leans."""
  more, less = (
    ", ".join(words) or "no word"
    for words in (node.towards or (), node.away or ())
  )
  return (
    f"leans to {more} and from {less}: the quarter that it scores highest weighs "
    f"{node.times:.3g} times the lowest"
  )


def documents(favored: Favored, effective_sample_size: float) -> Tree:
  """What weights of single documents prefer, and the documents that weigh most."""
  told = (
    "Every document has a weight of its own; effective share of the corpus "
    f"{effective_sample_size:.2f}. Above weight 1: mass {favored.mass:.1%}  "
    f"mixture {favored.mixture:.1%}  "
  )
  terms = printable(", ".join(favored.terms))
  drawn = Tree(Text.assemble(told, (terms, "cyan")))
  for one in favored.heaviest:
    drawn.add(
      Text.assemble(
        (printable(one.id), "bold"),
        f"  weight {one.weight:.2f}\n",
        (printable(one.text), "dim"),
      )
    )
  return drawn


def _columns(block: Sequence[Standing]) -> tuple[str, ...]:
  """Headings of `_quality`; all methods of a target have an accuracy or none."""
  bpb, *others = _QUALITY
  return _QUALITY if math.isnan(block[0].accuracy) else (bpb, "acc.", *others)


def _cost_columns(block: Sequence[Standing]) -> tuple[str, ...]:
  """Headings of `_cost`."""
  return _COST + _CURVES * _has_curves(block[0])


def _has_curves(one: Standing) -> bool:
  """Whether more than one budget was trained for."""
  return one.num_budgets > 1


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
  cost = [
    one.method,
    f"{one.effective_sample_size:.2f}",
    _kept(one),
    short(one.search_tokens),
    power(one.search_flops),
    power(one.trial_flops),
    f"{one.search_share:.2f}",
  ]
  if not _has_curves(one):
    return cost
  return [*cost, _reach(one), _at_equal_flops(one)]


def _kept(one: Standing) -> str:
  if one.method == NATURAL:
    return ""
  return f"{one.kept_share:.2f}" if one.kept_share else "own"


def _at_equal_flops(one: Standing) -> str:
  if one.method == NATURAL:
    return ""
  equal = one.at_equal_flops
  return _UNKNOWN if equal is None else difference(equal)


def _reach(one: Standing) -> str:
  budget, at_most = one.reach
  if math.isnan(budget):
    return ">1"
  return f"{'≤' * at_most}{budget:.2f}"


def short(number: float) -> str:
  """Three digits and a unit: 1.23M."""
  for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g}{unit}"
  return f"{number:.0f}"


def power(number: float) -> str:
  """Two digits and a power of ten: 2.1e12."""
  mantissa, exponent = f"{number:.1e}".split("e")
  return f"{mantissa}e{int(exponent)}" if number else "0"


_CHILDREN = 6  # of a node that are shown


def _largest(nodes: Sequence[Node]) -> tuple[list[Node], dict[str, list[Node]]]:
  """The nodes that are shown, in their order; and by parent those that are not."""
  children: dict[str, list[Node]] = {}
  for node in nodes:
    if node.path:
      children.setdefault(node.path.rpartition(".")[0], []).append(node)
  rest = {
    parent: sorted(some, key=lambda one: -one.mixture)[_CHILDREN:]
    for parent, some in children.items()
  }
  hidden = {node.path for some in rest.values() for node in some}

  def inside(path):
    parts = path.split(".")
    return any(".".join(parts[: n + 1]) in hidden for n in range(len(parts)))

  return [node for node in nodes if not inside(node.path)], rest
