"""Counts of runs of words: against a plain count, and however they are read."""

import collections

import numpy as np
import pytest

from cmtree_jax.embed import grams
from tests.listed import Listed

# Enough that none of the few runs below share one.
PLAN = grams.Plan(buckets=2**20, words=2)
TEXTS = [
  "A cat, a dog; a cat!",
  "",
  "  \n ",
  "def f(x): return x+1",
  "Ein Fuchs & ein Hund: überall",
] + [f"word{i} word{i % 7}" for i in range(30)]


def counts_of(matrix) -> list[list[float]]:
  """Of each row, ascending: buckets are hashes and tell nothing."""
  return [sorted(matrix[i].data.tolist()) for i in range(matrix.shape[0])]


def expected(text: str, longest: int) -> list[float]:
  words, word, kind = [], "", None
  for sign in text.lower() + " ":
    new = None if sign.isspace() else sign.isalnum() or sign == "_"
    if new != kind and word:
      words.append(word)
      word = ""
    kind = new
    word += "" if new is None else sign
  runs = [
    tuple(words[i : i + n])
    for n in range(1, longest + 1)
    for i in range(len(words) - n + 1)
  ]
  return sorted(map(float, collections.Counter(runs).values()))


@pytest.mark.parametrize("longest", [1, 2, 3])
def test_runs_of_words_are_counted(longest):
  counted = grams.count(Listed(TEXTS), PLAN._replace(words=longest))
  every = counted.rows(slice(0, len(TEXTS)))
  assert every.shape == (len(TEXTS), PLAN.buckets)
  assert every.dtype == np.float32
  for text, row in zip(TEXTS, counts_of(every), strict=True):
    assert row == expected(text, longest), text


def test_words_are_those_of_dsir():
  """NLTK's wordpunct_tokenize, as data-selection 1.0.3 calls it."""
  text = "Alice's 3.5% café_x -- naïve\n日本語 (a)"
  words = ["alice", "'", "s", "3", ".", "5", "%", "café_x"]
  words += ["--", "naïve", "日本語", "(", "a", ")"]
  one = grams.count(Listed([text, " ".join(words)]), PLAN).rows(slice(0, 2))
  assert (one[0] != one[1]).nnz == 0
  assert one[0].sum() == 2 * len(words) - 1


def test_texts_do_not_depend_on_each_other(monkeypatch):
  whole = grams.count(Listed(TEXTS), PLAN)
  monkeypatch.setattr(grams, "_CHUNK", 4)
  for one in (whole, grams.count(Listed(TEXTS), PLAN)):
    for number, text in enumerate(TEXTS):
      alone = grams.count(Listed([text]), PLAN).rows(slice(0, 1))
      assert (one.rows(np.array([number])) != alone).nnz == 0


def test_rows_come_in_the_order_asked_for():
  counted = grams.count(Listed(TEXTS), PLAN)
  every = counted.rows(slice(0, len(TEXTS)))
  for which in (slice(3, 9), np.array([5, 0, 1, 5]), np.array([], int)):
    assert (counted.rows(which) != every[which]).nnz == 0


def test_no_texts_have_no_counts():
  assert grams.count(Listed(), PLAN).rows(slice(0, 0)).shape == (
    0,
    PLAN.buckets,
  )


def test_equal_words_fall_into_equal_buckets_of_any_number():
  counted = grams.count(
    Listed(["one two one two", "two one"]), PLAN._replace(buckets=3)
  )
  assert counted.rows(slice(0, 2)).toarray().sum(axis=1).tolist() == [7, 3]


@pytest.mark.parametrize("field", ["buckets", "words"])
def test_a_plan_of_nothing_is_refused(field):
  with pytest.raises(ValueError, match=f"{field} = 0 must be at least 1"):
    PLAN._replace(**{field: 0}).check()
