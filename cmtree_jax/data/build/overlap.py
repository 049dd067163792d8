"""How much of a target's text also stands in the pool.

A model that has read a target's answers is not tested by it. The measure is the
usual one of benchmark decontamination: shared runs of thirteen words.
"""

import functools
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.types import Target, UserError

WORDS = 13  # in a run; common phrases are shorter, quotations longer


def repeated(
  texts: Iterable[str], known_texts: Iterable[str], *, words: int = WORDS
) -> np.ndarray:
  """For each of `texts`, the share of its runs of words that `known_texts` have.

  Runs do not cross texts. They are compared by 64-bit hashes: between 10^7 and
  10^6 runs a false match has a probability of 10^-6.

  Args:
    texts: what is looked at.
    known_texts: where its runs are looked for.
    words: length of a run; words are lower-cased runs of letters, digits, "_".
  Returns:
    float64, between 0 and 1; 0 where a text has not as many words.
  """
  number = _new_numbers()
  known = np.sort(_runs(known_texts, number, words).hashes)
  runs = _runs(texts, number, words)
  found = np.bincount(
    runs.text, _found(runs.hashes, known), minlength=runs.num_texts
  )
  total = np.bincount(runs.text, minlength=runs.num_texts)
  return found / np.maximum(total, 1)


class TargetRuns(NamedTuple):
  """The runs of words of all targets, to be looked for in a pool."""

  words: dict[str, int]  # every word of a target -> its number, from 1
  hash_R: np.ndarray  # uint64, of every run
  target_R: np.ndarray  # int64, number of the target that it is in
  names: tuple[str, ...]  # the targets, in the order of their numbers


def target_runs(targets: Mapping[str, Target]) -> TargetRuns:
  """The runs of the targets' texts, whatever their split."""
  words = defaultdict(itertools.count(1).__next__)
  hashes, numbers = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
  for number, target in enumerate(targets.values()):
    texts = target.train + target.validation + target.test
    runs = _runs(texts, words.__getitem__, WORDS)
    hashes.append(runs.hashes)
    numbers.append(np.full(len(runs.hashes), number))
  return TargetRuns(
    dict(words), np.concatenate(hashes), np.concatenate(numbers), tuple(targets)
  )


def found(texts: Iterable[str], runs: TargetRuns) -> np.ndarray:
  """Which runs of the targets occur in some documents of the pool, bool [R].

  Words that no target has share one number: a run with one of them is in none.
  """
  numbered = _runs(texts, lambda word: runs.words.get(word, 0), WORDS)
  return _found(runs.hash_R, np.sort(numbered.hashes))


def shares(found_R: np.ndarray, runs: TargetRuns) -> dict[str, float]:
  """The share of every target's runs that was found, by the target's name."""
  return {
    name: _mean(found_R[runs.target_R == number])
    for number, name in enumerate(runs.names)
  }


def check(share_of: Mapping[str, float], *, limit: float) -> None:
  """Refuses targets that repeat the pool.

  Raises:
    UserError: the share of a target is above `limit`.
  """
  for name, share in share_of.items():
    if share > limit:
      raise UserError(
        f"Target {name!r} shares {share:.1%} of its {WORDS}-word runs"
        f" with the pool, but at most {limit:.1%} is allowed: take the"
        " documents that repeat it out of the pool, or the target's texts that"
        " stand in the pool out of the target."
      )


def save(path: Path, runs: TargetRuns) -> None:
  """Writes the runs where other processes find them."""
  arrays = {
    "words": _bytes(list(runs.words)),
    "hash_R": runs.hash_R,
    "target_R": runs.target_R,
    "names": _bytes(runs.names),
  }
  store.save_arrays(path, arrays)


@functools.lru_cache(maxsize=1)
def load(path: Path) -> TargetRuns:
  """What `save` kept."""
  with np.load(path) as file:
    words = json.loads(file["words"].tobytes())
    return TargetRuns(
      {word: number for number, word in enumerate(words, 1)},
      file["hash_R"],
      file["target_R"],
      tuple(json.loads(file["names"].tobytes())),
    )


def _bytes(texts: Sequence[str]) -> np.ndarray:
  return np.frombuffer(json.dumps(texts).encode(), np.uint8)


class _Runs(NamedTuple):
  hashes: np.ndarray  # one for every run
  text: np.ndarray  # the number of the text that it is in
  num_texts: int


def _new_numbers() -> Callable[[str], int]:
  """Numbers words in the order in which they are first asked for."""
  return defaultdict(itertools.count().__next__).__getitem__


def _runs(
  texts: Iterable[str], number: Callable[[str], int], words: int
) -> _Runs:
  split = [_WORD.findall(text.lower()) for text in texts]
  lengths = [len(words_of_text) for words_of_text in split]
  flat = map(number, itertools.chain.from_iterable(split))
  word = _scatter(np.fromiter(flat, np.uint64, sum(lengths)))
  text = np.repeat(np.arange(len(lengths)), lengths)
  count = max(len(word) - words + 1, 0)
  hashes = np.zeros(count, np.uint64)
  for offset in range(words):
    # A polynomial modulo 2^64, which uint64 reduces by itself.
    hashes = hashes * _BASE + word[offset : offset + count]
  inside = text[:count] == text[words - 1 : words - 1 + count]
  return _Runs(hashes[inside], text[:count][inside], len(lengths))


_WORD = re.compile(r"\w+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no bit is lost


def _scatter(values: np.ndarray) -> np.ndarray:
  """SplitMix64: a bijection under which small numbers look random."""
  values = values + _BASE
  values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
  values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
  return values ^ (values >> np.uint64(31))


def _found(hashes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
  """Which of the hashes stand in an ascending array."""
  place = np.searchsorted(ordered, hashes)
  inside = place < len(ordered)
  inside[inside] = ordered[place[inside]] == hashes[inside]
  return inside


def _mean(found: np.ndarray) -> float:
  return float(found.mean()) if found.size else 0.0
