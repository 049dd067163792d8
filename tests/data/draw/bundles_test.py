"""Rows along a path: its order, exact looks, caps, resumption, the shuffled control."""

import contextlib
import itertools

import numpy as np
import pytest

from cmtree_jax.data.draw import bundles, packing, pipeline, sampler
from cmtree_jax.data.draw.bundles import Course
from cmtree_jax.loops.checkpoint import Checkpointer

T, SIZE = 8, 90
IDS = [f"document-{number}" for number in range(SIZE)]
KEY_N = sampler.document_keys(IDS)
PLACE_N = np.random.default_rng(5).permutation(SIZE)
LENGTH_N = np.random.default_rng(0).integers(0, 21, SIZE)


def make(course, *, order=None, seed=0, **options):
  """Documents whose tokens name them, on a path that has nothing to do with ids."""
  order = np.arange(SIZE) if order is None else order
  documents = [np.full(LENGTH_N[i], 100 + i) for i in order]
  tokens = packing.store(documents, [1] * SIZE, end_of_text=0)
  plain = sampler.make(tokens, KEY_N[order], row_tokens=T, seed=seed)
  unit_N = bundles.units(
    PLACE_N[order], KEY_N[order], tokens.pairs_N, row_tokens=T
  )
  return bundles.make(plain, PLACE_N[order], unit_N, course, **options)


PAIRS = int((LENGTH_N + 1).sum())
PASS = PAIRS // T  # rows of a pass, but for a part of a row


def draws(pool, weight_N, num_rows, count, *, state=None, share=(0, 1)):
  """(last state, batches) of so many draws."""
  cursor = pool.start(pool.init() if state is None else state, weight_N)
  batches = []
  for _ in range(count):
    cursor, batch = pool.draw(cursor, num_rows, share=share)
    batches.append(batch)
  return cursor.state(), batches


def looks(batches):
  """How often each document was seen, as a part of its length."""
  document = np.concatenate([x.document_BT.ravel() for x in batches])
  return np.bincount(document, minlength=SIZE) / (LENGTH_N + 1)


def random_weights(seed):
  rng = np.random.default_rng(seed)
  return rng.lognormal(0, 1.0, SIZE) * (rng.uniform(size=SIZE) > 0.2)


def assert_same(one, other):
  for x, y in zip(one, other, strict=True):
    np.testing.assert_array_equal(x, y)


def test_a_pass_is_the_path_end_to_end():
  pool = make(Course(PASS, 1, most=9))
  _, (batch,) = draws(pool, np.ones(SIZE), PASS, 1)
  window = pool._window(pool.start(pool.init(), np.ones(SIZE)).base)
  row_of = np.argsort(window.row)  # where each row was read
  document = batch.document_BT[row_of].ravel()
  place = PLACE_N[document]
  assert (np.diff(place) >= 0).all()
  # All is there, but for what is left over of a row.
  count_N = np.bincount(document, minlength=SIZE)
  assert (count_N <= LENGTH_N + 1).all() and len(document) == PASS * T
  # Rows are of several documents and one segment, and labels are the next tokens.
  assert (batch.segment_BT == 0).all()
  text = batch.tokens_BT > 0
  named = 100 + batch.document_BT[text]
  np.testing.assert_array_equal(batch.tokens_BT[text], named)
  ahead = batch.label_BT[:, :-1]
  same = batch.document_BT[:, :-1] == batch.document_BT[:, 1:]
  np.testing.assert_array_equal(ahead[same], batch.tokens_BT[:, 1:][same])
  assert (np.sort(window.row) == np.arange(PASS)).all()
  assert (np.diff(window.row) != 1).any()  # in random order


def test_a_document_that_comes_twice_stands_in_two_laps():
  weight_N = np.where(np.arange(SIZE) % 3 == 0, 2.0, 1.0)
  rows = int(weight_N @ (LENGTH_N + 1)) // T
  pool = make(Course(rows, 1, most=9))
  window = pool._window(pool.start(pool.init(), weight_N).base)
  pieces = pool.sampler.pieces
  document = pieces.document[window.piece]
  (turns,) = np.nonzero(np.diff(PLACE_N[document]) < 0)
  assert len(turns) == 1
  second = document[turns[0] + 1 :]
  assert set(second) <= set(range(0, SIZE, 3)) and len(set(second)) > SIZE / 4


@pytest.mark.parametrize("shuffled", [False, True])
def test_looks_follow_the_weights_to_the_next_whole_number(shuffled):
  rows, passes = 60, 3
  pool = make(Course(rows, passes, most=99), shuffled=shuffled)
  weight_N = random_weights(1)
  state, seen_N = pool.init(), np.zeros(SIZE)
  for _ in range(passes):
    state, batches = draws(pool, weight_N, rows // passes // 2, 2, state=state)
    assert state.taken == 0
    seen_N += looks(batches)
    plain = state.window
    expected_N = pool.sampler.looks(plain)[1]
    assert (np.abs(seen_N - expected_N) < 1 + 1e-9).all() or (
      # A window cuts the last of its documents.
      np.sort(np.abs(seen_N - expected_N))[-passes - 1] < 1 + 1e-9
    )
  assert not seen_N[weight_N == 0].any()
  assert seen_N.max() > 3


def test_within_a_window_looks_are_right_in_the_mean():
  """But for a bias below the share that a bundle has of the window."""
  weight_N, part, seeds = random_weights(2), 10, 400
  seen_SN = np.array(
    [
      looks(
        draws(make(Course(3 * part, 1, 99), seed=seed), weight_N, part, 1)[1]
      )
      for seed in range(seeds)
    ]
  )
  expected_N = weight_N * part * T / (weight_N @ (LENGTH_N + 1))
  bias_N, noise_N = (
    seen_SN.mean(axis=0) - expected_N,
    seen_SN.var(axis=0) / seeds,
  )
  drawn_N = weight_N > 0
  square = np.sum(bias_N[drawn_N] ** 2 - noise_N[drawn_N])
  assert np.ptp(np.log(weight_N[drawn_N])) > np.log(50)  # they differ so much
  relative = np.sqrt(max(square, 0.0) / np.sum(expected_N**2))
  assert relative < bundles.ROWS / (3 * part)


@pytest.mark.parametrize("shuffled", [False, True])
def test_no_document_is_seen_more_often_than_it_may_be(shuffled):
  # Some would be seen 3.3 times; the others take what is left.
  heavy_N = np.arange(SIZE) % 4 == 0
  weight_N = np.where(heavy_N, 3.3, 1.0)
  rows = int(weight_N @ (LENGTH_N + 1)) // T
  more = 0
  for seed in range(20):
    for most in (3, 9):
      pool = make(Course(rows, 2, most), seed=seed, shuffled=shuffled)
      seen_N = looks(draws(pool, weight_N, 1, rows)[1])
      assert seen_N.max() <= most
      more += most == 9 and seen_N.max() > 3
  assert more > 10
  # Where there is nothing else the rows are filled all the same.
  pool = make(Course(rows, 1, most=1))
  seen_N = looks(draws(pool, np.where(heavy_N, 1.0, 0), rows, 1)[1])
  assert seen_N.max() > 1


def test_the_control_has_the_same_documents_as_often():
  for seed in range(6):
    course, weight_N = Course(40, 2, most=99), random_weights(seed)
    batches = [
      draws(make(course, shuffled=shuffled), weight_N, 20, 2)[1]
      for shuffled in (False, True)
    ]
    for one, other in zip(*batches, strict=True):
      pairs, others = (
        np.sort(x.document_BT.ravel() * 1000 + x.label_BT.ravel())
        for x in (one, other)
      )
      np.testing.assert_array_equal(pairs, others)
  # But what stands side by side by chance is a third of the path apart.
  step = []
  for shuffled in (False, True):
    pool = make(Course(PASS, 1, most=99), shuffled=shuffled)
    _, (batch,) = draws(pool, np.ones(SIZE), PASS, 1)
    apart = np.abs(np.diff(PLACE_N[batch.document_BT]))
    step.append(apart[apart > 0].mean())
  assert step[0] == 1 and step[1] == pytest.approx(SIZE / 3, rel=0.2)


def test_a_short_training_sees_neighbors_of_the_path():
  """As bundles share their points, what lies between two documents of a row is seen."""
  near = np.zeros(2)
  for seed, split in itertools.product(range(10), (False, True)):
    pool = make(Course(PASS // 4, 1, most=9), seed=seed)
    if split:  # each piece arrives by itself
      own = sampler.mixed(np.arange(len(pool.sampler.key), dtype=np.uint64))
      pool = pool._replace(sampler=pool.sampler._replace(key=own))
    window = pool._window(pool.start(pool.init(), np.ones(SIZE)).base)
    step = np.diff(PLACE_N[pool.sampler.pieces.document[window.piece]])
    near[int(split)] += (step[step != 0] == 1).mean() / 10
  # Of the documents of a bundle all but one have their neighbor before them.
  assert near[0] > 0.65 and near[1] < 0.45


def test_a_saved_state_goes_on_bit_by_bit_from_every_draw(tmp_path):
  pool, weight_N = make(Course(31, 2, most=2)), random_weights(4)
  _, whole = draws(pool, weight_N, 4, 12)  # beyond the end of the training
  checkpointer = Checkpointer(tmp_path)

  def begin(state):
    start = pool.start(state, weight_N)
    return contextlib.closing(iter(pipeline.batches(pool, start, rows=4)))

  with begin(pool.init()) as iterator:
    for number in range(10):
      checkpointer.save(number, pipeline.state(iterator))
      saved = checkpointer.restore(pool.init())
      with begin(saved) as resumed:
        rest = list(itertools.islice(resumed, 12 - number))
      for one, other in zip(rest, whole[number:], strict=True):
        assert_same(one, other)
      next(iterator)
  checkpointer.close()


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_the_rows_of_a_draw(count):
  pool, weight_N = make(Course(31, 2, most=9)), random_weights(0)
  _, whole = draws(pool, weight_N, 6, 8)  # some draws are of two windows
  for index in range(count):
    _, parts = draws(pool, weight_N, 6, 8, share=(index, count))
    for one, part in zip(whole, parts, strict=True):
      assert_same(part, [x[index::count] for x in one])


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_order_of_documents_does_not_matter(shuffled):
  order = np.random.default_rng(3).permutation(SIZE)
  for rows in range(20, 29):  # windows end within bundles
    course, weight_N = Course(rows, 2, most=2), np.ones(SIZE)
    _, one = draws(make(course, shuffled=shuffled), weight_N, 9, 4)
    other = make(course, order=order, shuffled=shuffled)
    _, two = draws(other, weight_N[order], 9, 4)
    for a, b in zip(one, two, strict=True):
      np.testing.assert_array_equal(a.tokens_BT, b.tokens_BT)
      np.testing.assert_array_equal(a.document_BT, order[b.document_BT])


def test_weights_change_between_windows_alone():
  pool = make(Course(40, 2, most=9))
  state, _ = draws(pool, np.ones(SIZE), 20, 1)
  draws(pool, random_weights(0), 20, 1, state=state)
  state, _ = draws(pool, np.ones(SIZE), 21, 1)
  with pytest.raises(ValueError, match="between windows alone"):
    pool.start(state, random_weights(0))


def test_windows_are_passes_and_the_last_ends_with_the_training():
  course = Course(31, 3, most=1)
  assert [course.window(i) for i in range(5)] == [11, 11, 9, 11, 11]


def test_bundles_are_stretches_of_the_path():
  unit_N = bundles.units(PLACE_N, KEY_N, LENGTH_N + 1, row_tokens=T)
  along = unit_N[np.argsort(PLACE_N)]
  first = np.flatnonzero(np.append(True, along[1:] != along[:-1]))
  assert len(np.unique(unit_N)) == len(first)
  pairs = np.add.reduceat((LENGTH_N + 1)[np.argsort(PLACE_N)], first)
  assert np.abs(pairs[:-1] - bundles.ROWS * T).max() <= 21
  assert set(unit_N) <= set(KEY_N)


def test_rows_that_hold_no_two_documents_are_told():
  assert bundles.too_short(np.array([30, 70]), 100) == ""
  told = bundles.too_short(np.array([30, 72]), 100)
  assert "Rows of 100 tokens" in told and "of 51 in the mean" in told
