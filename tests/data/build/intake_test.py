"""Reading parts into shards: counts, limits, repeats, and going on."""

import gzip
import json
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data import store
from cmtree_jax.data.build import intake, workers
from cmtree_jax.data.read import sources
from cmtree_jax.loops.checkpoint import Interrupted
from cmtree_jax.types import UserError

_LOCAL = workers.Workers()


def _rules(**changes) -> intake.Rules:
  rules = intake.Rules(
    fields=sources.Rules("text", "id", "source", 1000),
    strict=False,
    max_skipped=10,
    drop_repeated_texts=False,
    shard_documents=3,
  )
  return rules._replace(**changes)


def _write(path: pathlib.Path, *lines: dict | str) -> pathlib.Path:
  texts = [x if isinstance(x, str) else json.dumps(x) for x in lines]
  path.write_text("".join(f"{text}\n" for text in texts))
  return path


def _read(folder, *, rules=None, address="*.jsonl", crew=_LOCAL):
  parts = sources.parts([f"jsonl:{folder}/{address}"])
  return intake.read(parts, rules or _rules(), folder / "shards", crew)


def test_documents_come_in_the_order_of_files_and_lines(tmp_path):
  _write(tmp_path / "b.jsonl", *({"text": f"b{i}"} for i in range(4)))
  _write(tmp_path / "a.jsonl", {"text": "a0"})
  taken = _read(tmp_path)
  assert taken.counts == (1, 3, 1)
  assert _texts(taken) == [["a0"], ["b0", "b1", "b2"], ["b3"]]
  assert [len(rows) for rows in taken.dropped] == [0, 0, 0]
  assert taken.notes == ()


def test_bad_documents_are_counted_with_their_places(tmp_path):
  bad = [f'{{"text": "{" " * i}"}}' for i in range(6)]
  _write(tmp_path / "a.jsonl", {"text": "good"}, *bad, "{")
  taken = _read(tmp_path)
  empty = taken.report["skipped"]["an empty text"]
  assert empty["documents"] == 6
  assert len(empty["where"]) == 5
  assert empty["where"][0].endswith("a.jsonl, line 2")
  assert taken.report["skipped"]["invalid JSON"]["documents"] == 1
  assert any("Skipped 6 documents" in note for note in taken.notes)
  assert taken.report["parts"][0]["documents"] == 1


def test_more_bad_documents_than_allowed_stop_the_job(tmp_path):
  for name in "ab":
    _write(tmp_path / f"{name}.jsonl", {"text": "x"}, "{", "{")
  assert _read(tmp_path, rules=_rules(max_skipped=4)).counts == (1, 1)
  for limit in (3, 1):  # over all files, and within one
    with pytest.raises(UserError, match=r"line 2.*JSON") as error:
      intake.read(
        sources.parts([f"jsonl:{tmp_path}/*.jsonl"]),
        _rules(max_skipped=limit),
        tmp_path / f"other-{limit}",
        _LOCAL,
      )
    assert f"max_skipped = {limit}" in str(error.value)


def test_rows_of_a_file_that_will_not_do_count_one_by_one(tmp_path):
  pq.write_table(pa.table({"body": ["x"] * 12}), tmp_path / "b.parquet")
  _write(tmp_path / "a.jsonl", {"text": "good"})
  parts = sources.parts(
    [f"jsonl:{tmp_path}/a.jsonl", f"parquet:{tmp_path}/b.parquet"]
  )
  with pytest.raises(UserError, match=r"12 documents cannot be used.*'body'"):
    intake.read(parts, _rules(), tmp_path / "few", _LOCAL)
  taken = intake.read(parts, _rules(max_skipped=12), tmp_path / "all", _LOCAL)
  (skip,) = taken.report["skipped"].values()
  assert skip["documents"] == 12
  assert any("Skipped 12 documents" in note for note in taken.notes)


def test_labels_that_are_lost_are_told_and_stop_nothing(tmp_path):
  rows = [{"text": f"{i}", "lang": ["eng"]} for i in range(12)]
  _write(tmp_path / "a.jsonl", *rows)
  taken = _read(tmp_path, rules=_rules(strict=True))
  assert sum(taken.counts) == 12
  assert taken.report["skipped"] == {}
  (lost,) = taken.report["lost_labels"].values()
  assert lost["documents"] == 12
  (note,) = taken.notes
  assert "empty in 12 documents, no string in the field 'lang'" in note


@pytest.mark.parametrize(
  ("changes", "told"),
  [
    ({}, []),
    ({"source_field": "sorce"}, ["'sorce' (config.data.source_field)"]),
    ({"id_field": "key"}, ["'key' (config.data.id_field)"]),
    ({"source_field": "topic", "id_field": "name"}, []),
  ],
)
def test_a_field_that_was_asked_for_and_no_document_has_is_told(
  tmp_path, changes, told
):
  _write(tmp_path / "a.jsonl", {"text": "x"})
  _write(tmp_path / "b.jsonl", {"text": "y", "topic": "sea", "name": "z"})
  fields = _rules().fields._replace(**changes)
  notes = _read(tmp_path, rules=_rules(fields=fields)).notes
  assert len(notes) == len(told)
  for note, words in zip(notes, told, strict=True):
    assert f"No document has a string in the field {words}" in note


def test_strict_stops_at_the_first_bad_document(tmp_path):
  _write(tmp_path / "a.jsonl", {"text": "x"}, {"text": 3})
  with pytest.raises(UserError, match=r"a\.jsonl, line 2: wanted a string"):
    _read(tmp_path, rules=_rules(strict=True))


def test_a_repeated_id_is_skipped_and_the_first_kept(tmp_path):
  rows = [{"id": i, "text": f"{i} {n}"} for n, i in enumerate("abca")]
  _write(tmp_path / "a.jsonl", *rows)
  _write(tmp_path / "b.jsonl", {"id": "b", "text": "again"})
  taken = _read(tmp_path)
  assert [rows.tolist() for rows in taken.dropped] == [[], [0], [0]]
  skipped = taken.report["skipped"]["a repeated id"]
  assert skipped["documents"] == 2
  assert "a.jsonl, line 4" in skipped["where"][0]
  with pytest.raises(UserError, match=r"a\.jsonl, line 4.*'a'.*line 1"):
    _read(tmp_path, rules=_rules(strict=True))


@pytest.mark.parametrize("drop", [False, True])
def test_equal_texts_are_reported_and_dropped_if_asked(tmp_path, drop):
  _write(tmp_path / "a.jsonl", *({"text": t} for t in ("x", "y", "x", "x")))
  taken = _read(tmp_path, rules=_rules(drop_repeated_texts=drop))
  assert taken.report["repeated_texts"] == {"documents": 2, "dropped": drop}
  dropped = [rows.tolist() for rows in taken.dropped]
  assert dropped == ([[2], [0]] if drop else [[], []])
  assert ("left out" if drop else "kept") in taken.notes[0]


@pytest.mark.parametrize("lines", [[], ["{", "[", '{"text": ""}']])
def test_a_corpus_without_a_document_is_refused(tmp_path, lines):
  path = _write(tmp_path / "a.jsonl", *lines)
  with pytest.raises(UserError, match=r"at least one document") as error:
    _read(tmp_path)
  assert str(path) in str(error.value)
  assert ("line 1: wanted a JSON object" in str(error.value)) == bool(lines)


def test_a_truncated_file_gives_what_it_holds_and_is_counted(tmp_path):
  rng = np.random.default_rng(0)
  lines = [json.dumps({"text": rng.bytes(60).hex()}) for _ in range(200)]
  data = gzip.compress("\n".join(lines).encode())
  (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
  taken = _read(tmp_path, address="*.gz")
  assert 50 < sum(taken.counts) < 150
  (skip,) = taken.report["skipped"].values()
  assert "a.jsonl.gz" in skip["where"][0]


def test_what_was_read_is_not_read_again(tmp_path):
  for name in "ab":
    _write(tmp_path / f"{name}.jsonl", {"text": name})
  before = _read(tmp_path)
  _write(tmp_path / "a.jsonl", {"text": "changed"})
  assert _read(tmp_path).paths == before.paths
  assert _texts(before) == [["a"], ["b"]]


@pytest.mark.parametrize("damage", [False, True])
def test_a_stopped_reading_goes_on_with_the_parts_that_are_whole(
  tmp_path, damage
):
  for name in "ab":
    _write(tmp_path / f"{name}.jsonl", {"text": name})

  def check():
    raise Interrupted

  with pytest.raises(Interrupted):
    _read(tmp_path, crew=workers.Workers(check=check))
  assert not (tmp_path / "shards").exists()
  (shard,) = tmp_path.glob(".shards-*/*.parquet")
  if damage:
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
  for name in "ab":
    _write(tmp_path / f"{name}.jsonl", {"text": f"new {name}"})
  assert _texts(_read(tmp_path)) == [["new a" if damage else "a"], ["new b"]]


def _texts(taken: intake.Intake) -> list[list[str]]:
  return [store.read_table(p, "text")["text"] for p in taken.paths]
