"""Rows of every part, by the number of the observation alone."""

import numpy as np
import pytest

from cmtree_jax.data.draw import packing, sampler, strata

T, V = 6, 50
PART_N = np.array([0, 1, 0, 3, 1, 0, 3, 0])  # part 2 is empty


def make(order=range(8), seed=0, reservoir=None):
  order = list(order)
  rng = np.random.default_rng(1)
  texts = [rng.integers(1, V, 3 + 5 * i) for i in range(8)]
  tokens = packing.store([texts[i] for i in order], [1] * 8, end_of_text=0)
  keys = sampler.document_keys([f"d{i}" for i in order])
  made = sampler.make(tokens, keys, row_tokens=T, seed=seed)
  return strata.make(made, PART_N[order], num_parts=4)


def test_rows_are_of_their_own_part():
  batch = make().rows(1, 2)
  assert batch.tokens_BT.shape == (4, 2, T)
  for part in (0, 1, 3):
    document = batch.document_BT[part]
    assert set(PART_N[document[document >= 0]]) == {part}
  assert (batch.document_BT[2] == -1).all()
  assert (batch.document_BT[0] >= 0).all()  # it has enough


def test_observations_differ_and_repeat():
  made = make()
  one, two, again = (made.rows(n, 2).tokens_BT for n in (1, 2, 1))
  np.testing.assert_array_equal(one, again)
  assert (one != two).any()
  assert (one != make(seed=5).rows(1, 2).tokens_BT).any()


def test_the_order_of_documents_does_not_matter():
  one, two = make().rows(3, 2), make(order=[4, 2, 7, 0, 5, 1, 6, 3]).rows(3, 2)
  np.testing.assert_array_equal(one.tokens_BT, two.tokens_BT)
  np.testing.assert_array_equal(one.label_BT, two.label_BT)


def test_all_of_a_reservoir_is_drawn_in_time(monkeypatch):
  monkeypatch.setattr(strata, "RESERVOIR", 3)
  made = make()
  assert [len(piece) for piece in made.piece_G] == [3, 3, 0, 3]
  seen = {
    int(d) for n in range(50) for d in made.rows(n, 1).document_BT[0].ravel()
  } - {-1}
  assert seen == set(made.sampler.pieces.document[made.piece_G[0]].tolist())


def test_a_part_that_is_too_small_is_filled_up():
  batch = make().rows(1, 9)
  tokens = (batch.document_BT >= 0).sum(axis=(1, 2))
  pairs = [(4 + 5 * i) for i in range(8)]
  expected = [
    sum(p for p, k in zip(pairs, PART_N, strict=True) if k == part)
    for part in range(4)
  ]
  assert tokens[1] == pytest.approx(min(expected[1], 9 * T))


@pytest.mark.parametrize("rows", [1, 16])
def test_a_token_is_seen_as_often_whatever_its_document_is_long(rows):
  # Of 48 * 31 + 240 * 6 pairs 49 % are in documents shorter than a row.
  length = [30] * 48 + [5] * 240
  texts = [np.full(n, 1 + i % (V - 1)) for i, n in enumerate(length)]
  tokens = packing.store(texts, [1] * len(texts), end_of_text=0)
  keys = sampler.document_keys([f"d{i}" for i in range(len(texts))])
  made = strata.make(
    sampler.make(tokens, keys, row_tokens=31, seed=0),
    np.zeros(len(texts), int),
    num_parts=1,
  )
  is_short_N = np.array(length) < 30
  true = tokens.mass_N[is_short_N].sum()
  assert true == pytest.approx(0.49, abs=0.005)
  seen = []
  for number in range(2000 // rows):
    document = made.rows(number, rows).document_BT
    assert (document >= 0).all()
    seen.append(is_short_N[document].mean())
  error = np.std(seen) / np.sqrt(len(seen))
  assert error < 0.012
  assert np.mean(seen) == pytest.approx(true, abs=3.5 * error)


def test_a_stretch_may_come_round_to_its_first_piece():
  # Two pieces of 6 pairs and one of 2; of the circle of 14 a stretch of 12.
  texts = [np.full(n, i + 1) for i, n in enumerate((5, 5, 1))]
  tokens = packing.store(texts, [1] * 3, end_of_text=0)
  keys = sampler.document_keys("abc")
  made = strata.make(
    sampler.make(tokens, keys, row_tokens=T, seed=0),
    np.zeros(3, int),
    num_parts=1,
  )
  counts = np.array(
    [
      np.bincount(made.rows(number, 2).document_BT.ravel(), minlength=3)
      for number in range(2000)
    ]
  )
  assert (counts <= [6, 6, 2]).all()  # none is seen twice
  np.testing.assert_allclose(
    counts.mean(axis=0), np.array([6, 6, 2]) * 12 / 14, atol=0.12
  )


def test_only_what_is_inside_is_seen():
  inside_N = np.array([1, 1, 1, 0, 0, 0, 1, 0], bool)
  whole = make()
  made = strata.make(whole.sampler, PART_N, num_parts=4, inside_N=inside_N)
  seen = {
    int(d) for n in range(50) for d in made.rows(n, 2).document_BT.ravel()
  } - {-1}
  assert seen == set(np.flatnonzero(inside_N).tolist())
