"""Draws: exact counts, independence of order, resumption, common random numbers."""

import numpy as np
import pytest

from cmtree_jax.data import packing, sampler

T = 8
SIZE = 60
IDS = [f"document-{number}" for number in range(SIZE)]


def make_store(order=None):
  """Documents of 0 to 20 tokens, each token naming its document."""
  length_N = np.random.default_rng(0).integers(0, 21, SIZE)
  documents = [np.full(n, 100 + i) for i, n in enumerate(length_N)]
  order = range(SIZE) if order is None else order
  return packing.store([documents[i] for i in order], [1] * SIZE, end_of_text=0)


@pytest.fixture
def pool():
  return sampler.make(make_store(), IDS, row_tokens=T, seed=0)


@pytest.fixture
def full_pool():
  """Documents of one full piece each, so that no draw cuts one."""
  documents = [np.full(T - 1, 100 + i) for i in range(SIZE)]
  tokens = packing.store(documents, [1] * SIZE, end_of_text=0)
  return sampler.make(tokens, IDS, row_tokens=T, seed=0)


def draws(pool, weight_N, num_rows, count, state=None):
  """`count` draws: (last state, batches)."""
  state = pool.init() if state is None else state
  batches = []
  for _ in range(count):
    state, batch = pool.draw(state, weight_N, num_rows)
    batches.append(batch)
  return state, batches


def random_weights(seed):
  """Heavy-tailed weights, some of them zero."""
  rng = np.random.default_rng(seed)
  return rng.lognormal(0, 1.5, SIZE) * (rng.uniform(size=SIZE) > 0.2)


def sequence(full_pool, weight_N, count):
  """Documents in the order of their arrival, from draws of a row each."""
  _, batches = draws(full_pool, weight_N, 1, count)
  return [int(batch.document_BT[0, 0]) for batch in batches]


def test_rows_have_no_padding_and_the_wanted_shape(pool):
  _, (batch,) = draws(pool, random_weights(0), 37, 1)
  assert batch.tokens_BT.shape == (37, T)
  assert (batch.document_BT >= 0).all()
  text = batch.tokens_BT[batch.tokens_BT > 0]
  document = batch.document_BT[batch.tokens_BT > 0]
  np.testing.assert_array_equal(text, 100 + document)


def test_an_epoch_of_natural_weights_is_every_piece_once(pool):
  total = int(pool.pieces.length.sum())
  assert total % T  # the last row is shared with the second epoch
  state, (batch,) = draws(pool, np.ones(SIZE), total // T, 1)
  # At most the pieces in what is left over are missing.
  assert state.copies.max() == 1
  assert pool.pieces.length[state.copies == 0].sum() < T
  count_N = np.bincount(batch.document_BT.ravel(), minlength=SIZE)
  short_N = pool.tokens.pairs_N - count_N
  assert (short_N >= 0).all() and short_N.sum() == total % T


@pytest.mark.parametrize("num_rows", [1, 6, 20])
def test_epochs_in_parts_draw_every_piece_equally_often(full_pool, num_rows):
  state = full_pool.init()
  for number in range(2 * SIZE // num_rows):
    state, _ = full_pool.draw(state, np.full(SIZE, 0.3), num_rows)
    whole, rest = divmod((number + 1) * num_rows, SIZE)
    # `rest` pieces are one ahead.
    assert state.copies.sum() == whole * SIZE + rest
    assert state.copies.min() == whole
    assert state.copies.max() == whole + (rest > 0)


def test_counts_are_within_one_of_the_expectation(pool):
  weight_N = random_weights(1)
  state = pool.init()
  for _ in range(8):
    state, _ = pool.draw(state, weight_N, 25)
    speed = weight_N[pool.pieces.document]
    assert (np.abs(state.copies - state.progress) < 1 + 1e-9).all()
    # The expectation is one and the same multiple of every weight ...
    np.testing.assert_allclose(
      state.progress * speed.max(), state.progress.max() * speed, rtol=1e-9
    )
  # ... and of the tokens drawn, up to the tails that the draws cut off.
  expected = state.progress @ pool.pieces.length
  spread = np.sqrt(pool.pieces.length**2 @ (state.progress > 0)) / 2
  np.testing.assert_allclose(expected, 8 * 25 * T, atol=4 * spread + 8 * T)
  assert state.copies.max() > 5


def test_counts_follow_weights_that_change(pool):
  state, expected = pool.init(), 0
  for seed in range(6):
    weight_N = random_weights(seed)
    before = state.progress
    state, _ = pool.draw(state, weight_N, 25)
    moved = state.progress - before
    speed = weight_N[pool.pieces.document]
    np.testing.assert_allclose(moved * speed.max(), moved.max() * speed)
    expected = expected + moved
    assert (np.abs(state.copies - expected) < 1 + 1e-9).all()


def test_documents_of_weight_zero_never_come(pool):
  zero_N = np.arange(SIZE) % 3 == 0
  weight_N = np.where(zero_N, 0.0, 1.0)
  state, _ = draws(pool, np.ones(SIZE), 10, 1)  # some are on their way
  _, batches = draws(pool, weight_N, 40, 3, state)
  for batch in batches:
    assert not zero_N[batch.document_BT].any()


def test_documents_that_are_due_wait_while_their_weight_is_zero(pool):
  # By rounding, a piece may have passed its point without having been drawn.
  zeros = np.zeros(len(pool.key))
  due = sampler.SamplerState(zeros + 1, zeros.astype(np.int64), np.array(0))
  zero_N = np.arange(SIZE) % 3 == 0
  _, (batch,) = draws(pool, np.where(zero_N, 0.0, 1.0), 20, 1, due)
  assert not zero_N[batch.document_BT].any()


def test_one_document_can_fill_everything(pool):
  weight_N = np.zeros(SIZE)
  weight_N[7] = 1e-12  # of any scale
  state, (batch,) = draws(pool, weight_N, 50, 1)
  assert (batch.document_BT == 7).all()
  mine = pool.pieces.document == 7
  assert state.copies[mine].max() - state.copies[mine].min() <= 1


@pytest.mark.parametrize("weight", [0.0, np.nan, np.inf])
def test_weights_that_are_zero_or_not_finite_are_told(pool, weight):
  with pytest.raises(ValueError, match="zero or not finite"):
    pool.draw(pool.init(), np.full(SIZE, weight), 2)


def test_the_scale_of_weights_does_not_matter(pool):
  weight_N = random_weights(0)
  _, one = draws(pool, weight_N, 10, 3)
  _, two = draws(pool, 1024 * weight_N, 10, 3)
  for a, b in zip(one, two, strict=True):
    np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)


def test_two_halves_are_the_whole_where_no_piece_is_cut(full_pool):
  weight_N = random_weights(2)
  whole, (batch,) = draws(full_pool, weight_N, 80, 1)
  halves, (one, two) = draws(full_pool, weight_N, 40, 2)
  np.testing.assert_array_equal(halves.copies, whole.copies)
  np.testing.assert_allclose(halves.progress, whole.progress, rtol=1e-12)
  both = np.concatenate([one.tokens_BT, two.tokens_BT])
  np.testing.assert_array_equal(
    np.sort(both.ravel()), np.sort(batch.tokens_BT.ravel())
  )


def test_halves_that_cut_a_piece_go_on_in_the_same_order(pool):
  # Draws are prefixes of one sequence of pieces. A draw ends within a piece and
  # the next begins with the next piece, so two halves get as far as the whole,
  # or further by the tail that the first half lost.
  weight_N = random_weights(2)
  for rows in range(5, 30, 5):
    whole, _ = draws(pool, weight_N, 2 * rows, 1)
    halves, _ = draws(pool, weight_N, rows, 2)
    ahead = halves.copies - whole.copies
    assert (ahead >= 0).all()
    assert ahead @ pool.pieces.length < 2 * T


def test_a_saved_state_goes_on_bit_by_bit(pool):
  state, _ = draws(pool, random_weights(0), 10, 3)
  saved = sampler.SamplerState(*(np.array(x.tolist()) for x in state))
  straight, batches = draws(pool, random_weights(1), 10, 3, state)
  resumed, again = draws(pool, random_weights(1), 10, 3, saved)
  for a, b in zip((straight, *batches), (resumed, *again), strict=True):
    for x, y in zip(a, b, strict=True):
      np.testing.assert_array_equal(x, y)


def test_the_state_drawn_from_is_left_alone(pool):
  state, _ = draws(pool, np.ones(SIZE), 10, 1)
  copy = sampler.SamplerState(*(np.array(x) for x in state))
  draws(pool, random_weights(0), 10, 2, state)
  for x, y in zip(state, copy, strict=True):
    np.testing.assert_array_equal(x, y)


def test_the_order_of_documents_does_not_matter(pool):
  order = np.random.default_rng(3).permutation(SIZE)
  permuted = sampler.make(
    make_store(order), [IDS[i] for i in order], row_tokens=T, seed=0
  )
  for seed in range(3):
    weight_N = random_weights(seed)
    _, batches = draws(pool, weight_N, 15, 3)
    _, others = draws(permuted, weight_N[order], 15, 3)
    for a, b in zip(batches, others, strict=True):
      np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
      np.testing.assert_array_equal(a.label_BT, b.label_BT)
      np.testing.assert_array_equal(a.document_BT, order[b.document_BT])


def test_draws_depend_on_ids_pieces_and_seed(pool):
  renamed, reseeded = (
    sampler.make(make_store(), ids, row_tokens=T, seed=seed)
    for ids, seed in (([f"{i}!" for i in IDS], 0), (IDS, 1))
  )
  weight_N = np.ones(SIZE)
  state, _ = draws(pool, weight_N, 30, 1)
  for other in (renamed, reseeded):
    assert len(np.unique(other.key)) == len(other.key)
    assert not np.isin(other.key, pool.key).any()
    assert (draws(other, weight_N, 30, 1)[0].copies != state.copies).any()


def test_recipes_of_one_seed_share_what_they_weigh_alike(full_pool):
  # A group with other weights shifts in and out between the others, whose own
  # order stays as it is.
  group_N = np.arange(SIZE) % 4 == 0
  other_N = np.where(group_N, 5.0, 1.0)
  sequences = []
  for weight_N in (np.ones(SIZE), other_N):
    pieces = sequence(full_pool, weight_N, 90)
    sequences.append([p for p in pieces if not group_N[p]])
  one, two = sequences
  common = min(len(one), len(two))
  assert common > 20
  assert one[:common] == two[:common]


def test_a_heavier_document_comes_no_later(full_pool):
  # Its points are passed in the same order, only sooner.
  weight_N = np.ones(SIZE)
  weight_N[5] = 3.0
  rank = [
    sequence(full_pool, weight, SIZE).index(5)
    for weight in (np.ones(SIZE), weight_N)
  ]
  assert rank[1] <= rank[0]
  assert rank[0] > 0


def test_every_epoch_has_its_own_order(full_pool):
  order = sequence(full_pool, np.ones(SIZE), 2 * SIZE)
  one, two = order[:SIZE], order[SIZE:]
  assert sorted(one) == sorted(two) == list(range(SIZE))
  # Of independent orders, one document in 60 has the same place in both.
  assert sum(a == b for a, b in zip(one, two, strict=True)) < 10


def test_points_are_uniform():
  # Kolmogorov and Smirnov's distance of 6,000 points, at one in 10,000.
  documents = [np.full(1, 1)] * 2000
  tokens = packing.store(documents, [1] * 2000, end_of_text=0)
  pool = sampler.make(
    tokens, [str(i) for i in range(2000)], row_tokens=T, seed=3
  )
  piece = np.tile(np.arange(2000), 3)
  copy = np.repeat(np.arange(3), 2000)
  point = np.sort(pool._uniform(piece, copy))
  assert point[0] >= 0 and point[-1] < 1
  distance = np.abs(point - (np.arange(6000) + 0.5) / 6000).max()
  assert distance < np.sqrt(np.log(2 / 1e-4) / 2 / 6000)
