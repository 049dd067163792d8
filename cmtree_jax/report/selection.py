"""What a recipe left out of a corpus, what it holds back, and why: for a person.

A document is kept if it weighs as much as in the natural mixture or more, held back if
it weighs less, and left out if no training will see it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.report import screen, tables
from cmtree_jax.report.screen import printable

KEPT, BACK, OUT = range(3)
VERDICTS = ("kept", "held back", "left out")
# A weight whose document is not seen in a thousand epochs. Methods give 1e-6 to what
# they leave out, for a logarithm must be finite, and a cap may scale that up.
_OUT = 1e-3
_ROUNDING = 1e-3  # below one that still counts as the natural weight

_SHOWN = 8  # groups on the screen; the page has all
_SNIPPET = 240  # characters of a document


class Group(NamedTuple):
  """Documents of one source or domain, or all; numbers by verdict."""

  name: str
  documents: tuple[int, ...]
  tokens: tuple[int, ...]
  recipe: float  # share of the training tokens

  def to_json(self) -> dict[str, Any]:
    """Its part of summary.json."""
    return {
      "name": self.name,
      "documents": dict(zip(VERDICTS, self.documents, strict=True)),
      "tokens": dict(zip(VERDICTS, self.tokens, strict=True)),
      "recipe": round(self.recipe, 4),
    }


class Example(NamedTuple):
  """A document as a person reads it, and what is said of it."""

  verdict: int
  id: str
  source: str
  weight: float
  reason: str  # "" where the weight says all
  text: str
  other_id: str = ""  # of the document that the reason names
  other_text: str = ""


class Selection(NamedTuple):
  """What a recipe did to a corpus."""

  all: Group
  by: Mapping[str, Sequence[Group]]  # "source" and "domain" -> groups
  because: Mapping[str, int]  # reason without its numbers -> documents
  examples: Sequence[Example]
  # Tokens of a training that sees every kept document once; None where documents
  # differ in how often they are seen.
  once: int | None
  # Epochs of a training that would leave out what this one holds back; None where
  # that is not held back for want of other documents alone.
  epochs: float | None

  def to_json(self) -> dict[str, Any]:
    """Its part of summary.json."""
    return {
      "all": self.all.to_json(),
      **{
        name: [g.to_json() for g in groups] for name, groups in self.by.items()
      },
      "because": dict(self.because),
      "tokens_of_each_kept_document_once": self.once,
      "epochs_that_leave_out_what_is_held_back": self.epochs,
    }


def verdicts(weight_N: np.ndarray) -> np.ndarray:
  """KEPT, BACK or OUT for every weight, int8.

  >>> verdicts(np.array([1.25, 1.0, 0.3, 1e-6]))
  array([0, 0, 1, 2], dtype=int8)
  """
  verdict_N = np.where(weight_N < 1 - _ROUNDING, BACK, KEPT)
  return np.where(weight_N < _OUT, OUT, verdict_N).astype(np.int8)


def groups(
  group_N: np.ndarray,
  names: Sequence[str],
  weight_N: np.ndarray,
  tokens_N: np.ndarray,
) -> list[Group]:
  """Groups of documents in the order of their names, without empty ones.

  Args:
    group_N: number of each document's group.
    names: of the groups.
    weight_N: of the recipe.
    tokens_N: of the documents.
  """
  cell_N = group_N.astype(np.int64) * len(VERDICTS) + verdicts(weight_N)
  size = len(names) * len(VERDICTS)
  documents_GV = np.bincount(cell_N, minlength=size).reshape(len(names), -1)
  tokens_GV = np.bincount(cell_N, tokens_N, minlength=size)
  tokens_GV = tokens_GV.reshape(documents_GV.shape).astype(np.int64)
  flow_N = weight_N * tokens_N
  recipe_G = np.bincount(group_N, flow_N, minlength=len(names)) / flow_N.sum()
  return [
    Group(name, tuple(n.tolist()), tuple(t.tolist()), float(share))
    for name, n, t, share in zip(
      names, documents_GV, tokens_GV, recipe_G, strict=True
    )
    if n.any()
  ]


def because(reasons: Reasons | None, changed_N: np.ndarray) -> dict[str, int]:
  """How many documents each reason is told of, the most frequent first.

  Args:
    reasons: the method's; None: it told none.
    changed_N: whether a document is not kept.
  """
  if reasons is None:
    return {}
  told_N = reasons.which_N[changed_N]
  count = np.bincount(told_N[told_N >= 0], minlength=len(reasons.texts))
  found = {
    re.sub(r"\{[^}]*\}", "…", text): int(n)
    for text, n in zip(reasons.texts, count, strict=True)
    if n
  }
  return dict(sorted(found.items(), key=lambda item: -item[1]))


def once(weight_N: np.ndarray, tokens_N: np.ndarray) -> int | None:
  """Tokens of the kept documents, if these weigh the same and no other any."""
  verdict_N = verdicts(weight_N)
  kept_N = weight_N[verdict_N == KEPT]
  if (verdict_N == BACK).any() or not (verdict_N == OUT).any():
    return None
  if not len(kept_N) or kept_N.max() > (1 + _ROUNDING) * kept_N.min():
    return None
  return int(tokens_N[verdict_N == KEPT].sum())


def epochs(
  weight_N: np.ndarray, tokens_N: np.ndarray, *, max_epochs: float, cap: float
) -> float | None:
  """Epochs of the corpus for which the documents at the cap suffice.

  Args:
    weight_N: of the recipe.
    tokens_N: of the documents.
    max_epochs: looks at one document, at most.
    cap: the weight that means so many looks.
  Returns:
    None unless all documents are at the cap or held back.
  """
  verdict_N = verdicts(weight_N)
  full_N = weight_N > (1 - _ROUNDING) * cap
  if not full_N.any() or not (full_N == (verdict_N == KEPT)).all():
    return None
  if not (verdict_N == BACK).any():
    return None
  return max_epochs * float(tokens_N[full_N].sum() / tokens_N.sum())


def some(
  verdict: int, verdict_N: np.ndarray, group_N: np.ndarray, key_N: np.ndarray
) -> np.ndarray:
  """Numbers of some documents of a verdict, of as many groups as there are.

  Those of a group are as good as random, and the same whatever the order.
  """
  number = np.flatnonzero(verdict_N == verdict)
  number = number[np.argsort(key_N[number], kind="stable")]
  of_group = group_N[number]
  order = np.argsort(of_group, kind="stable")
  first = np.searchsorted(of_group[order], of_group[order])
  turn = np.empty(len(number), int)
  turn[order] = np.arange(len(number)) - first
  return number[np.lexsort((np.arange(len(number)), turn))][
    : _EXAMPLES[verdict]
  ]


_EXAMPLES = {KEPT: 4, BACK: 8, OUT: 16}


def snippet(text: str) -> str:
  """The beginning of a document on one line."""
  return " ".join(text.split())[:_SNIPPET]


def show(found: Selection) -> None:
  """Prints the counts, where they are largest, and some examples."""
  console = screen.console()
  console.print(_screen("The corpus", "", [found.all]))
  for name, some_groups in found.by.items():
    lost = [one for one in some_groups if sum(one.documents[BACK:])]
    lost.sort(key=lambda one: -sum(one.tokens[BACK:]))
    if len(some_groups) > 1 and lost:
      more = f", the {_SHOWN} that lose most" * (len(lost) > _SHOWN)
      console.print(_screen(f"By {name}{more}", name, lost[:_SHOWN]))
      if whole := len(some_groups) - len(lost):
        console.print(f"Kept whole: {whole:,} more.")
  for line in sentences(found):
    console.print(line, soft_wrap=True)
  out = [one for one in found.examples if one.verdict == OUT and one.reason]
  for one in out[: _SHOWN // 2]:
    line = printable(f"{one.id}: {one.reason}")
    console.print(line, soft_wrap=True)
    console.print(f"  {one.text[:_LINE]}")


def _screen(heading: str, first: str, chosen: Sequence[Group]) -> Table:
  """Tokens in per cent, as all numbers would not fit 80 characters."""
  rows = []
  for one in chosen:
    total = max(sum(one.tokens), 1)
    rows.append(
      [
        (one.name or "unknown")[:_WIDTH],
        f"{sum(one.documents):,}",
        *(f"{n / total:.1%}" for n in one.tokens),
        f"{one.recipe:.1%}",
      ]
    )
  columns = ("documents", *VERDICTS, "of training")
  return tables.table(heading, columns, rows, first=first)


_WIDTH = 20  # characters of a name on the screen
_LINE = 78  # characters of a document on the screen


def sentences(found: Selection) -> Iterator[str]:
  """What a person should know beside the counts."""
  for reason, number in found.because.items():
    yield f"{number:,} documents: {reason}."
  if found.epochs is not None:
    yield (
      "The kept documents are seen as often as the budget allows, and the others fill "
      f"it: in a training of {found.epochs:.2g} epochs of the corpus or less "
      "(config.budget) they are left out."
    )
  if found.once is not None:
    yield (
      f"The kept documents hold {found.once:,} tokens. An export for so many has each "
      f"of them once: --config.export.tokens={found.once} with --config.recipe.apply "
      "at this folder, in a new --workdir."
    )
