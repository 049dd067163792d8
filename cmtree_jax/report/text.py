"""The end of a job on a terminal: the comparison, the tree and the files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from cmtree_jax.report.describe import Node


def show(
  nodes: Sequence[Node],
  comparison: Sequence[dict[str, Any]],
  summary: dict[str, Any],
  files: Sequence[Path],
) -> None:
  """Prints everything that a person wants to know at the end."""
  console = Console(highlight=False)
  console.print(tree(nodes))
  console.print(table(comparison))
  console.print(_verdict(comparison), markup=False)
  console.print(_cost(comparison[0]), markup=False)
  for name, value in summary["nmi_source"].items():
    console.print(f"NMI with the hidden sources, {name}: {value:.3f}")
  peak = summary["peak_rss_bytes"] / 2**30
  console.print(f"{summary['wall_seconds']:.0f} s, {peak:.2f} GiB at the peak")
  show_files(files)


def show_files(files: Sequence[Path]) -> None:
  """Prints what was written."""
  console = Console(highlight=False)
  for file in files:
    console.print(f"wrote {file}", markup=False, soft_wrap=True)


def table(comparison: Sequence[dict[str, Any]]) -> Table:
  """Test bits per byte of every recipe on every target."""
  made = Table(
    title="Test bits per byte (less is better) at equal training tokens; "
    "change from natural with its 95 % interval, paired by seed",
    title_justify="left",
    box=box.SIMPLE,  # the columns then fit 80 characters
    pad_edge=False,
  )
  made.add_column("target", no_wrap=True)
  made.add_column("recipe", no_wrap=True)
  # Where there is no room for all, names are cut, not numbers.
  for name, width in (("BPB", 6), ("change", 7), ("interval", 15), ("ESS", 4)):
    made.add_column(name, justify="right", no_wrap=True, min_width=width)
  rows = sorted(comparison, key=lambda row: row["target"] == "mean")
  targets = list(dict.fromkeys(row["target"] for row in rows))
  for target in targets:
    for row in rows:
      if row["target"] == target:
        made.add_row(*_cells(row))
    made.add_section()
  return made


def tree(nodes: Sequence[Node]) -> Tree:
  """The nodes with mass, mixture, weight, top terms and a typical document.

  Of each node's children the largest by mixture; recipe.json has them all.
  """
  drawn: dict[str, Tree] = {}
  shown, rest = _largest(nodes)
  for node in shown:
    label = (
      f"[bold]{node.path or 'corpus'}[/bold]  mass {node.mass:.1%}  "
      f"mixture {node.mixture:.1%}  weight {node.weight:.2f}  "
      f"[cyan]{escape(', '.join(node.terms))}[/cyan]"
    )
    if node.path:
      label += f"\n[dim]{escape(node.typical)}[/dim]"
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


def _cells(row: dict[str, Any]) -> list[str]:
  interval = "-"
  if row["recipe"] != "natural" and row["ci_low"] is not None:
    interval = f"{row['ci_low']:+.3f} … {row['ci_high']:+.3f}"
  return [
    row["target"],
    row["recipe"],
    f"{row['bpb_mean']:.4f}",
    f"{row['difference_to_natural']:+.4f}",
    interval,
    f"{row['effective_sample_size']:.2f}",
  ]


def _cost(row: dict[str, Any]) -> str:
  return (
    f"The search of {row['recipe']} took {row['search_tokens']:,} tokens and "
    f"{row['search_flops_share']:.2f} times the FLOPs of one final training of "
    f"{row['train_tokens']:,} tokens."
  )


def _verdict(comparison: Sequence[dict[str, Any]]) -> str:
  """Whether the recipe is better than natural, said with its interval."""
  recipe = comparison[0]["recipe"]
  row = [r for r in comparison if r["recipe"] == recipe][-1]
  difference = row["difference_to_natural"]
  if row["ci_high"] is None:
    sure = "one seed gives no interval"
  elif row["ci_high"] < 0:
    sure = "the interval excludes zero: better"
  elif row["ci_low"] > 0:
    sure = "the interval excludes zero: worse; train on the natural mixture"
  else:
    sure = "the interval holds zero: no difference was shown"
  return (
    f"{recipe} against natural on {row['target']}: {difference:+.4f} bits per "
    f"byte; {sure}."
  )
