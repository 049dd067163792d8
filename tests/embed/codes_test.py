"""HERMES: prefixes nest, codes follow planted topics, and rotations say nothing."""

import jax
import numpy as np
import pytest

from cmtree_jax.embed import codes
from cmtree_jax.evaluate import angles
from cmtree_jax.types import UserError

E = 12
RNG = np.random.default_rng(0)


def topics(count=60, noise=0.05, offset=0.0):
  """Four topics of three subtopics each: (rows, topic, subtopic)."""
  rng = np.random.default_rng(1)
  center_E = offset * np.ones(E)
  topic_N = np.repeat(np.arange(4), 3 * count)
  sub_N = np.tile(np.repeat(np.arange(3), count), 4)
  row_NE = center_E + np.eye(E)[topic_N] + 0.4 * np.eye(E)[4 + sub_N]
  row_NE = row_NE + noise * rng.normal(size=row_NE.shape)
  return row_NE, topic_N, 3 * topic_N + sub_N


def unit(row_NE) -> np.ndarray:
  """Rows at length one, float32."""
  length_N1 = np.linalg.norm(row_NE, axis=1, keepdims=True)
  return (row_NE / length_N1).astype(np.float32)


def test_first_codes_are_topics_and_second_ones_divide_them():
  row_NE, topic_N, sub_N = topics()
  found = codes.fit(row_NE, codes=4, seed=0)
  assert found.book_SKE.shape == (3, 4, E)
  code_NS = codes.encode(row_NE, found)
  assert angles.nmi(code_NS[:, 0], topic_N) > 0.99
  both_N = 4 * code_NS[:, 0] + code_NS[:, 1]
  assert angles.nmi(both_N, sub_N) > 0.95
  # Prefixes nest, by construction, and a shorter book writes the same ones.
  shorter = found._replace(book_SKE=found.book_SKE[:2])
  np.testing.assert_array_equal(codes.encode(row_NE, shorter), code_NS[:, :2])


def test_codes_follow_the_definition():
  row_NE, _, _ = topics(count=5)
  found = codes.fit(row_NE, codes=3, seed=0, epochs=1)
  found = found._replace(shift_E=0.5 * RNG.normal(size=E))
  for row_E, code_S in zip(row_NE, codes.encode(row_NE, found), strict=True):
    rest_E = row_E / np.linalg.norm(row_E) + found.shift_E
    rest_E = rest_E / np.linalg.norm(rest_E)
    for book_KE, code in zip(found.book_SKE, code_S, strict=True):
      cosine_K = book_KE @ rest_E / np.linalg.norm(book_KE, axis=1)
      assert code == np.argmax(cosine_K)
      rest_E = rest_E - book_KE[code]


def test_more_stages_leave_less_over():
  row_NE, _, _ = topics(noise=0.1)
  found = codes.fit(row_NE, codes=4, seed=0)
  row_NE = row_NE / np.linalg.norm(row_NE, axis=1, keepdims=True)
  h_NE = row_NE + found.shift_E
  rest_NE = h_NE / np.linalg.norm(h_NE, axis=1, keepdims=True)
  left = [(rest_NE**2).sum(axis=1).mean()]
  for book_KE, code_N in zip(
    found.book_SKE, codes.encode(row_NE, found).T, strict=True
  ):
    rest_NE = rest_NE - book_KE[code_N]
    left.append((rest_NE**2).sum(axis=1).mean())
  assert (np.diff(left) < 0).all()
  assert left[1] < 0.3 and left[2] < 0.15


def test_a_rotation_of_the_embedding_says_nothing():
  # So the paper's W, which is one, can be left out.
  row_NE, _, _ = topics()
  turn_EE = np.linalg.qr(RNG.normal(size=(E, E)))[0]
  one = codes.fit(row_NE, codes=4, seed=0, epochs=2)
  turned = one._replace(
    shift_E=one.shift_E @ turn_EE, book_SKE=one.book_SKE @ turn_EE
  )
  np.testing.assert_array_equal(
    codes.encode(row_NE @ turn_EE, turned), codes.encode(row_NE, one)
  )
  row_BE = unit(row_NE[:64])
  pair_M2 = RNG.integers(0, 64, (50, 2))
  slope = jax.grad(lambda *x: codes._loss(*x)[0])
  plain_E = slope(one.shift_E, row_BE, pair_M2, one.book_SKE)
  there_E = slope(
    turned.shift_E,
    (row_BE @ turn_EE).astype(np.float32),
    pair_M2,
    turned.book_SKE.astype(np.float32),
  )
  np.testing.assert_allclose(there_E @ turn_EE.T, plain_E, atol=1e-5)
  assert np.abs(plain_E).max() > 1e-3


def test_the_loss_is_that_of_the_paper():
  row_NE, _, _ = topics(count=2)
  row_BE = unit(row_NE)
  shift_E = 0.2 * RNG.normal(size=E).astype(np.float32)
  book_SKE = RNG.normal(0, 0.5, (3, 4, E)).astype(np.float32)
  pair_M2 = RNG.integers(0, len(row_BE), (9, 2))
  h_BE = row_BE + shift_E
  h_BE = h_BE / np.linalg.norm(h_BE, axis=1, keepdims=True)
  code_NS = codes.encode(row_BE, codes.Codes(shift_E, book_SKE))
  q_SBE = np.stack([book_SKE[s][code_NS[:, s]] for s in range(3)])
  structure = [
    (row_BE[i] @ row_BE[j] - h_BE[i] @ h_BE[j]) ** 2 for i, j in pair_M2
  ]
  sum_BE = q_SBE.sum(axis=0)
  unit_BE = sum_BE / np.linalg.norm(sum_BE, axis=1, keepdims=True)
  reconstruction = ((unit_BE - h_BE) ** 2).sum(axis=1).mean()
  rest_BE, commitment = h_BE, 0.0
  for q_BE in q_SBE:
    commitment += ((q_BE - rest_BE) ** 2).sum(axis=1).mean()
    rest_BE = rest_BE - q_BE
  expected = np.mean(structure) + reconstruction + 0.25 * commitment
  found, _ = codes._loss(shift_E, row_BE, pair_M2, book_SKE)
  assert found == pytest.approx(expected, rel=1e-5)


def test_the_transform_makes_reconstruction_easier():
  # Rows in a cone: the shift turns against what all have in common, or not at all.
  row_NE, _, _ = topics(offset=1.0)
  found = codes.fit(row_NE, codes=4, seed=0, epochs=40)
  row_BE = unit(row_NE)
  pair_M2 = RNG.integers(0, len(row_BE), (2048, 2))
  with_it = codes._loss(found.shift_E, row_BE, pair_M2, found.book_SKE)[0]
  plain = codes.fit(row_NE, codes=4, seed=0, epochs=0)
  assert not plain.shift_E.any()
  without = codes._loss(plain.shift_E, row_BE, pair_M2, plain.book_SKE)[0]
  assert np.abs(found.shift_E).max() > 1e-2
  assert with_it < without


def test_vectors_that_nobody_uses_start_anew():
  row_NE, _, _ = topics()
  found = codes.fit(row_NE, codes=4, seed=0, epochs=3)
  used = np.bincount(codes.encode(row_NE, found)[:, 0], minlength=4)
  assert (used > 0).all()
  row_BE = unit(row_NE)
  p_N = np.full(len(row_BE), 1 / len(row_BE))
  state = codes._start(row_BE, p_N, 4, 1, 0)
  # Three of four vectors are where no row is nearest.
  away_KE = -np.ones((3, E), np.float32)
  state = state._replace(
    count_SK=state.count_SK.at[0, 1:].set(0.1),
    sum_SKE=state.sum_SKE.at[0, 1:].set(0.1 * away_KE),
  )
  for number in range(20):
    state = codes._step(state, row_BE, jax.random.key(number))
  book_SKE = np.asarray(codes._books(state))
  _, code_SB, _ = codes._quantized(state.shift_E, row_BE, book_SKE)
  assert len(np.unique(code_SB[0])) == 4


def test_masses_say_what_is_drawn():
  row_NE, topic_N, _ = topics()
  mass_N = np.where(topic_N == 0, 0.0, 1.0)
  found = codes.fit(row_NE, codes=3, seed=0, mass_N=mass_N)
  code_N = codes.encode(row_NE, found)[:, 0]
  # Three topics have a code each, and the fourth none of its own.
  assert angles.nmi(code_N[topic_N > 0], topic_N[topic_N > 0]) > 0.99
  book_KE = found.book_SKE[0]
  assert (book_KE[:, 0] < 0.1 * np.linalg.norm(book_KE, axis=1)).all()


def test_too_few_documents_are_told():
  with pytest.raises(UserError, match="Cannot learn 9 codes from 4 documents"):
    codes.fit(np.eye(4), codes=9, seed=0)
