"""Form: features of texts that are counted by hand, and rows that keep them."""

import zlib

import numpy as np
import pytest

from cmtree_jax.embed import form, whiten

TEXTS = [
  f"Line {i} of {'MANY ' * (i % 3)}words.\n  And then {i * i}; so on\n"
  * (i % 4)
  + "end " * (i % 7)
  + "é" * (i % 5)
  for i in range(60)
]


def feature(name: str, *texts: str) -> list[float]:
  return form.features(texts)[:, form.FEATURES.index(name)].tolist()


@pytest.mark.parametrize(
  ("name", "text", "share"),
  [
    ("digits", "ab 12", 2 / 5),
    ("digits", "٣a", 1 / 2),
    ("upper_case", "aB cÄ", 2 / 5),
    ("upper_case", "𝔄𝔄", 0.0),  # beyond the basic plane all are alike
    ("punctuation", "a,b+c.", 3 / 6),
    ("non_ascii", "aé𝔄b", 2 / 4),
    ("line_ends", "a\nb\n\n", 3 / 5),
    ("blanks", "a b\t\n", 2 / 5),
    ("repeated_lines", "one\n two\none \n\ntwo\none", 3 / 5),
    ("indented_lines", "one\n two\n\tthree\nfour", 2 / 4),
    # "One" begins the text, "Three" a sentence and "Five" a line; "Two" and "Six"
    # stand within.
    ("opening_capitals", "One Two. Three four\nFive Six", 3 / 5),
    ("opening_capitals", "is e.g.X that", 0.0),
    ("opening_capitals", " One Two", 0.0),
  ],
)
def test_a_share_is_that_of_a_count_by_hand(name, text, share):
  # Between other texts, for what begins and ends must not be theirs.
  found = feature(name, "A.", text, "B c.")[1]
  assert found == pytest.approx(share**0.5)


def test_what_is_no_share_is_counted_too():
  assert feature("log_length", "abcd", "") == pytest.approx([np.log(5), 0])
  assert feature("log_word_length", "ab  cdef\n") == pytest.approx([np.log(4)])
  assert feature("log_line_length", "abc\nabcd") == pytest.approx([np.log(5)])
  assert feature("distinct_words", "a B b a c") == pytest.approx([3 / 5])
  text = "over and over " * 50
  assert feature("compressed", text) == pytest.approx(
    [len(zlib.compress(text.encode())) / len(text)]
  )


def test_shuffled_words_show_where_capitals_stand():
  sound = "The cat sat. Then it ran off. Nobody saw it."
  assert feature("opening_capitals", sound) == [1.0]
  shuffled = "cat The sat. ran it Then off. saw Nobody it."
  assert feature("opening_capitals", shuffled) == [0.0]


@pytest.fixture(scope="module")
def embedder() -> form.FormEmbedder:
  return form.fit(TEXTS, sample=1000, seed=0)


def test_rows_are_the_whitened_features(embedder):
  x_NF = form.features(TEXTS)
  np.testing.assert_array_equal(embedder(TEXTS), whiten.fit(x_NF)(x_NF))


def test_the_order_of_texts_and_chunks_change_nothing(embedder, monkeypatch):
  again = form.fit(TEXTS[::-1], sample=1000, seed=0)
  np.testing.assert_array_equal(again(TEXTS), embedder(TEXTS))
  whole = embedder(TEXTS)
  monkeypatch.setattr(form, "_CHUNK", 7)
  np.testing.assert_array_equal(embedder(TEXTS), whole)
  np.testing.assert_array_equal(embedder(TEXTS[5:6]), whole[5:6])
  assert embedder([]).shape == (0, len(form.FEATURES) + 1)


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\ud83d", "a" * 10**6])
def test_any_text_has_a_row_of_numbers(embedder, text):
  """Of which no feature is far away, however odd the text."""
  (row,) = embedder([text])
  np.testing.assert_allclose(np.linalg.norm(row), 1, rtol=1e-6)
  # The constant is half the root of their number, and no other is above three.
  furthest = 3 / (len(form.FEATURES) ** 0.5 / 2)
  assert np.abs(row[:-1] / row[-1]).max() < furthest * (1 + 1e-4)
