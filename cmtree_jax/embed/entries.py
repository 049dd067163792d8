"""Entries of a word list, and where they occur in texts; MetaCLIP's metadata.

An entry occurs where its words stand in a row, between blanks. That is exact string
matching of up to a million strings at once, by an Aho-Corasick automaton.
"""

import collections
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

# What is set apart from the words beside it, in texts.
_MARKS = ",.;:?!`"
_APART = re.compile(rf"([{_MARKS}])")
# Characters of languages that are written without blanks, and punctuation: an entry
# that begins or ends with one may stand inside a word.
_NO_BLANKS = re.compile(
  r"[!-/:-@\[-`{-~\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u2014"
  r"\u2018\u2019\u201c\u201d\u2e80-\u2fdf\u2ff0-\u2fff\u3001\u3002\u3008-\u3011"
  r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01\uff08\uff09\uff0c\uff1a\uff1b"
  r"\uff1f\uff5e\U00020000-\U0002ebef]"
)
_LONGEST = 100  # characters of a word
CHUNK = 300  # characters of a caption: 77 tokens, what CLIP reads of a text


class Matches(NamedTuple):
  """Which entries occur in texts, or in chunks of them, and how often; a `Measure`.

  As in the authors' code, cases count, and marks are set apart in texts but not in
  entries: "U.S." never occurs. Several blanks are one here, so that entries are found
  across the ends of lines.

  >>> words = ("cat", "a cat", "new york")
  >>> found = Matches(words)(["A cat, a cat.", "", "new  york"])
  >>> found["size_C"].tolist(), found["entry"].tolist(), found["count"].tolist()
  ([2, 0, 1], [0, 1, 2], [2.0, 1.0, 1.0])
  """

  entries: Sequence[str]  # all different
  chunk: int = 0  # characters of a text that are taken for one; 0: all of it
  version: int = 2

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Entries and counts of every chunk, and chunks of every text."""
    automaton = _automaton(tuple(self.entries))
    chunks: list[int] = []
    sizes: list[int] = []
    entry: list[int] = []
    count: list[int] = []
    for text in texts:
      parts = list(_chunks(spaced(text), self.chunk))
      chunks.append(len(parts))
      for part in parts:
        places = automaton.find_matches_as_indexes(part, overlapping=True)
        found = collections.Counter(one for one, _, _ in places)
        inside = sorted(found)
        sizes.append(len(inside))
        entry += inside
        count += [found[one] for one in inside]
    return {
      "chunks_N": np.array(chunks, np.int32),
      "size_C": np.array(sizes, np.int32),
      "entry": np.array(entry, np.int32),
      "count": np.array(count, np.float32),
    }


def spaced(text: str) -> str:
  """The text with single blanks between words and marks, and at both ends."""
  return " ".join(["", *_APART.sub(r" \1 ", text).split(), ""])


def is_mark(word: str) -> bool:
  """Whether it is a single mark, which is no entry: it would stand everywhere."""
  return len(word) == 1 and not word.isalnum()


def terms(texts: Iterable[str], *, most: int) -> list[str]:
  r"""Words, and pairs of words in a row, that texts have in common.

  Those that two of the texts have, the commonest first; pairs only where they stand
  together far more often than by chance:

  .. math:: p(ab) > 20 \, p(a) \, p(b)

  Args:
    texts: of one target.
    most: terms in all.
  """
  number, texts_of = collections.Counter(), collections.Counter()
  size = 0
  for text in texts:
    words = spaced(text).split()
    pairs = [
      pair for pair in itertools.pairwise(words) if not any(map(is_mark, pair))
    ]
    every = [(word,) for word in words if not is_mark(word)] + pairs
    number.update(every)
    texts_of.update(set(every))
    size += len(words)

  def together(term: tuple[str, ...]) -> bool:
    if len(term) == 1:
      return True
    one, other = ((word,) for word in term)
    chance = number[one] * number[other] / size
    return number[term] > _TIMES * chance

  common = [x for x, count in texts_of.items() if count > 1 and together(x)]
  ranked = sorted(common, key=lambda x: (-texts_of[x], x))
  return [" ".join(term) for term in ranked[:most]]


_TIMES = 20.0


@functools.lru_cache(maxsize=2)
def _automaton(entries: tuple[str, ...]) -> Any:
  import ahocorasick_rs

  return ahocorasick_rs.AhoCorasick(
    [f"{_edge(entry[0])}{entry}{_edge(entry[-1])}" for entry in entries]
  )


def _edge(end: str) -> str:
  """What must stand beside the first or last character of an entry."""
  return "" if _NO_BLANKS.match(end) else " "


def _chunks(text: str, size: int) -> Iterator[str]:
  """Consecutive parts that end at blanks; longer than `size` by a word at most.

  Where no blank comes for `_LONGEST` more, as in languages without any, they are cut.
  """
  if not size:
    yield text
    return
  start = 0
  while start < len(text) - 1 or not start:
    stop = text.find(" ", start + size, start + size + _LONGEST)
    if stop < 0 and start + size < len(text):
      yield text[start : start + size]
      start += size
      continue
    stop = len(text) - 1 if stop < 0 else stop
    yield text[start : stop + 1]
    start = max(stop, 1)
