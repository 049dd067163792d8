"""Rewrites: other texts of the same words, but for those of the table."""

import itertools
from collections import Counter

import numpy as np

from cmtree_jax.data.corpora import rewriting
from cmtree_jax.data.corpora.spoiling import BETWEEN

TEXT = (
  "The big film began late. Many people said it was good!\n"
  "They need help, perhaps. Nobody slept."
)


def _groups(text: str) -> Counter[str]:
  """Words of a text, those of a group of synonyms as its first."""
  first = {one: group[0] for group in rewriting.SYNONYMS for one in group}
  words = text.lower().replace(".", " ").replace("!", " ").replace(",", " ")
  return Counter(first.get(word, word) for word in words.split())


def test_no_word_stands_in_two_groups():
  words = list(itertools.chain.from_iterable(rewriting.SYNONYMS))
  assert len(words) == len(set(words))
  assert all(word == word.lower() for word in words)


def test_rewrites_differ_and_say_the_same():
  found = rewriting.rewrites(TEXT, 20, np.random.default_rng(0))
  assert len({TEXT, *found}) == 21
  for one in found:
    assert _groups(one) == _groups(TEXT)
    assert BETWEEN.split(one)[1::2] == BETWEEN.split(TEXT)[1::2]


def test_every_way_of_rewriting_is_used():
  found = rewriting.rewrites(TEXT, 20, np.random.default_rng(0))
  assert any("movie" in one.lower() for one in found)
  assert any(one == one.lower() for one in found)
  assert any("The" in one for one in found)
  orders = {tuple(x.lower()[:4] for x in BETWEEN.split(x)[::2]) for x in found}
  assert len(orders) > 2


def test_a_text_without_room_is_rewritten_as_it_is():
  assert rewriting.rewrites("123", 3, np.random.default_rng(0)) == ["123"] * 3
