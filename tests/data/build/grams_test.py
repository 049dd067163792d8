"""Counts of words beside a prepared corpus: of all documents, made once."""

import itertools

import numpy as np
import pytest

from cmtree_jax.data.build import grams
from cmtree_jax.data.build.tokenizer import ByteTokenizer
from cmtree_jax.embed import grams as signal
from cmtree_jax.loops.checkpoint import Interrupted
from tests import corpora

PLAN = signal.Plan(buckets=500)
GOAL = {"train": 4, "validation": 3, "test": 2}


@pytest.fixture
def data(tmp_path):
  """Twenty documents and a target."""
  rng = np.random.default_rng(0)
  pool = [
    {"id": f"p{i}", "text": text(rng), "source": "ab"[i % 2]} for i in range(20)
  ]
  goal = [
    {"text": f"{text(rng)} {split}", "split": split}
    for split, count in GOAL.items()
    for _ in range(count)
  ]
  return corpora.prepared(tmp_path, pool, goal)


def text(rng) -> str:
  return " ".join(rng.choice(["Über", "a-b", "dog", "f(x)", "\n"], 12))


def load(data, folder, plan=PLAN, crew=corpora.LOCAL):
  return grams.load(
    data, plan, tokenizer="bytes", cache_dir=folder, workers=crew
  )


def texts_of(data, split) -> list[str]:
  """Of the target, back from their tokens."""
  tokens = data.targets["goal"][split].tokens
  return [
    ByteTokenizer().decode(tokens.flat[start:stop])
    for start, stop in itertools.pairwise(tokens.start_N1)
  ]


def assert_counts(counted, texts, plan=PLAN):
  rows = slice(0, len(texts))
  assert len(counted.start_N1) == len(texts) + 1
  expected = signal.count(texts, plan).rows(rows)
  assert expected.nnz
  assert (counted.rows(rows) != expected).nnz == 0


def test_every_document_is_counted(data, tmp_path, monkeypatch):
  monkeypatch.setattr(grams, "_DOCUMENTS", 6)
  monkeypatch.setattr(grams, "_BYTES", 150)
  texts = [one for part in data.documents.column("text") for one in part]
  assert len(grams._items(tmp_path, "pool", data.folder, "bytes", PLAN)) > 4
  found = load(data, tmp_path)
  assert set(found) == {"pool", "goal.train", "goal.validation"}
  assert_counts(found["pool"], texts)
  for split in ("train", "validation"):
    texts = texts_of(data, split)
    assert len(texts) == GOAL[split]
    assert all(text.endswith(split) for text in texts)
    assert_counts(found[f"goal.{split}"], texts)


def test_the_pool_stays_on_disk(data, tmp_path):
  for one in load(data, tmp_path)["pool"][:-1]:
    assert isinstance(one, np.memmap)


def test_they_are_made_once(data, tmp_path, monkeypatch):
  first = load(data, tmp_path)
  with monkeypatch.context() as patch:
    patch.setattr(grams.grams, "count", lambda *_: pytest.fail("counted again"))
    again = load(data, tmp_path)
  np.testing.assert_array_equal(first["pool"].count, again["pool"].count)
  assert_counts(
    load(data, tmp_path, PLAN._replace(words=1))["goal.train"],
    texts_of(data, "train"),
    PLAN._replace(words=1),
  )


def test_a_stopped_job_goes_on(data, tmp_path, monkeypatch):
  monkeypatch.setattr(grams, "_DOCUMENTS", 6)
  whole = load(data, tmp_path / "whole")
  calls = []

  def stop():
    calls.append(1)
    if len(calls) == 4:
      raise Interrupted

  with pytest.raises(Interrupted):
    load(data, tmp_path / "cut", crew=corpora.LOCAL._replace(check=stop))
  counted = []
  count = signal.count
  monkeypatch.setattr(
    grams.grams, "count", lambda *a: counted.append(1) or count(*a)
  )
  cut = load(data, tmp_path / "cut")
  assert len(counted) == 2  # of six parts
  for name, one in whole.items():
    for x, y in zip(one, cut[name], strict=True):
      np.testing.assert_array_equal(x, y)


def test_a_target_of_test_texts_alone_has_none(tmp_path):
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
  assert found["tested.train"].rows(slice(0, 0)).shape == (0, PLAN.buckets)
  assert found["goal.train"].rows(slice(0, 1)).sum() == 7
