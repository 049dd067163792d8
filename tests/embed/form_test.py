"""Form: features of texts that are counted by hand, and rows that keep them."""

import zlib

import numpy as np
import pytest

from cmtree_jax.embed import form

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


def whitened(rows: np.ndarray) -> np.ndarray:
  """The numbers before a row was brought to unit length: the constant tells."""
  return rows[:, :-1] / rows[:, -1:] * np.sqrt(len(form.FEATURES)) / 2


def test_rows_are_the_clipped_and_whitened_features(embedder):
  x_NF = form.features(TEXTS)
  arrays = embedder.to_arrays()
  z_NF = (x_NF - x_NF.mean(0)) / np.maximum(x_NF.std(0), 1e-3)
  variance, vectors = np.linalg.eigh(z_NF.T @ z_NF / len(z_NF))
  y_NF = z_NF @ vectors / np.sqrt(np.maximum(variance, 0.05)) @ vectors.T
  assert np.abs(y_NF).max() > 3 and variance.min() < 0.05 < variance.max()
  rows = embedder(TEXTS)
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)
  np.testing.assert_allclose(whitened(rows), np.clip(y_NF, -3, 3), atol=1e-4)
  np.testing.assert_allclose(arrays["mean"], x_NF.mean(0))


def test_what_varies_enough_is_white(embedder):
  """Each direction that is not stretched by the bound has variance one."""
  x_NF, arrays = form.features(TEXTS), embedder.to_arrays()
  z_NF = (x_NF - arrays["mean"]) / arrays["scale"]
  y_NF = z_NF @ arrays["whiten"]
  variance = np.linalg.eigvalsh(z_NF.T @ z_NF / len(z_NF))
  found = np.linalg.eigvalsh(y_NF.T @ y_NF / len(y_NF))
  expected = np.sort(np.minimum(1, variance / 0.05))
  np.testing.assert_allclose(found, expected, atol=1e-6)


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
  rows = embedder([text])
  assert np.isfinite(rows).all()
  assert np.abs(whitened(rows)).max() < 3 + 1e-4
