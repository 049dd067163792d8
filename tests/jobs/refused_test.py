"""What a job refuses, in one line and before it spends anything."""

import pathlib

import pytest

from cmtree_jax import main
from tests import corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """A folder with pool.jsonl (three sources) and arithmetic.jsonl (a target)."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


_TARGETS = {"arithmetic": "sums"}


def _arguments(corpus, workdir, *overrides: str) -> list[str]:
  return corpora.arguments(
    "configs/smoke.py", corpus, workdir, _TARGETS, *overrides
  )


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("cmtree.brnching=2", ["'cmtree.brnching'", "cmtree.branching"]),
    ("branching=2", ["'branching'", "cmtree.branching"]),
    ("final.steps=many", ["final.steps", "int", "'many'"]),
    ("cmtree.branching=two", ["cmtree.branching", "'two'"]),
    ("cmtree=1", ["cmtree.branching"]),
    ("method=doremy", ["'doremy'", "mean doremi", "docs/methods.md"]),
    ("proxy.preset=huge", ["'huge'", "0.3m"]),
    ("final.steps=10", ["final.steps = 10", "multiple of", "= 4", "try 8"]),
    ("data.source=tape:x", ["'tape:x'", "jsonl"]),
    ("data.source=tape", ["'tape'", "default, stdlib"]),
    ("workers.name=spark", ["'spark'", "beam, local"]),
    ("recipe.apply=nowhere", ["recipe.json", "nowhere"]),
    ("export.formats=paper", ["'paper'", "levanter", "parquet"]),
    ("data.source=jsonl:absent.jsonl", ["absent.jsonl"]),
    ("data.target_files=", ["No target", "target_files"]),
    ("data.targets=moon", ["'moon'", "arithmetic", "data.targets= takes all"]),
    ("embedding.kind=magic", ["'magic'", "tfidf"]),
    ("cmtree.mode=forzen", ["config.cmtree: ", "'forzen'", "joint"]),
    ("cmtree.start.kind=ward", ["config.cmtree.start: ", "'ward'", "kmeans"]),
    ("cmtree.step=0.1", ["config.cmtree.step is a block", "cmtree.step.trust"]),
    ("optimizer.eps_root=0.0", ["eps_root", "above 0"]),
    ("hypergradient.estimator=magic", ["'magic'", "unrolled", "cg"]),
    (("hypergradient.estimator=truncated", "values.unroll=6"), ["multiple of"]),
    ("hypergradient.memory_bytes=10.0", ["memory_bytes", "at the least"]),
    (
      ("method=random_documents", "export.formats=parquet,levanter"),
      ["'levanter' mixes leaves", "jsonl, leaves, parquet"],
    ),
    ("partition.kind=trees", ["'trees'", "silhouette", "ward"]),
    ("runs.curve_points=5", ["curve_points = 5", "divide", "steps = 21"]),
    ("runs.steps=0", ["runs.steps = 0"]),
    ("runs.presets=tiny", ["'tiny'", "0.3m"]),
    ("steer.steps=0", ["steer.steps = 0", "at least 1"]),
    ("observe.rows=0", ["observe.rows = 0", "at least 1"]),
    ("crisp.smoothing=2.0", ["crisp", "smoothing"]),
    (
      ("temperature.temperature=0.0", "baselines=temperature"),
      ["config.temperature", "above 0"],
    ),
    ("seed=-1", ["config.seed = -1", "at least 0"]),
    ("batch.rows=0", ["config.batch.rows = 0", "at least 1"]),
    ("optimizer.learning_rate=0", ["learning_rate = 0.0", "above 0"]),
    ("optimizer.learning_rate=inf", ["learning_rate = inf", "finite"]),
    ("budget.max_epochs=0.0", ["budget.max_epochs = 0.0", "above 0"]),
    ("proxy.dtype=float16", ["'float16'", "bfloat16, float32"]),
    ("tokenizer.kind=words", ["'words'", "bpe, bytes"]),
    ("embedding.dim=0", ["embedding.dim = 0", "at least 1"]),
    ("partition.sample_documents=-1", ["sample_documents = -1", "least 1"]),
    ("data.source=", ["config.data.source must name"]),
    ("data.max_overlap=2", ["data.max_overlap = 2.0", "from 0 to 1"]),
    ("values.population=3", ["values.population = 3", "at least 4"]),
    ("values.steps_between_rounds=0", ["steps_between_rounds = 0"]),
    ("values.natural_share=2.0", ["natural_share = 2.0", "from 0 to 1"]),
    (
      ("values.max_age=10", "values.min_age=20"),
      ["values.max_age = 10", "min_age = 20"],
    ),
    ("steer.saves=-1", ["steer.saves = -1", "at least 0"]),
    ("runs.presets=", ["config.runs.presets must name"]),
    ("final.steps_per_call=0", ["steps_per_call = 0", "at least 1"]),
    ("cmtree.step.trust=0", ["config.cmtree.step: trust = 0.0", "above 0"]),
    ("cmtree.step.tilt_rate=inf", ["tilt_rate = inf", "finite"]),
    ("cmtree.step.temperature=0,1", ["(0.0, 1.0)", "two numbers"]),
    ("cmtree.replay.decay=2", ["decay = 2.0", "from 0 to 1"]),
    ("cmtree.replay.size=1", ["size = 1", "at least 4"]),
    ("cmtree.start.kappa=inf", ["kappa = inf", "finite"]),
    ("cmtree.start.target_share=-1", ["target_share = -1.0", "from 0 to 1"]),
    ("mesh.data=0", ["config.mesh: data = 0", "at least 1"]),
    ("mesh.population=0", ["config.mesh: population = 0", "at least 1"]),
    ("mesh.model=16", ["config.mesh", "16 devices, there are 8"]),
    ("mesh.model=8", ["heads of 0.3m = 4", "8 devices"]),
    ("mesh.data=8", ["config.batch.rows = 4", "8 devices"]),
  ],
)
def test_wrong_settings_end_with_one_line(
  corpus, tmp_path, capsys, override, words
):
  overrides = [override] if isinstance(override, str) else override
  status = main.main(_arguments(corpus, tmp_path / "run", *overrides))
  corpora.assert_one_line(status, 2, words, capsys)


@pytest.mark.parametrize(
  ("line", "words"),
  [
    (b'{"text": "  "}', ["pool.jsonl", "line 3", "wanted a text"]),
    (b'{"text": "\xff"}', ["pool.jsonl", "line 3", "UTF-8"]),
    (b'{"text": "a", "id": "x"}', ["pool.jsonl", "line 3", "'x'"]),
    (
      b'{"text": "' + b"a" * 10_000_000 + b'"}',
      ["pool.jsonl", "line 3", "max_document_bytes"],
    ),
  ],
  ids=["empty", "encoding", "duplicate", "large"],
)
def test_a_bad_document_ends_with_one_line(
  corpus, tmp_path, capsys, line, words
):
  pool = tmp_path / "pool.jsonl"
  first = b'{"text": "one two three", "id": "x"}\n{"text": "four five"}\n'
  pool.write_bytes(first + line + b"\n")
  status = main.main(
    _arguments(
      corpus,
      tmp_path / "run",
      f"data.source=jsonl:{pool}",
      "data.strict=true",
    )
  )
  corpora.assert_one_line(status, 2, words, capsys)


@pytest.mark.parametrize(
  ("folder", "formats", "words"),
  [
    ("a run", "parquet,megatron", ["Megatron-LM splits", "a run/export"]),
    ("run{1}", "parquet", ["no trainer takes for a pattern", "run{1}/export"]),
    ("run[1]", "", ["--workdir", "run[1]", "patterns of names"]),
  ],
)
def test_a_folder_that_will_not_do_is_refused_before_any_work(
  corpus, tmp_path, capsys, folder, formats, words
):
  settings = [f"export.formats={formats}"] if formats else []
  status = main.main(_arguments(corpus, tmp_path / folder, *settings))
  corpora.assert_one_line(status, 2, words, capsys)
  assert not (tmp_path / folder).exists()


def test_a_target_without_a_train_split_is_refused(corpus, tmp_path, capsys):
  target = tmp_path / "exam.jsonl"
  corpora.write(target, [{"text": "one", "split": "test"}])
  status = main.main(
    _arguments(corpus, tmp_path / "run", f"data.target_files={target}")
  )
  corpora.assert_one_line(status, 2, ["exam", "train"], capsys)


def test_a_folder_that_is_no_run_is_neither_used_nor_cleared(
  corpus, tmp_path, capsys
):
  (tmp_path / "thesis.txt").write_text("years of work")
  for extra in ([], ["--overwrite"]):
    status = main.main([*_arguments(corpus, tmp_path), *extra])
    corpora.assert_one_line(status, 2, [str(tmp_path)], capsys)
  assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_unwritable_workdir_is_refused(corpus, tmp_path, capsys):
  (tmp_path / "file").write_text("")
  status = main.main(_arguments(corpus, tmp_path / "file" / "run"))
  corpora.assert_one_line(status, 2, ["Cannot write", "--workdir"], capsys)


def test_a_loss_that_is_not_finite_stops_the_job(corpus, tmp_path, capsys):
  workdir = tmp_path / "run"
  # Warm-up ends at once, so the first step leaves float32's range.
  status = main.main(
    _arguments(
      corpus,
      workdir,
      "method=natural",
      "optimizer.learning_rate=1e38",
      "optimizer.warmup_steps=0",
    )
  )
  words = ["at step 4 is not finite", "learning_rate"]
  corpora.assert_one_line(status, 1, words, capsys)
  assert not list((workdir / "cells" / "final").glob("*"))
