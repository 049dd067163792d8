"""Texts, and what two published packages say of them: recorded, not installed.

Two hundred documents of the pool draw their words from the target's distribution with
a probability of their own, else from another; the target has forty. `key_N` are the
pool's keys.

* `dsir_log_weight_N`: PyPI data-selection 1.0.3, HashedNgramDSIR with
  min_example_length=1, fitted to all tokens, on the pool and the target.
* `fasttext_1_N`, `fasttext_2_N`: PyPI fasttext-community 0.11.9, the probability of
  the target's label by train_supervised(lr=0.1, dim=100, minCount=1, wordNgrams=1 or
  2, thread=1), DCLM's settings but 200 epochs for 5, as there are so few documents.
  The documents with the smaller half of the keys by a model of the target and the
  others, and the other way round.
"""

import pathlib

import numpy as np

from cmtree_jax.embed import grams
from cmtree_jax.methods.base import Documents
from tests.listed import Listed

CASE = np.load(pathlib.Path(__file__).parent / "cases" / "oracles.npz")


def documents(name: str, *, words: int = 2) -> Documents:
  """Of pool or target."""
  texts = Listed(map(str, CASE[name]))
  key_N = CASE["key_N"] if name == "pool" else np.arange(len(texts))
  plan = grams.Plan(buckets=2**18, words=words)
  return Documents(
    key_N.astype(np.uint64),
    np.array([len(text.split()) for text in texts]),
    np.zeros((len(texts), 1), np.float32),
    grams=grams.count(texts, plan),
    text=texts,
  )


def first(score_N: np.ndarray) -> set[int]:
  """The best tenth."""
  return set(np.argsort(-score_N)[: len(score_N) // 10].tolist())
