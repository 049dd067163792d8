"""Writes docs/methods.md from the methods themselves and their docstrings.

python -m cmtree_jax.methods.document > docs/methods.md
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import LOOPS, Method

_HEAD = """\
# Methods

<!-- Written by `python -m cmtree_jax.methods.document > docs/methods.md`: change the
docstrings of the methods, not this file. -->

A method weighs documents. Its weights are densities against the natural distribution
of *tokens*: their mean over the corpus, every document counted by its tokens, is one,
and no weight exceeds `budget.max_epochs` repetitions.

Methods that weigh domains run on any partition, `config.partition.kind`: the labelled
sources, k-means, CLIMB's merged clusters (`ward`), R&B's number of clusters
(`silhouette`), GEM's balanced clusters (`gem`), HERMES' cells of equal codes
(`hermes`), WebOrganizer's topics times forms (`product`), or the leaves of a recipe
(`tree:WORKDIR`).

Options are `config.METHOD.OPTION`; their defaults are the papers'. Those that fit a
CPU are `SMALL` in the method's file, and set by `configs/method.py:NAME`.

Targets are tasks of their own here, not domains of the corpus, and so the methods that
were made for domains are asked what a domain does for a target.

The taxonomy is that of surveys of data selection. A *distribution-aware* method reads
the targets; a *distribution-agnostic* one does not, and runs without any. One that is
*active during training* decides again and again while proxies train; one that acts
*before training* decides once. The final training has fixed weights in either case.
"""
_SECTION = re.compile(
  r"^(Args|Returns|Cost|Raises|References):\n", re.MULTILINE
)


def page() -> str:
  """The whole page, Markdown."""
  return "\n".join([_HEAD, *_loops(), "", *_table(), "", *_entries()]).rstrip()


def _loops() -> Iterator[str]:
  yield "## The loops\n"
  yield "A loop drives the methods that declare it. It alone touches data, proxies and"
  yield "the ledger of costs.\n"
  yield "| loop | what it does |"
  yield "|---|---|"
  for name, text in LOOPS.items():
    yield f"| `{name}` | {text} |"


def _table() -> Iterator[str]:
  yield "## All methods\n"
  yield "| method | what it does | loop | weighs | taxonomy | partition |"
  yield "|---|---|---|---|---|---|"
  for name, module in METHODS.items():
    method = module.make()
    yield (
      f"| [`{name}`](#{name}) | {_first_line(module)} | `{method.loop}` | "
      f"{method.weighs} | {', '.join(taxonomy(method))} | "
      f"{_partition(module, method)} |"
    )


def taxonomy(method: Method) -> tuple[str, str]:
  """Where a survey of data selection has its place: (what it knows, when it acts)."""
  knows = "distribution-aware" if method.targeted else "distribution-agnostic"
  active = method.loop in _ACTIVE or method.curate is not None
  return knows, "active during training" if active else "before training"


# Loops in which every method decides again and again while proxies train.
_ACTIVE = ("values", "steer")


def _entries() -> Iterator[str]:
  for name, module in METHODS.items():
    method = module.make()
    parts = _sections(module.make)
    yield f"## {name}\n"
    yield _prose(parts[""])
    read = [*sorted(method.features), *sorted(method.signals)]
    reads = ", ".join(f"`{one}`" for one in read)
    yield f"* [Source](../cmtree_jax/methods/{name}.py)"
    yield f"* Loop `{method.loop}`; reads {reads}."
    yield f"* {_joined(parts['Returns'])}"
    yield f"* Cost: {_joined(parts.get('Cost', 'none before the final training.'))}"
    if "References" in parts:
      yield f"* References: {_joined(parts['References'])}"
    yield ""
    if "Args" in parts:
      yield "| option | default | |"
      yield "|---|---|---|"
      yield from _options(module.make)
      yield ""


def _options(make: Callable[..., Any], block: str = "") -> Iterator[str]:
  """A row for each option; the fields of a record follow its own row."""
  meanings = dict(
    re.findall(
      r"^  (\w+): (.*(?:\n    .*)*)", _sections(make)["Args"], re.MULTILINE
    )
  )
  for name, option in inspect.signature(make).parameters.items():
    default = option.default
    shown = (
      f"`{default:.4g}`" if isinstance(default, float) else f"`{default!r}`"
    )
    is_record = dataclasses.is_dataclass(default)
    if is_record:
      shown = "a block"
    yield f"| `{block}{name}` | {shown} | {_joined(meanings[name])} |"
    if is_record:
      yield from _options(type(default), f"{block}{name}.")


def _sections(make: Callable[..., Any]) -> dict[str, str]:
  """A factory's docstring by section; "" is what stands before the first."""
  first, *others = _SECTION.split(inspect.getdoc(make) or "")
  return {"": first, **dict(zip(others[::2], others[1::2], strict=True))}


def _prose(text: str) -> str:
  """Paragraphs and displayed equations, without doctests."""
  text = text.partition(">>> ")[0].strip() + "\n"
  equation = re.compile(r"^\.\. math:: (.*\n(?:  +.*\n)*)", re.MULTILINE)
  return _markdown(equation.sub(_display, text))


def _display(equation: re.Match[str]) -> str:
  lines = [line.strip() for line in equation[1].splitlines()]
  return "\n".join(["```math", *lines, "```", ""])


def _first_line(module: ModuleType) -> str:
  """What the file's docstring says after the name of the method."""
  line = (module.__doc__ or "").partition("\n")[0]
  return _markdown(line.partition(": ")[2])


def _partition(module: ModuleType, method: Method) -> str:
  if method.partition == "sources":
    return "the labelled sources"
  own = module.SMALL.partition.get("kind")
  return f"given; its own is `{own}`" if own else "given"


def _joined(text: str) -> str:
  """Lines as one, without doctests."""
  text = text.partition("\n>>> ")[0]
  return _markdown(" ".join(text.split())).replace("|", "\\|")


def _markdown(text: str) -> str:
  """Mathematics and links of reStructuredText as those of Markdown."""
  text = re.sub(r":math:`([^`]*)`", r"$\1$", text)
  return re.sub(r"`([^`<]*?)\s*<([^`>]*)>`_", r"[\1](\2)", text)


if __name__ == "__main__":
  sys.stdout.write(page() + "\n")
