"""Embedders by name: made, kept as arrays, and made again."""

import importlib
import pkgutil

import numpy as np
import pytest

from cmtree_jax import embed
from cmtree_jax.types import UserError

TEXTS = [f"text {i} of some words {i * i}" for i in range(30)]


@pytest.mark.parametrize("kind", sorted({*embed.EMBEDDERS} - {"minilm"}))
def test_an_embedder_comes_back_from_its_arrays(tmp_path, kind):
  """The others have no wheel to be fetched."""
  plan = embed.Plan(kind, dim=4, max_features=100)
  made = embed.fit(TEXTS, plan, cache_dir=tmp_path)
  again = embed.from_arrays(embed.to_arrays(made), cache_dir=tmp_path)
  assert made(TEXTS).shape == (30, 4)
  np.testing.assert_allclose(np.linalg.norm(made(TEXTS), axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(made(TEXTS), again(TEXTS))


def test_an_unknown_embedder_is_told_with_the_known(tmp_path):
  with pytest.raises(UserError, match=r"'word2vec'.*minilm, tfidf"):
    embed.fit(TEXTS, embed.Plan("word2vec"), cache_dir=tmp_path)
  for arrays in ({"kind": np.array("Word2Vec")}, {}):
    with pytest.raises(UserError, match=r"(Word2Vec|None).*TfidfEmbedder"):
      embed.from_arrays(arrays, cache_dir=tmp_path)


def test_what_files_call_an_embedder_is_its_class():
  classes = {
    name
    for module in pkgutil.iter_modules(embed.__path__, "cmtree_jax.embed.")
    for name in vars(importlib.import_module(module.name))
    if name.endswith("Embedder") and name != "Embedder"
  }
  assert set(embed.LOADERS) == classes
  assert {"MiniLmEmbedder", "TfidfEmbedder"} <= classes
