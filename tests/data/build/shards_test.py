"""Shards: what is read back, repeated documents, and samples by digest."""

import numpy as np
import pytest

from cmtree_jax.data import store
from cmtree_jax.data.build import shards
from cmtree_jax.types import Record


def _record(name: str, text: str, source: str = "") -> Record:
  return Record(name, text, name, source, "", "", f"file, line {name}")


@pytest.fixture
def paths(tmp_path):
  """Two shards; d repeats a's text, the second a the first's id."""
  first = [_record("a", "one", "web"), _record("b", "two")]
  second = [
    _record("d", "one", "book"),
    _record("a", "four", "web"),
    _record("é", "fünf", "web"),
  ]
  found = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
  shards.write(found[0], first)
  shards.write(found[1], second)
  return found


@pytest.fixture
def documents(paths):
  return shards.Documents(tuple(paths), np.array([0, 2, 5]))


def test_rows_come_back_in_the_order_that_is_asked_for(documents):
  found = documents.rows([4, 0, 3, 0], "id", "text")
  assert found == {
    "id": ["é", "a", "a", "a"],
    "text": ["fünf", "one", "four", "one"],
  }
  assert len(documents) == 5


def test_labels_become_numbers_in_the_order_of_the_alphabet(documents):
  numbers, names = documents.labels("source")
  assert sorted(names) == list(names)
  assert [names[n] for n in numbers] == [
    source for part in documents.column("source") for source in part
  ]
  numbers, names = documents.labels("domain")
  assert names == ("",)
  assert not numbers.any()


@pytest.mark.parametrize("num_buckets", [1, 3])
def test_repeated_ids_and_texts_point_to_the_first(
  paths, tmp_path, num_buckets
):
  digests = tuple(map(shards.digests_path, paths))
  for columns, expected in (
    (shards.ID, [[1, 1, 0, 0]]),
    (shards.TEXT, [[1, 0, 0, 0]]),
  ):
    found = []
    for bucket in range(num_buckets):
      done = tmp_path / f"{columns[0]}-{bucket}.npy"
      shards.find_repeated(
        shards.BucketItem(done, digests, columns, bucket, num_buckets)
      )
      found += np.load(done).tolist()
    assert found == expected


def test_a_text_that_comes_three_times_points_to_the_first_twice(tmp_path):
  path = tmp_path / "0.parquet"
  shards.write(path, [_record(name, "same") for name in "abc"])
  done = tmp_path / "found.npy"
  digests = (shards.digests_path(path),)
  shards.find_repeated(shards.BucketItem(done, digests, shards.TEXT, 0, 1))
  assert np.load(done).tolist() == [[0, 1, 0, 0], [0, 2, 0, 0]]


def test_a_sample_depends_on_the_texts_alone(tmp_path):
  texts = [f"text number {i}" for i in range(200)]
  samples = []
  for name, sizes in (("whole", [200]), ("cut", [50, 150])):
    paths, left = [], [_record(str(i), t) for i, t in enumerate(texts)]
    if name == "cut":
      left.reverse()
    for number, size in enumerate(sizes):
      path = tmp_path / f"{name}-{number}.parquet"
      shards.write(path, left[:size])
      left = left[size:]
      paths.append(path)
    digests = [shards.digests_path(path) for path in paths]
    whole = [np.zeros(0, np.int64)] * len(paths)
    rows = shards.smallest(digests, whole, max_bytes=500)
    samples.append(
      [store.read_table(paths[s], "text")["text"][row] for s, row in rows]
    )
    few = shards.smallest(digests, whole, max_bytes=500, max_documents=7)
    assert few == rows[:7]
    without = [
      np.array([r for s, r in few[:3] if s == n], int) for n in range(2)
    ]
    next_ones = shards.smallest(
      digests, without[: len(paths)], max_bytes=500, max_documents=4
    )
    assert next_ones == few[3:]
  assert samples[0] == samples[1]
  size = sum(map(len, samples[0]))
  assert 500 <= size < 500 + len("text number 100")


def test_keeping_rows_leaves_the_others_out(paths, tmp_path):
  kept = shards.keep(paths[1], tmp_path / "kept.parquet", np.array([0, 2]))
  assert kept == {"id": ["d", "é"], "text": ["one", "fünf"]}
  back = store.read_table(tmp_path / "kept.parquet", *Record._fields)
  assert back["source"] == ["book", "web"]
