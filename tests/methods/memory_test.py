"""How much methods hold of each document, beside what was measured of it."""

import tracemalloc

import numpy as np
import pytest

from cmtree_jax.methods import METHODS, s2l, scoring
from cmtree_jax.methods.base import MEASURED
from tests.methods import measured

N, M, H = 40_000, 20, 4
MOST = 100  # bytes a document; the docstrings say 90 at most


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("el2n", {}),
    ("forgetting", {}),
    ("miniplm", {}),
    ("s2l", {"clusters": 5}),
    ("svp", {}),
    ("svp", {"form": "active"}),
    ("cit", {}),
    ("rds_plus", {}),
    ("preselect", {"extended": False}),
    ("perplexity", {}),
  ],
)
def test_a_ranking_holds_few_numbers_of_each_document(
  name, options, monkeypatch
):
  monkeypatch.setattr(scoring, "CHUNK", 2048)
  monkeypatch.setattr(s2l, "_FITTED", 2048)
  method = METHODS[name].make(**options)
  rng = np.random.default_rng(0)

  def documents(count, seed):
    shape = method.look.observations, count
    found = {
      one: rng.uniform(size=(*shape, H) if one[-1] == "H" else shape)
      for one in method.features & MEASURED
    }
    return measured.documents(seed=seed, **found)

  facts = measured.known(documents(N, 0), documents(M, 1))
  measured.found(method, facts)  # imports and compilations are not of documents
  tracemalloc.start()
  try:
    measured.found(method, facts)
    assert tracemalloc.get_traced_memory()[1] < MOST * N
  finally:
    tracemalloc.stop()
