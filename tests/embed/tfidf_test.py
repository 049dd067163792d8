"""The embedding by 3-grams: its formula, equal results later, unit rows."""

import collections
import io
import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from cmtree_jax.embed import tfidf
from cmtree_jax.types import UserError

WORDS = {
  "en": "the fox that jumped over these lazy dogs was brown and very quick",
  "de": "der schnelle braune fuchs sprang gestern über den faulen hund",
  "py": "def return self import class lambda yield for in range(len(x)):",
}


def documents(num_each: int) -> tuple[list[str], list[str]]:
  """Random documents of three kinds, and the kinds."""
  rng = np.random.default_rng(0)
  texts, kinds = [], []
  for kind, words in WORDS.items():
    for _ in range(num_each):
      texts.append(" ".join(rng.choice(words.split(), 12)))
      kinds.append(kind)
  return texts, kinds


TEXTS, KINDS = documents(40)


def fit(texts, *, dim=8, max_features=5000, sample=200, seed=0):
  return tfidf.fit(
    texts, dim=dim, max_features=max_features, sample=sample, seed=seed
  )


@pytest.fixture(scope="module")
def embedder():
  return fit(TEXTS)


def test_rows_have_unit_length_whatever_the_text(embedder):
  texts = [*TEXTS, "", "ab", "\0\0\0", "日本語の文", "THE FOX", "\ud83d alone"]
  rows = embedder(texts)
  assert rows.shape == (len(texts), 8)
  assert rows.dtype == np.float32
  np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
  np.testing.assert_array_equal(rows[-6], np.eye(8)[0])  # no known 3-gram


def test_texts_of_one_kind_lie_together(embedder):
  cosine = embedder(TEXTS) @ embedder(TEXTS).T
  same = np.equal.outer(KINDS, KINDS)
  assert cosine[same].mean() > 0.5
  assert cosine[~same].mean() < 0.0


def weights(text: str, idf: dict[str, float]) -> dict[str, float]:
  """A row of x from the formula, in plain Python."""
  grams = collections.Counter(text[i : i + 3] for i in range(len(text) - 2))
  x = {g: (1 + math.log(n)) * idf[g] for g, n in grams.items() if g in idf}
  length = math.sqrt(sum(value**2 for value in x.values()))
  return {gram: value / length for gram, value in x.items()}


def test_rows_are_projections_on_all_but_the_first_singular_vector():
  idf = {}
  for gram in {text[i : i + 3] for text in TEXTS for i in range(len(text) - 2)}:
    count = sum(gram in text for text in TEXTS)
    idf[gram] = math.log((1 + len(TEXTS)) / (1 + count)) + 1
  column = {gram: j for j, gram in enumerate(idf)}
  x = np.zeros((len(TEXTS), len(column)))
  for row, text in zip(x, TEXTS, strict=True):
    for gram, value in weights(text, idf).items():
      row[column[gram]] = value
  _, _, axes = np.linalg.svd(x, full_matrices=False)
  place = x @ axes[1:3].T
  place /= np.linalg.norm(place, axis=1, keepdims=True)
  # Three kinds of text: the first three directions stand out, so that the
  # randomized decomposition is exact. The sign of each is free.
  rows = fit(TEXTS, dim=2)(TEXTS)
  np.testing.assert_allclose(rows @ rows.T, place @ place.T, atol=1e-3)


def test_counts_are_those_of_scikit_learn():
  from sklearn.feature_extraction.text import CountVectorizer

  texts = [*TEXTS, "", "ab", "A  b\n\n\tC \u00a0 d\te", "\u0130stanbul"]
  texts += [
    "\u039f\u0394\u039f\u03a3",
    "日本語の文日本語",
    "\ud83d",
    "\ude00 aa",
  ]
  theirs = CountVectorizer(analyzer="char", ngram_range=(3, 3))
  expected = csr_array(theirs.fit_transform(texts)).toarray()
  code_F = tfidf._commonest(texts, 10**6)
  found = tfidf._in_chunks(tfidf._Grams(code_F).counts, texts).toarray()
  np.testing.assert_array_equal(found, expected)
  most = np.sort(expected.sum(axis=0))[::-1][:50]
  known = tfidf._Grams(tfidf._commonest(texts, 50)).counts(texts).toarray()
  np.testing.assert_array_equal(np.sort(known.sum(axis=0))[::-1], most)


def test_each_gram_is_found_where_hashes_meet():
  rng = np.random.default_rng(0)
  code_F = np.unique(rng.integers(0, 2**63 - 1, 50_000))
  grams = tfidf._Grams(code_F[::2])
  wanted = np.where(np.arange(len(code_F)) % 2, -1, np.arange(len(code_F)) // 2)
  np.testing.assert_array_equal(grams._columns(code_F), wanted)


def test_arrays_without_pickle_give_equal_results(embedder):
  file = io.BytesIO()
  np.savez(file, **embedder.to_arrays())
  file.seek(0)
  again = tfidf.TfidfEmbedder.from_arrays(dict(np.load(file)))
  assert again.digest == embedder.digest
  np.testing.assert_array_equal(again(TEXTS), embedder(TEXTS))


def test_grams_that_numpy_strings_would_change_are_kept():
  texts = [f"{text} a\0\0 b\n\n \ud83dcd" for text in TEXTS]
  one = fit(texts)
  again = tfidf.TfidfEmbedder.from_arrays(one.to_arrays())
  np.testing.assert_array_equal(again(["a\0\0"]), one(["a\0\0"]))


def test_a_text_is_embedded_alike_alone_and_in_any_chunk(embedder, monkeypatch):
  whole = embedder(TEXTS)
  monkeypatch.setattr(tfidf, "_CHUNK", 7)
  np.testing.assert_array_equal(embedder(TEXTS), whole)
  np.testing.assert_array_equal(embedder(TEXTS[5:6]), whole[5:6])
  assert embedder([]).shape == (0, 8)


def test_fitting_twice_in_any_order_gives_the_same_embedder(embedder):
  assert fit(TEXTS[::-1]).digest == embedder.digest


def test_the_sample_depends_on_seed_and_text_alone():
  one = fit(TEXTS, sample=30, seed=0)
  assert one.digest == fit(TEXTS[::-1], sample=30, seed=0).digest
  other = fit(TEXTS, sample=30, seed=1)
  assert sorted(one.to_arrays()["idf"]) != sorted(other.to_arrays()["idf"])


def test_the_number_of_grams_is_bounded():
  arrays = fit(TEXTS, max_features=20).to_arrays()
  assert arrays["axes"].shape == (8, 20)


@pytest.mark.parametrize(
  ("texts", "message"),
  [
    ([], "None of the 0 texts"),
    (["", "ab", "   "], "None of the 3 texts"),
    (TEXTS[:8], "more than 8 texts.*embedding.dim to 7 or less"),
    (TEXTS[:1], "more than 8 texts.*got 1 and .*; give more"),
  ],
)
def test_what_cannot_be_learned_from_is_told(texts, message):
  with pytest.raises(UserError, match=message):
    fit(texts)
