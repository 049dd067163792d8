"""Batches through Grain: the sampler's draws, whatever is prefetched or divided."""

import contextlib
import itertools
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from cmtree_jax.data.draw import packing, pipeline, sampler
from cmtree_jax.loops.checkpoint import Checkpointer

SIZE, ROWS, T = 60, 12, 8
ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pool():
  length_N = np.random.default_rng(0).integers(0, 21, SIZE)
  documents = [np.full(n, 100 + i) for i, n in enumerate(length_N)]
  tokens = packing.store(documents, [1] * SIZE, end_of_text=0)
  keys = sampler.document_keys([f"document-{i}" for i in range(SIZE)])
  return sampler.make(tokens, keys, row_tokens=T, seed=0)


def weights(seed):
  return np.random.default_rng(seed).lognormal(0, 1.5, SIZE)


def begin(pool, *, seed=0, state=None, **options):
  """An iterator; `seed` is that of the weights."""
  start = pool.start(pool.init() if state is None else state, weights(seed))
  return contextlib.closing(
    iter(pipeline.batches(pool, start, rows=ROWS, **options))
  )


def take(iterator, count):
  return list(itertools.islice(iterator, count))


def assert_same(some, others):
  """Equal batches (or states), bit by bit."""
  for one, other in zip(some, others, strict=True):
    for x, y in zip(one, other, strict=True):
      np.testing.assert_array_equal(x, y)


def test_elements_are_the_draws(pool):
  cursor, expected = pool.start(pool.init(), weights(0)), []
  for _ in range(6):
    cursor, batch = pool.draw(cursor, ROWS)
    expected.append(batch)
  with begin(pool) as iterator:
    assert_same(take(iterator, 6), expected)
    assert_same([pipeline.state(iterator)], [cursor.state()])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_rows_of_all_processes_are_those_of_one(pool, count):
  with begin(pool) as iterator:
    whole = take(iterator, 5)
  for index in range(count):
    with begin(pool, share=(index, count)) as iterator:
      parts = take(iterator, 5)
    assert_same(parts, [[x[index::count] for x in one] for one in whole])


def test_processes_that_cannot_share_rows_are_told(pool):
  with pytest.raises(ValueError, match="12 rows .* 5 processes; try 10"):
    begin(pool, share=(0, 5))


def test_an_orbax_checkpoint_of_every_element_goes_on_exactly(pool, tmp_path):
  checkpointer = Checkpointer(tmp_path)
  with begin(pool) as iterator:
    whole = take(iterator, 8)
  with begin(pool) as iterator:
    for number in range(8):
      checkpointer.save(number, pipeline.state(iterator))
      saved = checkpointer.restore(pool.init())
      with begin(pool, state=saved) as resumed:
        assert_same(take(resumed, 8 - number), whole[number:])
      next(iterator)
  checkpointer.close()


def test_an_iterator_set_back_to_any_element_goes_on_exactly(pool):
  with begin(pool) as iterator:
    states, whole = [], []
    for _ in range(8):
      states.append(iterator.get_state())
      whole.append(next(iterator))
    for number in (7, 0, 3):
      iterator.set_state(states[number])
      assert_same(take(iterator, 8 - number), whole[number:])


@pytest.mark.parametrize("used", [0, 1, 5])
def test_new_weights_count_from_the_last_element_used(pool, used):
  cursor, expected = pool.start(pool.init(), weights(0)), []
  for number in range(used + 4):
    if number == used:
      cursor = pool.start(cursor.state(), weights(1))
    cursor, batch = pool.draw(cursor, ROWS)
    expected.append(batch)
  with begin(pool) as iterator:
    found = take(iterator, used)
    iterator.start_prefetch()  # what it draws under the old weights is dropped
    cursor = pool.start(pipeline.state(iterator), weights(1))
    iterator.set_state({"cursor": cursor})
    assert_same(found + take(iterator, 4), expected)


def test_an_element_s_state_is_no_copy(pool):
  with begin(pool._replace(block_pairs=10_000)) as iterator:
    next(iterator)  # the block begins
    one = iterator.get_state()["cursor"]
    next(iterator)
    other = iterator.get_state()["cursor"]
  assert other.draws == one.draws + 1
  assert other.base is one.base
  assert other.piece is one.piece


def test_neither_tensorflow_nor_pyarrow_is_imported():
  code = (
    "import sys, cmtree_jax.data.draw.pipeline; "
    "print([n for n in ('tensorflow', 'pyarrow', 'torch') if n in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stdout.strip() == "[]"
