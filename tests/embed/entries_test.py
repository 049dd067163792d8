"""Entries in texts: what the authors' code finds, chunks, and terms of a target."""

import json
import pathlib

import numpy as np
import pytest

from cmtree_jax.embed import entries

CASES = pathlib.Path(__file__).parents[1] / "methods" / "cases"
CASE = json.loads((CASES / "metaclip_matching.json").read_text())


def found(words, texts, chunk=0) -> list[list[int]]:
  """The entries of each chunk."""
  made = entries.Matches(tuple(words), chunk)(texts)
  ends = np.cumsum(made["size_C"])[:-1]
  return [part.tolist() for part in np.split(made["entry"], ends)]


@pytest.mark.parametrize("code", ["v1_loop", "v1_ahocorasick_file", "v2_iter"])
def test_the_authors_code_finds_the_same(code):
  """facebookresearch/MetaCLIP at f47f784."""
  assert found(CASE["metadata"], CASE["texts"]) == CASE[code]


def test_languages_without_blanks():
  made = found(CASE["zh_metadata"], CASE["zh_texts"])
  assert made == CASE["zh_v2_iter"]


def test_each_text_counts_once_for_an_entry():
  made = entries.Matches(tuple(CASE["metadata"]))(CASE["texts"])
  counted = np.bincount(made["entry"], minlength=len(CASE["metadata"]))
  assert counted.tolist() == CASE["entry_counts_from_v1"]
  assert made["count"][made["size_C"][:9].sum()] == 3  # cat cat cat


def test_cases_blanks_and_marks():
  words = ("cat", "Cat", "hot dog", "dog", "(dog)", "C++")
  texts = ["Cat,cat", "hot\r\n  dog", "(dog) dogs", "cat's C++!"]
  assert found(words, texts) == [[0, 1], [2, 3], [4], [5]]


def test_chunks_are_texts_of_their_own():
  text = "one two three four five six seven"
  words = (*text.split(), "two three", "three four")
  made = entries.Matches(words, 10)([text, "", "one"])
  assert made["chunks_N"].tolist() == [3, 1, 1]
  assert found(words, [text], 10) == [[0, 1, 2, 7], [3, 4], [5, 6]]
  assert found(words, [text], 10_000) == found(words, [text])
  for size in range(1, 40):  # no word is lost or comes twice
    parts = found(tuple(text.split()), [text], size)
    assert [one for part in parts for one in part] == list(range(7))


def test_text_without_blanks_is_cut():
  text = "一二三四五六七八九十" * 100
  made = entries.Matches(("一二", "十一"), 300)([text, text[:300], text[:350]])
  assert made["chunks_N"].tolist() == [4, 1, 1]
  found = dict(
    zip(made["entry"].tolist(), made["count"].tolist(), strict=False)
  )
  assert found[0] > 0
  assert made["count"].max() <= 41  # of the longest, with its edges


def test_no_texts_give_no_rows():
  made = entries.Matches(("cat",))([])
  kinds = {name: x.dtype.name for name, x in made.items()}
  assert kinds == {
    "chunks_N": "int32",
    "size_C": "int32",
    "entry": "int32",
    "count": "float32",
  }
  assert not any(map(len, made.values()))


def test_single_marks_are_no_terms():
  texts = ["the dog - a pet ( good )", "a cat - the pet ( bad )"]
  assert entries.terms(texts, most=20) == ["a", "pet", "the"]


def test_terms_are_what_several_texts_have_in_common():
  texts = [
    "new york is far. the sun",
    "the moon, new york",
    "the one and the other, the end",
    f"only here {' '.join(map(str, range(40)))}",
  ]
  made = entries.terms(texts, most=100)
  # The commonest first; "york is" and what one text alone has are left out.
  assert made == ["the", "new", "new york", "york"]
  assert entries.terms(texts, most=2) == ["the", "new"]
  assert entries.terms([], most=5) == []


def test_pairs_by_chance_are_no_terms():
  rng = np.random.default_rng(0)
  texts = [" ".join(rng.choice(list("abcd"), 30)) for _ in range(20)]
  texts += ["x y"] * 3
  assert set(entries.terms(texts, most=100)) == {*"abcd", "x", "y", "x y"}
