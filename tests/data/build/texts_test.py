"""Texts of a prepared corpus: read back one by one, and measured once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest

from cmtree_jax.data.build import texts, workers
from cmtree_jax.embed import grams
from cmtree_jax.loops.checkpoint import Interrupted
from tests import corpora
from tests.listed import Listed

GOAL = {"train": 4, "validation": 3, "test": 2}
PLAN = grams.Plan(buckets=500)
RNG = np.random.default_rng(0)


def some_text() -> str:
  return " ".join(RNG.choice(["Über", "a-b", "dog", "f(x)", "\n"], 12))


POOL = [some_text() for _ in range(20)]


class Vowels(NamedTuple):
  """How often each text has some letters, and where; only for these tests."""

  letters: str = "aou"
  version: int = 1

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    found = [[text.count(x) for x in self.letters] for text in texts]
    places = [
      i for text in texts for i, x in enumerate(text) if x in self.letters
    ]
    return {
      "count_NL": np.array(found, np.int32).reshape(-1, len(self.letters)),
      "place": np.array(places, np.int64),
    }


@pytest.fixture
def data(tmp_path):
  """Twenty documents and a target."""
  pool = [
    {"id": f"p{i:02d}", "text": text, "source": "ab"[i % 2]}
    for i, text in enumerate(POOL)
  ]
  goal = [
    {"text": f"{some_text()} {split}", "split": split}
    for split, count in GOAL.items()
    for _ in range(count)
  ]
  return corpora.prepared(tmp_path, pool, goal)


def load(data, folder, crew=corpora.LOCAL):
  return texts.load(data, tokenizer="bytes", cache_dir=folder, workers=crew)


def in_order(data) -> Listed:
  """The pool's texts, from its shards."""
  return Listed(one for part in data.documents.column("text") for one in part)


def assert_equal(one, other):
  assert one.keys() == other.keys()
  for name, array in one.items():
    assert array.dtype == other[name].dtype
    np.testing.assert_array_equal(array, other[name])


def test_texts_are_read_back_one_by_one_or_by_slice(data, tmp_path):
  found, expected = load(data, tmp_path), in_order(data)
  assert set(found) == {"pool", "goal.train", "goal.validation"}
  pool = found["pool"]
  assert len(pool) == len(expected) == 20
  assert list(pool) == expected
  assert pool[3] == expected[3] and pool[-1] == expected[-1]
  assert pool[4:9] == expected[4:9] and pool[::-7] == expected[::-7]
  with pytest.raises(IndexError):
    pool[20]
  for split in ("train", "validation"):
    goal = found[f"goal.{split}"]
    assert len(goal) == GOAL[split]
    assert all(text.endswith(split) for text in goal)


@pytest.mark.parametrize("measure", [Vowels(), grams.Words(500, 2)])
def test_parts_are_put_together(data, tmp_path, monkeypatch, measure):
  monkeypatch.setattr(texts, "_DOCUMENTS", 6)
  monkeypatch.setattr(texts, "_BYTES", 150)
  bytes_N = data.pool.tokens.bytes_N
  parts = texts._parts(bytes_N)
  assert len(parts) > 4
  assert [row for part in parts for row in range(*part)] == list(range(20))
  assert all(bytes_N[a : b - 1].sum() <= 150 and b - a <= 6 for a, b in parts)
  assert_equal(
    load(data, tmp_path)["pool"].measured(measure), measure(in_order(data))
  )


def test_what_is_measured_stays_on_disk(data, tmp_path):
  found = load(data, tmp_path)["pool"].measured(Vowels())
  assert all(isinstance(array, np.memmap) for array in found.values())


def test_nothing_found_and_no_texts_are_arrays_of_no_rows(tmp_path):
  pool = [{"id": str(i), "text": f"some words {i}"} for i in range(12)]
  goal = [{"text": "only words", "split": "test"}]
  train = [{"text": f"a goal, {split}", "split": split} for split in GOAL]
  corpora.write(tmp_path / "tested.jsonl", goal)
  data = corpora.prepared(
    tmp_path,
    pool,
    train,
    f"data.target_files={tmp_path}/goal.jsonl,{tmp_path}/tested.jsonl",
  )
  found = load(data, tmp_path)
  assert len(found["tested.train"]) == 0
  assert_equal(found["tested.train"].measured(Vowels()), Vowels()(Listed()))
  nothing = found["pool"].measured(Vowels("#"))
  assert nothing["count_NL"].shape == (12, 1) and nothing["place"].size == 0
  counted = grams.count(found["tested.train"], PLAN)
  assert counted.rows(slice(0, 0)).shape == (0, PLAN.buckets)
  counted = grams.count(found["goal.train"], PLAN)
  assert counted.rows(slice(0, 1)).sum() == 7


def test_each_measure_is_made_once(data, tmp_path, monkeypatch):
  first = load(data, tmp_path)["pool"].measured(Vowels())
  with monkeypatch.context() as patch:
    patch.setattr(texts, "measure_part", lambda _: pytest.fail("again"))
    assert_equal(load(data, tmp_path)["pool"].measured(Vowels()), first)
  for other in (Vowels("d"), Vowels(version=2)):
    found = load(data, tmp_path)["pool"].measured(other)
    assert_equal(found, other(in_order(data)))
  assert len(list((tmp_path / "texts").iterdir())) == 3


def test_a_stopped_job_goes_on(data, tmp_path, monkeypatch):
  monkeypatch.setattr(texts, "_DOCUMENTS", 6)
  whole = load(data, tmp_path / "whole")["pool"].measured(Vowels())
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 3:
      raise Interrupted

  crew = corpora.LOCAL._replace(check=stop)
  with pytest.raises(Interrupted):
    load(data, tmp_path / "cut", crew)["pool"].measured(Vowels())
  done = []
  part = texts.measure_part
  monkeypatch.setattr(
    texts, "measure_part", lambda item: done.append(1) or part(item)
  )
  assert_equal(load(data, tmp_path / "cut")["pool"].measured(Vowels()), whole)
  assert len(done) == 1  # of four parts


def test_workers_of_other_processes_leave_the_same_bytes(
  data, tmp_path, monkeypatch
):
  monkeypatch.setattr(texts, "_DOCUMENTS", 6)
  here = load(data, tmp_path / "here")["pool"].measured(grams.Words(500, 2))
  monkeypatch.setattr(workers, "START_SECONDS", -1.0)  # at once
  there = load(data, tmp_path / "there")["pool"].measured(grams.Words(500, 2))
  assert_equal(here, there)


@pytest.mark.slow
def test_beam_leaves_the_same_bytes(data, tmp_path, monkeypatch):
  pytest.importorskip("apache_beam")
  monkeypatch.setattr(texts, "_DOCUMENTS", 6)
  here = load(data, tmp_path / "here")["pool"].measured(grams.Words(500, 2))
  crew = workers.Workers(workers.Plan("beam"))
  beam = load(data, tmp_path / "beam", crew)["pool"]
  assert_equal(here, beam.measured(grams.Words(500, 2)))
