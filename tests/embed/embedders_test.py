"""Embedders by name: made, kept as arrays, and made again."""

import numpy as np
import pytest

from cmtree_jax import embed
from cmtree_jax.types import UserError

TEXTS = [f"text {i} of some words {i * i}" for i in range(30)]


def test_an_embedder_comes_back_from_its_arrays(tmp_path):
  plan = embed.Plan("tfidf", dim=4, max_features=100)
  made = embed.fit(TEXTS, plan, cache_dir=tmp_path)
  again = embed.from_arrays(embed.to_arrays(made), cache_dir=tmp_path)
  assert made(TEXTS).shape == (30, 4)
  np.testing.assert_array_equal(made(TEXTS), again(TEXTS))


def test_an_unknown_embedder_is_told_with_the_known(tmp_path):
  with pytest.raises(UserError, match=r"'word2vec'.*minilm, tfidf"):
    embed.fit(TEXTS, embed.Plan("word2vec"), cache_dir=tmp_path)
  for arrays in ({"kind": np.array("Word2Vec")}, {}):
    with pytest.raises(UserError, match=r"(Word2Vec|None).*TfidfEmbedder"):
      embed.from_arrays(arrays, cache_dir=tmp_path)


def test_what_files_call_an_embedder_is_its_class():
  from cmtree_jax.embed import minilm, tfidf

  assert {kind.saved_as for kind in embed.EMBEDDERS.values()} == {
    minilm.MiniLmEmbedder.__name__,
    tfidf.TfidfEmbedder.__name__,
  }
