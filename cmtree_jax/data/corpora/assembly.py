"""From entries of many sources to one corpus with held-out targets.

Both corpora of this folder (`default_corpus`, `stdlib_corpus`) end here: cut,
cap, hold out, drop what is there twice, name, sort.
"""

import bisect
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from cmtree_jax.data import store
from cmtree_jax.data.build import overlap
from cmtree_jax.data.corpora.cutting import SHORTEST, cut
from cmtree_jax.types import Document, Label, RawCorpus, Target

# Bytes taken from one original, so that no single file fills its source.
ORIGINAL_CAP = 50_000

# Share of a document's 13-word runs that may also stand in a target. One long
# sentence in common, such as an advertisement, is more than that.
MOST_REPEATED = 0.05


class Entry(NamedTuple):
  """One original file, or one item of a file that holds many."""

  original: str
  text: str
  language: str = ""  # ISO 639-1 where known


class Source(NamedTuple):
  """Entries of one kind; read lazily, and no further than the cap."""

  name: str
  domain: str
  cap: int  # bytes of its documents in the pool
  entries: Iterable[Entry]
  language: str = ""  # that of entries that do not say their own


class HeldOut(NamedTuple):
  """A target made of a source's originals, which then stay out of the pool."""

  target: str
  source: str
  share: float  # how many of the originals it takes
  shortest: int = SHORTEST  # characters of a text


def assemble(
  sources: Iterable[Source],
  held_out: Iterable[HeldOut],
  *,
  progress: Callable[[str], None] | None = None,
) -> RawCorpus:
  """The corpus of all sources; the same sources give an equal corpus.

  A text that comes twice is kept once. A document that repeats a target's text
  is left out of the pool, so that targets measure learning and not recall.

  Args:
    sources: read one after the other.
    held_out: at most one target per source.
    progress: told the name of each source.
  """
  by_source = {held.source: held for held in held_out}
  shelf = _Shelf()
  for source in sources:
    if progress:
      progress(f"Reading {source.name}")
    shelf.fill(source, by_source.get(source.name))
  return shelf.corpus()


def in_hash_order(names: Iterable[str]) -> list[str]:
  """The names in an order that is stable, yet unrelated to their spelling."""
  return sorted(names, key=lambda name: (digest("order", name), name))


def digest(*parts: str) -> str:
  """A stable name of 16 hexadecimal digits."""
  joined = "\0".join(parts).encode("utf-8", "surrogatepass")
  return hashlib.blake2b(joined, digest_size=8).hexdigest()


def split_of(original: str) -> str:
  """The split of an original by its hash: 40 % train, 20 % validation, 40 % test."""
  position = _position("split", original)
  if position < 0.4:
    return "train"
  return "validation" if position < 0.6 else "test"


class _Row(NamedTuple):
  document: Document
  label: Label


class _Shelf:
  """Collects the pool and the targets while sources are read."""

  def __init__(self):
    self._rows: list[_Row] = []
    self._targets: dict[str, dict[str, list[str]]] = {}
    self._too_small: list[str] = []
    self._counts: Counter[str] = Counter()

  def fill(self, source: Source, held: HeldOut | None) -> None:
    size = 0
    for entry in source.entries:
      if held and _position("hold out", entry.original) < held.share:
        pieces = self._pieces(entry, held.shortest)
        self._hold_out(held.target, entry.original, pieces)
        continue
      size += self._keep(source, entry, self._pieces(entry, SHORTEST))
      if size >= source.cap:
        self._counts["sources capped"] += 1
        break

  def corpus(self) -> RawCorpus:
    reserved: set[str] = set()
    targets = {}
    for name, splits in sorted(self._targets.items()):
      if not all(splits.values()):
        self._too_small.append(name)
        continue
      train, validation, test = (
        self._unique(splits[split], reserved) for split in store.SPLITS
      )
      targets[name] = Target(name, train, validation, test)
    rows = self._without_repeats(self._distinct_rows(), sorted(reserved))
    return RawCorpus(
      documents=tuple(row.document for row in rows),
      targets=targets,
      labels=tuple(row.label for row in rows),
      notes=self._notes(),
    )

  def _distinct_rows(self) -> list[_Row]:
    """The pool by id, each text once."""
    rows = {}
    for row in sorted(self._rows):
      rows.setdefault(row.document.text, row)
    self._counts["duplicates"] += len(self._rows) - len(rows)
    return list(rows.values())

  def _without_repeats(
    self, rows: list[_Row], target_texts: list[str]
  ) -> list[_Row]:
    """Leaves out documents that were copied into a target, or from it."""
    texts = [row.document.text for row in rows]
    share = overlap.repeated(texts, target_texts)
    self._counts["repeats"] = int((share > MOST_REPEATED).sum())
    kept = zip(rows, share, strict=True)
    return [row for row, repeated in kept if repeated <= MOST_REPEATED]

  def _pieces(self, entry: Entry, shortest: int) -> list[str]:
    """The entry's documents, as many as ORIGINAL_CAP allows."""
    pieces = cut(entry.text, shortest=shortest)
    ends = itertools.accumulate(len(piece.encode()) for piece in pieces)
    count = bisect.bisect_right(list(ends), ORIGINAL_CAP)
    self._counts["originals too short"] += not pieces
    self._counts["originals capped"] += count < len(pieces)
    return pieces[:count]

  def _keep(self, source: Source, entry: Entry, pieces: list[str]) -> int:
    label = Label(source.name, source.domain, entry.language or source.language)
    for number, text in enumerate(pieces):
      name = digest(source.name, entry.original, str(number))
      self._rows.append(_Row(Document(name, text, entry.original), label))
    return sum(len(text.encode()) for text in pieces)

  def _hold_out(self, target: str, original: str, pieces: list[str]) -> None:
    splits = self._targets.setdefault(
      target, {name: [] for name in store.SPLITS}
    )
    splits[split_of(original)] += pieces

  def _unique(self, texts: list[str], reserved: set[str]) -> tuple[str, ...]:
    fresh = [text for text in dict.fromkeys(texts) if text not in reserved]
    self._counts["duplicates"] += len(texts) - len(fresh)
    reserved.update(fresh)
    return tuple(fresh)

  def _notes(self) -> tuple[str, ...]:
    return (
      f"{self._counts['duplicates']} documents left out: the same text twice.",
      f"{self._counts['repeats']} documents left out: more than"
      f" {MOST_REPEATED:.0%} of their {overlap.WORDS}-word runs are a target's.",
      f"{self._counts['originals too short']} originals left out: shorter than"
      f" {SHORTEST} characters.",
      f"{self._counts['originals capped']} originals cut off at"
      f" {ORIGINAL_CAP} bytes.",
      f"{self._counts['sources capped']} sources cut off at their cap.",
      *(
        f"Target {name!r} left out: a split would be empty."
        for name in self._too_small
      ),
    )


def _position(salt: str, name: str) -> float:
  """A number in [0, 1) that the name alone decides; uniform over names."""
  return int(digest(salt, name), 16) / 2**64
