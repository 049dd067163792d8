"""From a corpus to arrays: equal however it is cut, kept, and made again."""

import contextlib
import json
import os
import pathlib
import re
import resource
import subprocess
import sys

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.data.build import prepare, workers
from cmtree_jax.data.build.tokenizer import EOS_ID, ByteTokenizer
from cmtree_jax.data.draw import sampler
from cmtree_jax.data.read import fields, files
from cmtree_jax.jobs import build
from cmtree_jax.loops.checkpoint import Interrupted
from cmtree_jax.types import UserError
from tests import corpora

_SPLITS = ("train", "validation", "test")


@pytest.fixture
def corpus(tmp_path) -> pathlib.Path:
  """A folder with 60 documents in two files and a target."""
  rng = np.random.default_rng(0)
  words = np.array([f"word{i}" for i in range(50)])
  for name in "ab":
    rows = [
      {"id": f"{name}{i}", "text": " ".join(rng.choice(words, 20))}
      for i in range(30)
    ]
    corpora.write(tmp_path / f"{name}.jsonl", rows)
  goal = [
    {"text": f"other text {split} {i}", "split": split}
    for split in _SPLITS
    for i in range(4)
  ]
  corpora.write(tmp_path / "goal.jsonl", goal)
  return tmp_path


def _prepare(
  corpus, *overrides, cache="cache", crew=corpora.LOCAL
) -> prepare.Prepared:
  source = f"data.source=jsonl:{corpus}/[ab].jsonl"
  return corpora.prepare_folder(
    corpus, source, *overrides, cache=cache, crew=crew
  )


def test_what_is_only_tested_is_no_view_of_documents(corpus):
  text = (corpus / "goal.jsonl").read_text()
  (corpus / "other.jsonl").write_text(text.replace("other text", "more of it"))
  config = load(
    "configs/smoke.py",
    [
      f"data.source=jsonl:{corpus}/[ab].jsonl",
      f"data.target_files={corpus}/goal.jsonl,{corpus}/other.jsonl",
      *("data.targets=", "tokenizer.kind=bytes", "embedding.dim=4"),
      "embedding.views=topic,grams",
    ],
  )
  plan = build.corpus_plan(config)
  found = [
    prepare.prepare(
      plan._replace(searched=searched),
      cache_dir=corpus / "cache",
      workers=corpora.LOCAL,
      progress=lambda line: None,
    )
    for searched in (None, ("goal", "other"), ("goal",))
  ]
  assert [one.pool.embedding_NE.shape[1] for one in found] == [7, 7, 6]
  assert found[0].folder == found[1].folder != found[2].folder
  assert set(found[2].targets) == {"goal", "other"}


def test_arrays_hold_what_the_files_hold(corpus):
  prepared = _prepare(corpus)
  lines = [
    json.loads(line)
    for name in "ab"
    for line in (corpus / f"{name}.jsonl").read_text().splitlines()
  ]
  tokens, tok = prepared.pool.tokens, ByteTokenizer()
  for i, line in enumerate(lines):
    start, stop = tokens.start_N1[i : i + 2]
    one = np.asarray(tokens.flat[start:stop])
    assert one[0] == one[-1] == EOS_ID
    assert tok.decode(one[1:-1]) == line["text"]
    assert tokens.bytes_N[i] == len(line["text"])
  keys = sampler.document_keys([line["id"] for line in lines])
  np.testing.assert_array_equal(prepared.pool.key_N, keys)
  norm = np.linalg.norm(prepared.pool.embedding_NE, axis=1)
  np.testing.assert_allclose(norm, 1, rtol=1e-5)
  goal = prepared.targets["goal"]
  assert [len(goal[split]) for split in _SPLITS] == [4, 4, 4]
  assert prepared.manifest["overlap"] == {"goal": 0.0}
  texts = prepared.documents.rows(np.array([31, 2]), "id", "text")
  assert texts["id"] == ["b1", "a2"]
  assert texts["text"] == [lines[31]["text"], lines[2]["text"]]


def test_answers_are_kept_beside_what_a_text_alone_gives(corpus):
  plain = _prepare(corpus)
  goal = [
    json.loads(line)
    for line in (corpus / "goal.jsonl").read_text().splitlines()
  ]
  asked = [{**x, "question": "?", "answer": x["text"][-1]} for x in goal]
  corpora.write(corpus / "goal.jsonl", asked)
  found = _prepare(corpus)
  assert found.folder != plain.folder
  for path in plain.folder.glob("*.npy"):
    assert path.read_bytes() == (found.folder / path.name).read_bytes()
  assert all(one.questions is None for one in plain.targets["goal"].values())
  sets = found.targets["goal"]
  assert sets["train"].questions is None  # it drives searches, as text
  tok = ByteTokenizer()
  for split in ("validation", "test"):
    questions = sets[split].questions
    assert questions is not None
    for i, text in enumerate(x["text"] for x in asked if x["split"] == split):
      start, stop = questions.prompts.start_N1[i : i + 2]
      assert (
        tok.decode(questions.prompts.flat[start + 1 : stop - 1]) == text[:-2]
      )
      start, stop = questions.choices.start_N1[i : i + 2]
      assert (
        tok.decode(questions.choices.flat[start + 1 : stop - 1]) == text[-2:]
      )


def test_answers_that_are_not_scored_are_told(corpus):
  goal = (corpus / "goal.jsonl").read_text()
  (corpus / "goal.jsonl").write_text(
    goal.replace('"split"', '"answer": 3, "split"')
  )
  (note,) = _prepare(corpus).notes
  assert "its 12 texts are scored whole" in note


@pytest.mark.parametrize(
  ("name", "fault"),
  [
    ("mean", "mean has a meaning of its own"),
    ("none", "none has a meaning of its own"),
    ("any", "any has a meaning of its own"),
    ("a+b", "+ joins targets"),
    ("<b>ev&il\"'", "> leads to the one that is tested"),
    (" ", "it is blank"),
  ],
)
def test_a_target_cannot_be_called_like_something_else(corpus, name, fault):
  (corpus / "goal.jsonl").rename(corpus / f"{name}.jsonl")
  told = f" be the name of a target: {re.escape(fault)}\\. Rename the file\\.$"
  with pytest.raises(UserError, match=told):
    _prepare(corpus, f"data.target_files={corpus}/{name}.jsonl")


def test_a_path_with_a_comma_is_told_as_it_is_written(corpus):
  (corpus / "a.jsonl").rename(corpus / "a,b.jsonl")
  source = f"jsonl:{corpus}/a,b.jsonl"
  with pytest.raises(UserError, match=r"'b\.jsonl'.*with a comma as \["):
    _prepare(corpus, f"data.source={source}")
  assert len(_prepare(corpus, f'data.source=["{source}"]').pool) == 30


def test_what_is_not_used_stands_in_the_manifest(corpus):
  with (corpus / "a.jsonl").open("a") as file:
    file.write('{"text": ""}\n{"id": "a1", "text": "again"}\n{\n')
  with (corpus / "goal.jsonl").open("a") as file:
    file.write('{"text": " ", "split": "test"}\n')
  manifest = _prepare(corpus).manifest
  counts = {k: one["documents"] for k, one in manifest["skipped"].items()}
  assert counts == {"an empty text": 1, "invalid JSON": 1, "a repeated id": 1}
  assert "a.jsonl, line 32" in manifest["skipped"]["a repeated id"]["where"][0]
  target = {f"{corpus}/goal.jsonl": {"an empty text": 1}}
  assert manifest["targets_skipped"] == target
  assert sum(manifest["shards"]) == 60


@pytest.mark.parametrize("views", ["topic", "topic,form"])
def test_arrays_do_not_depend_on_how_the_work_is_cut(corpus, views):
  views = f"embedding.views={views}"
  whole = _prepare(corpus, views)
  cut = _prepare(corpus, views, "data.shard_documents=7", cache="other")
  assert len(whole.documents.paths) == 2
  assert len(cut.documents.paths) == 10
  for one, other in zip(
    [*whole.pool.tokens, whole.pool.key_N, whole.pool.embedding_NE],
    [*cut.pool.tokens, cut.pool.key_N, cut.pool.embedding_NE],
    strict=True,
  ):
    np.testing.assert_array_equal(one, other)


def test_a_second_run_reads_what_the_first_made(corpus):
  first = _prepare(corpus)
  made = first.folder / "pool.flat.npy"
  before = made.stat().st_mtime_ns
  second = _prepare(corpus)
  assert second.folder == first.folder
  assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("stop_after", [1, 4, 6, 10])
def test_a_stopped_run_goes_on_with_what_is_finished(corpus, stop_after):
  """Two files to read, two comparisons, six shards: ten items."""
  whole = _prepare(corpus, "data.shard_documents=10", cache="whole")
  calls = []

  def check():
    calls.append(1)
    if len(calls) == stop_after:
      raise Interrupted

  stopping = workers.Workers(check=check)
  with pytest.raises(Interrupted):
    _prepare(corpus, "data.shard_documents=10", crew=stopping)
  calls.clear()
  counting = workers.Workers(check=lambda: calls.append(1))
  again = _prepare(corpus, "data.shard_documents=10", crew=counting)
  assert len(calls) == 10 - stop_after  # nothing is done twice
  _assert_equal_files(again.folder, whole.folder)


@pytest.mark.parametrize(
  "name", ["arrays/00000.npz", "documents/00000.parquet"]
)
def test_a_damaged_shard_of_a_stopped_run_is_made_again(corpus, name):
  whole = _prepare(corpus, "data.shard_documents=10", cache="whole")
  calls = []

  def check():
    calls.append(1)
    if len(calls) == 6:  # two parts, two comparisons, two of six shards
      raise Interrupted

  with pytest.raises(Interrupted):
    _prepare(
      corpus,
      "data.shard_documents=10",
      crew=workers.Workers(check=check),
    )
  (file,) = corpus.glob(f"cache/prepared/.*/{name}")
  file.write_bytes(file.read_bytes()[:-30])
  calls.clear()
  counting = workers.Workers(check=lambda: calls.append(1))
  again = _prepare(corpus, "data.shard_documents=10", crew=counting)
  assert len(calls) == 5
  _assert_equal_files(again.folder, whole.folder)


# Prepares a corpus in two cold caches, with another process that does the same. Each
# waits before it joins the arrays: for the other to come there, or for its end.
_JOB = """
import pathlib, sys, time
from cmtree_jax.data.build import prepare
from tests import corpora
folder, me, other = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
join = prepare._join
for cache, wanted in (
  ("together", f"{other} joins"),
  ("after", "one ended" if me == "two" else "two joins"),
):
  def wait_and_join(*arguments):
    (folder / f"{cache}: {me} joins").touch()
    for _ in range(6000):  # a minute: the other may have failed
      if (folder / f"{cache}: {wanted}").exists():
        break
      time.sleep(0.01)
    return join(*arguments)
  prepare._join = wait_and_join
  source = f"data.source=jsonl:{folder}/[ab].jsonl"
  corpora.prepare_folder(folder, source, cache=cache)
  (folder / f"{cache}: {me} ended").touch()
"""


def test_two_jobs_on_a_cold_cache_both_end_well(corpus):
  """Both have made everything when they join: together, or one after the other."""
  jobs = [
    subprocess.Popen([sys.executable, "-c", _JOB, corpus, *names])
    for names in (("one", "two"), ("two", "one"))
  ]
  assert [job.wait(120) for job in jobs] == [0, 0]
  whole = _prepare(corpus)
  for cache in ("together", "after"):
    shared = _prepare(corpus, cache=cache)  # a later job
    _assert_equal_files(shared.folder, whole.folder)
    for place in ("corpora", "prepared"):
      assert len(list((corpus / cache / place).iterdir())) == 1


def _assert_equal_files(folder: pathlib.Path, wanted: pathlib.Path) -> None:
  names = [
    sorted(str(p.relative_to(f)) for p in f.rglob("*") if p.is_file())
    for f in (folder, wanted)
  ]
  assert names[0] == names[1]
  for name in names[0]:
    assert (folder / name).read_bytes() == (wanted / name).read_bytes(), name


def test_a_changed_source_is_read_anew(corpus):
  before = _prepare(corpus)
  path = corpus / "a.jsonl"
  path.write_text(path.read_text().replace("word1 ", "word2 "))
  os.utime(path, ns=(1, 1))
  after = _prepare(corpus)
  assert after.digest != before.digest
  assert after.folder != before.folder


def test_a_damaged_cache_is_refused_with_its_cure(corpus):
  folder = _prepare(corpus).folder
  path = folder / "pool.flat.npy"
  content = path.read_bytes()
  for damaged in (content[:-10], content[:-10] + b"0" * 10):
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"pool\.flat\.npy: wanted.*delete"):
      _prepare(corpus)


def test_a_target_that_repeats_the_pool_is_refused(corpus):
  row = json.loads((corpus / "a.jsonl").read_text().splitlines()[0])
  rows = [{"text": row["text"] + f" {s}", "split": s} for s in _SPLITS]
  corpora.write(corpus / "goal.jsonl", rows)
  with pytest.raises(UserError, match=r"'goal' shares 8\d\.\d% of its 13-word"):
    _prepare(corpus)


def test_a_place_without_room_is_told(corpus):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(UserError, match=r"Cannot write.*(large|space)"):
      _prepare(corpus, "embedding.dim=5")
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert len(_prepare(corpus, "embedding.dim=5").pool) == 60


def test_a_sample_is_drawn_after_repeats_are_left_out(corpus):
  lines = (corpus / "a.jsonl").read_text().splitlines()
  repeats = [
    {**json.loads(line), "id": f"r{i}"} for i, line in enumerate(lines)
  ]
  corpora.write(corpus / "b.jsonl", repeats)
  asked = ("data.max_documents=20", "data.drop_repeated_texts=true")
  sample = _prepare(corpus, *asked)
  assert len(sample.pool) == 20
  assert len(_prepare(corpus, "data.max_documents=30", asked[1]).pool) == 30
  # What is left out teaches nothing: as if it had not been there.
  (corpus / "b.jsonl").unlink()
  alone = _prepare(corpus, *asked, cache="other")
  for name in prepare.LEARNED_FILES:
    first, second = (one.folder / name for one in (sample, alone))
    assert first.read_bytes() == second.read_bytes()


def test_a_file_that_was_cured_is_read(corpus, monkeypatch):
  """Permissions do not change what a file holds, nor when it was written."""

  @contextlib.contextmanager
  def raw(path):
    if path.endswith("b.jsonl"):
      raise fields.Unusable(files.UNREADABLE, "wanted a readable file")
    with opened(path) as file:
      yield file

  opened = files.raw
  with monkeypatch.context() as patch:
    patch.setattr(files, "raw", raw)
    before = _prepare(corpus)
    assert len(before.pool) == 30
    assert before.manifest["skipped"][files.UNREADABLE]["documents"] == 1
  after = _prepare(corpus)
  assert len(after.pool) == 60
  assert after.manifest["skipped"] == {}


def test_what_is_told_is_of_these_files_and_not_of_earlier_ones(corpus):
  path = corpus / "a.jsonl"
  good = path.read_text()
  path.write_text(good + "{\n")
  before = _prepare(corpus)
  path.write_text(good)
  after = _prepare(corpus)
  assert before.folder == after.folder  # the same documents
  assert before.manifest["skipped"]["invalid JSON"]["documents"] == 1
  assert after.manifest["skipped"] == {}


def test_another_name_of_a_label_is_heard(corpus):
  rows = [{"id": f"{i}", "text": f"text {i}", "topic": "sea"} for i in range(9)]
  corpora.write(corpus / "a.jsonl", rows)
  (corpus / "b.jsonl").unlink()
  for field, labels in (
    ("topc", ("",)),
    ("topic", ("sea",)),
    ("source", ("",)),
  ):
    found = _prepare(corpus, f"data.source_field={field}")
    assert found.documents.labels("source")[1] == labels


def test_a_sample_is_of_the_smallest_digests_however_it_is_cut(corpus):
  sample = _prepare(corpus, "data.max_documents=20")
  again = _prepare(
    corpus, "data.max_documents=20", "data.shard_documents=7", cache="other"
  )
  whole = _prepare(corpus)
  assert len(sample.pool) == 20 < len(whole.pool) == 60
  ids = [
    list(one.documents.rows(np.arange(len(one.pool)), "id")["id"])
    for one in (sample, again)
  ]
  assert ids[0] == ids[1]
  assert any("20 documents" in note for note in sample.notes)
  assert sample.digest != whole.digest
