"""Draws: exact counts, independence of order, resumption, common random numbers."""

import tracemalloc

import numpy as np
import pytest

from cmtree_jax.data.draw import packing, sampler

T = 8
SIZE = 60
IDS = [f"document-{number}" for number in range(SIZE)]
KEY_N = sampler.document_keys(IDS)


def make_store(order=None):
  """Documents of 0 to 20 tokens, each token naming its document."""
  length_N = np.random.default_rng(0).integers(0, 21, SIZE)
  documents = [np.full(n, 100 + i) for i, n in enumerate(length_N)]
  order = range(SIZE) if order is None else order
  return packing.store([documents[i] for i in order], [1] * SIZE, end_of_text=0)


@pytest.fixture
def pool():
  return sampler.make(make_store(), KEY_N, row_tokens=T, seed=0)


@pytest.fixture
def full_pool():
  """Documents of one full piece each, so that no draw cuts one."""
  documents = [np.full(T - 1, 100 + i) for i in range(SIZE)]
  tokens = packing.store(documents, [1] * SIZE, end_of_text=0)
  return sampler.make(tokens, KEY_N, row_tokens=T, seed=0)


def draws(pool, weight_N, num_rows, count, state=None):
  """`count` draws: (last state, batches)."""
  cursor = pool.start(pool.init() if state is None else state, weight_N)
  batches = []
  for _ in range(count):
    cursor, batch = pool.draw(cursor, num_rows)
    batches.append(batch)
  return cursor.state(), batches


def lengths(pool):
  """Pairs of every piece."""
  every = np.arange(len(pool.key))
  return packing.span(pool.tokens, pool.pieces, every)[1]


def progress(pool, state):
  """Expected draws of every piece."""
  speed = state.weight_N[pool.pieces.document]
  return state.progress + speed * state.time


def assert_same(one, other):
  """Equal batches or states, bit by bit."""
  for x, y in zip(one, other, strict=True):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(x, y)


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
  length = lengths(pool)
  total = int(length.sum())
  assert total % T  # the last row is shared with the second epoch
  state, (batch,) = draws(pool, np.ones(SIZE), total // T, 1)
  # At most the pieces in what is left over are missing.
  assert state.copies.max() == 1
  assert length[state.copies == 0].sum() < T
  count_N = np.bincount(batch.document_BT.ravel(), minlength=SIZE)
  short_N = pool.tokens.pairs_N - count_N
  assert (short_N >= 0).all() and short_N.sum() == total % T


@pytest.mark.parametrize("num_rows", [1, 6, 20])
def test_epochs_in_parts_draw_every_piece_equally_often(full_pool, num_rows):
  state = full_pool.init()
  for number in range(2 * SIZE // num_rows):
    state, _ = draws(full_pool, np.full(SIZE, 0.3), num_rows, 1, state)
    whole, rest = divmod((number + 1) * num_rows, SIZE)
    # `rest` pieces are one ahead.
    assert state.copies.sum() == whole * SIZE + rest
    assert state.copies.min() == whole
    assert state.copies.max() == whole + (rest > 0)


def test_counts_are_within_one_of_the_expectation(pool):
  weight_N = random_weights(1)
  state, length = pool.init(), lengths(pool)
  for _ in range(8):
    state, _ = draws(pool, weight_N, 25, 1, state)
    speed, expected = weight_N[pool.pieces.document], progress(pool, state)
    assert (np.abs(state.copies - expected) < 1 + 1e-9).all()
    # The expectation is one and the same multiple of every weight ...
    np.testing.assert_allclose(
      expected * speed.max(), expected.max() * speed, rtol=1e-9
    )
  # ... and of the tokens drawn, up to the tails that the draws cut off.
  spread = np.sqrt(length**2 @ (expected > 0)) / 2
  expected = expected @ length
  np.testing.assert_allclose(expected, 8 * 25 * T, atol=4 * spread + 8 * T)
  assert state.copies.max() > 5


def test_counts_follow_weights_that_change(pool):
  state, expected = pool.init(), 0
  for seed in range(6):
    weight_N = random_weights(seed)
    before = progress(pool, state)
    state, _ = draws(pool, weight_N, 25, 1, state)
    moved = progress(pool, state) - before
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
  due = pool.init()._replace(progress=np.ones(len(pool.key)))
  zero_N = np.arange(SIZE) % 3 == 0
  state, (batch,) = draws(pool, np.where(zero_N, 0.0, 1.0), 20, 1, due)
  assert not zero_N[batch.document_BT].any()
  assert state.time == 0.0  # the others were due at once


def test_one_document_can_fill_everything(pool):
  weight_N = np.zeros(SIZE)
  weight_N[7] = 1e-12  # of any scale
  state, (batch,) = draws(pool, weight_N, 50, 1)
  assert (batch.document_BT == 7).all()
  mine = pool.pieces.document == 7
  assert state.copies[mine].max() - state.copies[mine].min() <= 1


@pytest.mark.parametrize(
  ("one", "others"), [(0.0, 0.0), (np.nan, 1.0), (np.inf, 1.0), (-1.0, 1.0)]
)
def test_weights_that_cannot_be_drawn_by_are_told(pool, one, others):
  weight_N = np.full(SIZE, others)
  weight_N[SIZE // 2] = one
  with pytest.raises(
    ValueError, match="finite weights .* that are not all zero"
  ):
    pool.start(pool.init(), weight_N)


@pytest.mark.parametrize("size", [SIZE - 1, SIZE + 1])
def test_a_weight_too_many_or_too_few_is_told(pool, size):
  with pytest.raises(ValueError, match=rf"each of 60 documents.*{size}"):
    pool.start(pool.init(), np.ones(size))


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
  np.testing.assert_allclose(halves.time, whole.time, rtol=1e-12)
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
    assert ahead @ lengths(pool) < 2 * T


def changing_draws(pool, resume):
  """States and batches of 24 draws, with other weights after every sixth."""
  state, states, batches = pool.init(), [], []
  for seed in range(4):
    weight_N = random_weights(seed)
    cursor = pool.start(state, weight_N)
    for number in range(6):
      cursor, batch = pool.draw(cursor, 1 + 3 * number)
      batches.append(batch)
      state = cursor.state()
      states.append(state)
      if resume:  # as from a checkpoint
        saved = sampler.SamplerState(*(x.copy() for x in state))
        cursor = pool.start(saved, weight_N.copy())
  return states, batches


def test_a_saved_state_goes_on_bit_by_bit_from_every_draw(pool):
  straight, resumed = (changing_draws(pool, resume) for resume in (False, True))
  for one, other in zip(straight, resumed, strict=True):
    for x, y in zip(one, other, strict=True):
      assert_same(x, y)


@pytest.mark.parametrize("block_share", [1e-9, 0.02, 10.0])
def test_the_size_of_a_block_does_not_matter(pool, block_share):
  other = sampler.make(
    make_store(), KEY_N, row_tokens=T, seed=0, block_share=block_share
  )
  for one, two in zip(
    changing_draws(pool, False), changing_draws(other, False), strict=True
  ):
    for x, y in zip(one, two, strict=True):
      assert_same(x, y)


def test_draws_between_changes_of_the_weights_share_passes(monkeypatch):
  size = 2000
  tokens = packing.store([np.full(T - 1, 1)] * size, [1] * size, end_of_text=0)
  keys = sampler.document_keys([str(i) for i in range(size)])
  pool = sampler.make(tokens, keys, row_tokens=T, seed=0)
  passes, original = [], sampler.Sampler._arrivals

  def counted(*args):
    passes.append(1)
    return original(*args)

  monkeypatch.setattr(sampler.Sampler, "_arrivals", counted)
  state, _ = draws(pool, np.ones(size), 4, size // 4)  # an epoch
  assert 1 / sampler.BLOCK_SHARE <= len(passes) <= 1.2 / sampler.BLOCK_SHARE
  passes.clear()
  draws(pool, np.ones(size), 4, 1, state)
  assert len(passes) == 1  # it looks no further back than the state


def test_arrivals_are_those_of_the_definition(full_pool):
  # All points of two spells of weights, in order of the time they are passed.
  moved, sequence = np.zeros(SIZE), []
  weights = [random_weights(seed) for seed in (5, 6)]
  state, drawn = full_pool.init(), []
  for weight_N in weights:
    cursor = full_pool.start(state, weight_N)
    for _ in range(70):
      cursor, batch = full_pool.draw(cursor, 1)
      drawn.append(int(batch.document_BT[0, 0]))
    state = cursor.state()
  copy_NC = np.tile(np.arange(200), (SIZE, 1))
  seeded = full_pool.key ^ sampler.mixed(np.zeros(1, np.uint64))  # seed 0
  point_NC = copy_NC + sampler._uniform(sampler.mixed(seeded)[:, None], copy_NC)
  for weight_N in weights:
    ahead_NC = np.where(point_NC > moved[:, None], point_NC, np.inf)
    with np.errstate(divide="ignore"):
      time_NC = (ahead_NC - moved[:, None]) / weight_N[:, None]
    order = np.argsort(time_NC, axis=None)[:70]
    sequence += (order // 200).tolist()
    moved = moved + weight_N * time_NC.ravel()[order[-1]] * (1 + 1e-12)
  assert drawn == sequence


@pytest.mark.parametrize("count", [1, 2, 4])
def test_processes_share_the_rows_of_a_draw(pool, count):
  _, batches = draws(pool, random_weights(0), 12, 5)
  for index in range(count):
    cursor = pool.start(pool.init(), random_weights(0))
    for whole in batches:
      cursor, part = pool.draw(cursor, 12, share=(index, count))
      assert_same(part, [x[index::count] for x in whole])


def test_memory_of_a_million_pieces():
  size, length = 1_000_000, 50
  tokens = packing.TokenStore(
    flat=np.zeros(size * length, np.uint16),
    start_N1=np.arange(size + 1) * length,
    bytes_N=np.zeros(0, np.int64),
  )
  rng = np.random.default_rng(0)
  key_N = rng.integers(0, 2**63, size).astype(np.uint64)
  tracemalloc.start()
  pool = sampler.make(tokens, key_N, row_tokens=64, seed=0)
  state = pool.init()
  for _ in range(2):
    weight_N = rng.uniform(size=size)
    cursor = pool.start(state, weight_N)
    for _ in range(60):  # more than a block
      cursor, _ = pool.draw(cursor, 1000)
    state = cursor.state()
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert cursor.base.copies.any()  # a block has ended
  assert peak < sampler.BYTES_PER_PIECE * size


def test_the_state_drawn_from_is_left_alone(pool):
  state, _ = draws(pool, np.ones(SIZE), 10, 1)
  copy = sampler.SamplerState(*(np.array(x) for x in state))
  for weight_N in (np.ones(SIZE), random_weights(0)):
    draws(pool, weight_N, 10, 2, state)
    assert_same(state, copy)


def test_the_order_of_documents_does_not_matter(pool):
  order = np.random.default_rng(3).permutation(SIZE)
  permuted = sampler.make(make_store(order), KEY_N[order], row_tokens=T, seed=0)
  for seed in range(3):
    weight_N = random_weights(seed)
    _, batches = draws(pool, weight_N, 15, 3)
    _, others = draws(permuted, weight_N[order], 15, 3)
    for a, b in zip(batches, others, strict=True):
      np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
      np.testing.assert_array_equal(a.label_BT, b.label_BT)
      np.testing.assert_array_equal(a.document_BT, order[b.document_BT])


def test_draws_depend_on_ids_pieces_and_seed(pool):
  renamed = sampler.make(
    make_store(),
    sampler.document_keys([f"{i}!" for i in IDS]),
    row_tokens=T,
    seed=0,
  )
  assert len(np.unique(pool.key)) == len(pool.key)
  assert not np.isin(renamed.key, pool.key).any()
  state, _ = draws(pool, np.ones(SIZE), 30, 1)
  for other in (renamed, pool._replace(seed=1)):
    assert (draws(other, np.ones(SIZE), 30, 1)[0].copies != state.copies).any()


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
  keys = sampler.document_keys([str(i) for i in range(2000)])
  pool = sampler.make(tokens, keys, row_tokens=T, seed=3)
  piece = np.tile(np.arange(2000), 3)
  copy = np.repeat(np.arange(3), 2000)
  point = np.sort(sampler._uniform(pool.key[piece], copy))
  assert point[0] >= 0 and point[-1] < 1
  distance = np.abs(point - (np.arange(6000) + 0.5) / 6000).max()
  assert distance < np.sqrt(np.log(2 / 1e-4) / 2 / 6000)
