"""Runs of words, counted: how often each of them occurs in a text.

Where an embedding says what a text is about, this says what it is written with. Runs
are told apart by a hash, so there is no vocabulary to learn, and a document's counts
do not depend on others.

Words end where letters and digits do: a language that is written without blanks has
hardly any, and is better told by an embedding.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import checks
from cmtree_jax.embed.texts import Texts


class Plan(NamedTuple):
  """The config's block `grams`, with its defaults."""

  buckets: int = 262_144  # that runs of words fall into by their hash
  words: int = 2  # of the longest run

  def check(self) -> None:
    """Raises ValueError for a field below one."""
    checks.at_least(1, buckets=self.buckets, words=self.words)


class Grams(NamedTuple):
  """Counts of documents, end to end; the arrays may lie on disk.

  One sparse matrix of all of them would need indices of 64 bits, and memory.
  """

  start_N1: (
    np.ndarray
  )  # int64; document i has the entries start[i] to start[i+1]
  bucket: np.ndarray  # int32, ascending within a document
  count: np.ndarray  # float32
  buckets: int

  def rows(self, which: slice | np.ndarray) -> Any:
    """Counts of some documents, a SciPy matrix [documents, buckets], float32.

    Args:
      which: numbers of documents, or a slice of them that names both its ends.
    """
    import scipy.sparse

    if isinstance(which, slice):
      start_B1 = self.start_N1[which.start : which.stop + 1]
      entries = slice(start_B1[0], start_B1[-1])
      start_B1 = start_B1 - start_B1[0]
    else:
      first_B = self.start_N1[which]
      size_B = self.start_N1[which + 1] - first_B
      start_B1 = np.concatenate([[0], np.cumsum(size_B)])
      entries = np.arange(start_B1[-1]) + np.repeat(
        first_B - start_B1[:-1], size_B
      )
    return scipy.sparse.csr_matrix(
      (self.count[entries], self.bucket[entries], start_B1),
      shape=(len(start_B1) - 1, self.buckets),
    )


def count(texts: Texts, plan: Plan) -> Grams:
  """The counts of all texts; see `Words`.

  Memory: eight bytes a document, and what is read of the rest.
  """
  return gathered(texts.measured(Words(*plan)), plan.buckets)


def gathered(found: Mapping[str, np.ndarray], buckets: int) -> Grams:
  """What `Words` said of some texts, to be read text by text."""
  start_N1 = np.zeros(len(found["size_N"]) + 1, np.int64)
  np.cumsum(found["size_N"], out=start_N1[1:])
  return Grams(start_N1, found["bucket"], found["count"], buckets)


class Words(NamedTuple):
  """How often each run of words occurs in texts, a `Measure`.

  Words are what DSIR takes for them: runs of letters and digits, and runs of other
  signs but blanks, in lower case.

  >>> found = Words(buckets=1000, words=2)(["a cat, a dog"])
  >>> float(found["count"].sum())  # five words and four pairs
  9.0
  >>> int(found["count"].max())  # "a"
  2
  """

  buckets: int
  words: int
  version: int = 1

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Buckets of each text's runs of words, their counts, and how many there are."""
    parts = list(self._matrices(texts))
    size_N = [np.zeros(0, np.int32), *(np.diff(x.indptr) for x in parts)]
    return {
      "size_N": np.concatenate(size_N).astype(np.int32),
      "bucket": np.concatenate(
        [np.zeros(0, np.int32), *(x.indices for x in parts)]
      ),
      "count": np.concatenate(
        [np.zeros(0, np.float32), *(x.data for x in parts)]
      ),
    }

  def _matrices(self, texts: Sequence[str]) -> Iterator[Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer: Any = HashingVectorizer(
      token_pattern=r"\w+|[^\w\s]+",
      ngram_range=(1, self.words),
      n_features=self.buckets,
      alternate_sign=False,  # counts, not differences of them
      dtype=np.float32,
    )
    vectorizer.set_params(norm=None)  # its types do not know None
    for start in range(0, len(texts), _CHUNK):
      yield vectorizer.transform(texts[start : start + _CHUNK])


_CHUNK = 1000  # documents; bounds the memory that Python's strings take
