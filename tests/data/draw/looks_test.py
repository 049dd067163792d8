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


def small_sampler(*sizes: int) -> sampler.Sampler:
  """Of documents of so many tokens."""
  texts = [RNG.integers(1, 9, size) for size in sizes]
  tokens = packing.store(texts, [1] * len(sizes), end_of_text=0)
  keys = sampler.document_keys([f"{number}" for number in range(len(sizes))])
  return sampler.make(tokens, keys, row_tokens=8, seed=0)


def test_looks_are_those_of_a_document_s_most_drawn_piece():
  made = small_sampler(5, 30, 12)
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
  mass_N = made.tokens.mass_N
  seen = Subpool(np.ones(3, bool), mass_N, epochs=2.0, max_weight=1.0)
  had = looks.of(made, cursor.state(), seen)
  np.testing.assert_allclose(had.left_N, np.maximum(2.0 - expected_N, 0.0))


def test_weights_at_the_cap_are_drawn_in_stretches_as_at_once():
  made = small_sampler(*[7] * 40)
  mass_N = made.tokens.mass_N
  rows, stretches, most = 40, 10, 4.0
  epochs = rows / (40 * 8 / 8)
  # A quarter of the documents, each as often as is allowed.
  weight_N = np.where(np.arange(40) < 10, most, 0.0)
  seen = Subpool(np.ones(40, bool), mass_N, epochs, max_weight=most)
  at_once, _ = made.draw(made.start(made.init(), weight_N), rows)
  state = made.init()
  for _ in range(stretches):
    had = looks.of(made, state, seen)
    now_N = had.weights(weight_N, mass_N, epochs / stretches)
    np.testing.assert_allclose(now_N, weight_N, rtol=1e-9)
    cursor, _ = made.draw(made.start(state, now_N), rows // stretches)
    state = cursor.state()
  np.testing.assert_array_equal(state.copies, at_once.state().copies)
  assert state.copies.max() == most
  # Some have their last draw long before the end.
  cursor, _ = made.draw(made.start(made.init(), weight_N), rows * 8 // 10)
  count_N, expected_N = made.looks(cursor.state())
  assert ((count_N == most) & (expected_N < most - 0.5)).any()
