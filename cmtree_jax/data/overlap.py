"""How much of a target's text also stands in the pool.

A model that has read a target's answers is not tested by it. The measure is the
usual one of benchmark decontamination: shared runs of thirteen words.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from cmtree_jax.types import RawCorpus, UserError

WORDS = 13  # of a run; common phrases are shorter, quotations longer


def shared_runs(
  pool_texts: Iterable[str],
  target_texts: Iterable[str],
  *,
  words: int = WORDS,
) -> float:
  """The share of the targets' runs of words that also occur in the pool.

  Runs do not cross texts. They are compared by 64-bit hashes: between 10^7 and
  10^6 runs a false match has a probability of 10^-6.

  Args:
    pool_texts: what a model is trained on.
    target_texts: what it is tested on.
    words: length of a run; words are lower-cased runs of letters, digits, "_".

  Returns:
    Between 0 and 1; 0 where no target text has as many words.
  """
  ids = _new_ids()
  pool = np.sort(_runs(pool_texts, ids, words).hashes)
  return _mean(_found(_runs(target_texts, ids, words).hashes, pool))


def repeated(
  texts: Iterable[str], known_texts: Iterable[str], *, words: int = WORDS
) -> np.ndarray:
  """For each of `texts`, the share of its runs that `known_texts` have."""
  ids = _new_ids()
  known = np.sort(_runs(known_texts, ids, words).hashes)
  runs = _runs(texts, ids, words)
  found = np.bincount(
    runs.text, _found(runs.hashes, known), minlength=runs.num_texts
  )
  total = np.bincount(runs.text, minlength=runs.num_texts)
  return found / np.maximum(total, 1)


def check(corpus: RawCorpus, *, limit: float) -> dict[str, float]:
  """`shared_runs` of every target with the pool, by the target's name.

  Raises:
    UserError: the share of a target is above `limit`.
  """
  ids = _new_ids()
  texts = (document.text for document in corpus.documents)
  pool = np.sort(_runs(texts, ids, WORDS).hashes)
  shares = {}
  for name, target in corpus.targets.items():
    texts = target.train + target.validation + target.test
    shares[name] = _mean(_found(_runs(texts, ids, WORDS).hashes, pool))
    if shares[name] > limit:
      raise UserError(
        f"Target {name!r} shares {shares[name]:.1%} of its {WORDS}-word runs"
        f" with the pool, but at most {limit:.1%} is allowed: take the"
        " documents that repeat it out of the pool, or the target's texts that"
        " stand in the pool out of the target."
      )
  return shares


class _Runs(NamedTuple):
  hashes: np.ndarray  # of every run
  text: np.ndarray  # the number of the text that it is in
  num_texts: int


def _new_ids() -> defaultdict[str, int]:
  """Numbers words in the order in which they are first asked for."""
  return defaultdict(itertools.count().__next__)


def _runs(
  texts: Iterable[str], ids: defaultdict[str, int], words: int
) -> _Runs:
  found = [_WORD.findall(text.lower()) for text in texts]
  lengths = [len(words_of_text) for words_of_text in found]
  flat = map(ids.__getitem__, itertools.chain.from_iterable(found))
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
