"""Weights under which no document is drawn too often."""

import numpy as np
import pytest

from cmtree_jax.data.draw import looks, packing, sampler
from cmtree_jax.data.draw.looks import within
from cmtree_jax.data.draw.subpool import Subpool

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("seed", range(20))
def test_weights_keep_their_bounds_and_their_mean(seed):
  rng = np.random.default_rng(seed)
  mass_N = rng.dirichlet(np.ones(30))
  weight_N = rng.exponential(size=30) * (rng.random(30) < 0.7)
  weight_N /= mass_N @ weight_N
  most_N = rng.uniform(0, 3, 30)
  most_N *= max(1.0, 1.2 / (mass_N @ most_N))  # there is enough
  found_N = within(weight_N, mass_N, most_N)
  assert (found_N <= most_N + 1e-9).all()
  assert mass_N @ found_N == pytest.approx(1)
  # What is below its bound keeps its proportions, where such documents suffice.
  free_N = (found_N < most_N - 1e-9) & (weight_N > 0)
  if free_N.any():
    ratio = found_N[free_N] / weight_N[free_N]
    assert np.ptp(ratio) < 1e-9
    assert (ratio >= 1 - 1e-9).all()
    assert (found_N[weight_N == 0] == 0).all()


def test_weights_within_their_bounds_are_left_as_they_are():
  weight_N = np.array([1.5, 0.5])
  assert within(weight_N, np.full(2, 0.5), np.full(2, 1.5)) is weight_N


def test_looks_are_those_of_a_document_s_most_drawn_piece():
  texts = [RNG.integers(1, 9, size) for size in (5, 30, 12)]
  tokens = packing.store(texts, [1, 1, 1], end_of_text=0)
  keys = sampler.document_keys(["a", "b", "c"])
  made = sampler.make(tokens, keys, row_tokens=8, seed=0)
  weight_N = np.array([2.0, 1.0, 0.0])
  cursor, rows = made.draw(made.start(made.init(), weight_N), 12)
  count_N, expected_N = made.looks(cursor.state())
  drawn = np.bincount(rows.document_BT.ravel(), minlength=3)
  assert drawn[2] == count_N[2] == expected_N[2] == 0
  assert expected_N[0] == pytest.approx(2 * expected_N[1])
  for document, length in ((0, 6), (1, 31)):
    expected = drawn[document] / length
    assert abs(count_N[document] - expected) <= 1
    assert abs(expected_N[document] - expected) <= 1
  mass_N = tokens.mass_N
  seen = Subpool(np.ones(3, bool), mass_N, epochs=2.0, max_weight=1.0)
  had = looks.of(made, cursor.state(), seen)
  # Two looks are allowed; who has had them has none left.
  assert (had.left_N[count_N >= 2] == 0).all()
  np.testing.assert_allclose(had.left_N[2], 2.0)
