"""The default embedding: character 3-grams, weighted by rarity, in few dimensions.

It needs no weights from elsewhere, speaks every language of the corpus, and tells
topic, language and format apart; what it costs is in the docstring of `fit`. A
neural alternative with the same interface is `embed/minilm.py`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from cmtree_jax.shapes import FloatNE
from cmtree_jax.types import UserError


def fit(
  texts: Sequence[str],
  *,
  dim: int,
  max_features: int,
  sample: int,
  seed: int,
) -> "TfidfEmbedder":
  r"""An embedder whose axes are the leading directions of the sampled texts.

  .. math:: x_{ij} \propto (1 + \ln n_{ij}) \, \mathrm{idf}_j, \quad
            h_i = \mathrm{normalize}(x_i V_{2..\mathrm{dim}+1})

  where :math:`n_{ij}` counts the 3-gram j in text i, each row of x has unit length
  and V holds the right singular vectors of x. The first of them is left out: it
  is about the mean text, which all texts share (on 8,000 documents of 34 sources,
  leaving it out raised the mutual information of 32 k-means clusters with the
  source from .83 to .86).

  On one core 22 MB in 14k documents take 20 seconds, fit on 5,000 of them with
  20,000 features.

  Args:
    texts: the corpus.
    dim: E, numbers per text.
    max_features: how many of the commonest 3-grams to look at.
    sample: how many texts, chosen by hash, to learn from.
    seed: chooses the texts and starts the randomized decomposition.
  """
  import threadpoolctl
  from sklearn.decomposition import TruncatedSVD

  texts = _sample(texts, sample, seed)
  vectorizer = _vectorizer(max_features=max_features)
  try:
    counts = vectorizer.fit_transform(texts)
  except ValueError as error:
    raise UserError(
      f"None of the {len(texts)} texts to learn an embedding from has three"
      " characters; is the text field the right one?"
    ) from error
  if min(counts.shape) <= dim:
    raise UserError(
      f"An embedding of dim={dim} needs more than {dim} texts and 3-grams to"
      f" learn from, got {counts.shape[0]} and {counts.shape[1]}; lower dim."
    )
  with threadpoolctl.threadpool_limits(1):  # more would round differently
    svd = TruncatedSVD(dim + 1, random_state=seed).fit(counts)
  return TfidfEmbedder(
    grams=vectorizer.get_feature_names_out().tolist(),
    idf=vectorizer.idf_,
    axes=svd.components_[1:],
  )


class TfidfEmbedder:
  """Gives texts their place: `embedder(texts)` has unit rows [N, E], float32."""

  def __init__(
    self,
    *,
    grams: Sequence[str],
    idf: Float[np.ndarray, " F"],
    axes: Float[np.ndarray, "E F"],
  ):
    self._grams = tuple(grams)
    self._idf = np.asarray(idf, np.float32)
    self._axes = np.asarray(axes, np.float32)
    self._vectorizer = _vectorizer(vocabulary=self._grams)
    self._vectorizer.idf_ = self._idf

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text; one without a known 3-gram gets the first axis."""
    rows: list[FloatNE] = [np.zeros((0, len(self._axes)), np.float32)]
    for start in range(0, len(texts), _CHUNK):
      x = self._vectorizer.transform(texts[start : start + _CHUNK])
      rows.append(_normalize(x @ self._axes.T))
    return np.concatenate(rows)

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept as .npz; `from_arrays` gives equal results."""
    # As code points: numpy's strings would drop a NUL at the end of a 3-gram.
    joined = "".join(self._grams).encode("utf-32-le", "surrogatepass")
    points = np.frombuffer(joined, "<u4")
    return {
      "grams": points.reshape(len(self._grams), 3),
      "idf": self._idf,
      "axes": self._axes,
    }

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "TfidfEmbedder":
    """The embedder that `to_arrays` was called on."""
    points = arrays["grams"].astype("<u4")
    grams = [
      row.tobytes().decode("utf-32-le", "surrogatepass") for row in points
    ]
    return cls(grams=grams, idf=arrays["idf"], axes=arrays["axes"])

  @property
  def digest(self) -> str:
    """A hash of everything that decides the rows; part of cache keys."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in self.to_arrays().items():
      digest.update(f"{name} {array.dtype} {array.shape}".encode())
      digest.update(array.tobytes())
    return digest.hexdigest()


_CHUNK = 1000  # documents; bounds the memory of the sparse matrix


def _vectorizer(
  *, max_features: int | None = None, vocabulary: Sequence[str] | None = None
) -> Any:  # scikit-learn's; Any, as the types of its matrices lack operators
  from sklearn.feature_extraction.text import TfidfVectorizer

  return TfidfVectorizer(
    analyzer="char",
    ngram_range=(3, 3),
    sublinear_tf=True,
    dtype=np.float32,
    max_features=max_features,
    vocabulary=vocabulary,
  )


def _sample(texts: Sequence[str], size: int, seed: int) -> list[str]:
  """The texts with the smallest hashes, in the order of their hashes."""
  salt = seed.to_bytes(8, "little")

  def key(text: str) -> tuple[bytes, str]:
    data = text.encode(errors="surrogatepass")
    return hashlib.blake2b(data, digest_size=16, salt=salt).digest(), text

  return sorted(texts, key=key)[:size]


def _normalize(rows: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(rows, axis=1, keepdims=True)
  first = np.eye(1, rows.shape[1], dtype=np.float32)
  return np.where(norm > 0, rows / np.where(norm > 0, norm, 1), first)
