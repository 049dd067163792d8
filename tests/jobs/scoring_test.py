"""Searches that score documents: what is made for them, and what they find."""

import contextlib

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.data.build import prepare
from cmtree_jax.jobs import build, search
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops.checkpoint import StopFlag
from cmtree_jax.report.progress import Reporter
from tests import corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Three sources, and a target of each of two."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, {"arithmetic": "sums", "programs": "code"})
  return folder


@contextlib.contextmanager
def job(corpus, folder, *overrides):
  """A job and its data, which share a cache."""
  files = ",".join(
    f"{corpus}/{name}.jsonl" for name in ("arithmetic", "programs")
  )
  config = load(
    "configs/smoke.py",
    [
      *corpora.TINY,
      f"cache_dir={folder}",
      f"data.source=jsonl:{corpus}/pool.jsonl",
      f"data.target_files={files}",
      "data.targets=",
      *overrides,
    ],
  )
  with Reporter() as reporter:
    one = Job(config, folder, reporter, StopFlag())
    yield (
      one,
      prepare.prepare(
        build.corpus_plan(config),
        cache_dir=folder,
        workers=one.workers,
        progress=reporter.say,
      ),
    )


def weigh(name, one, data):
  parts = search.partitions([name], one, data)
  return search.weigh(name, one, data, parts, seed=0, stage="search")


def test_words_are_counted_for_methods_that_read_them(corpus, tmp_path):
  counted = tmp_path / "grams"
  with job(corpus, tmp_path, "classifier.features=embedding") as (one, data):
    for name in ("natural", "classifier"):
      weigh(name, one, data)
    assert not counted.exists()
    weigh("dsir", one, data)
  with job(corpus, tmp_path) as (one, data):
    weigh("classifier", one, data)
  assert len(list(counted.iterdir())) == 1
  with job(corpus, tmp_path, "grams.words=1") as (one, data):
    weigh("dsir", one, data)
  assert len(list(counted.iterdir())) == 2


@pytest.mark.parametrize("name", ["dsir", "classifier"])
def test_documents_like_a_target_are_found(corpus, tmp_path, name):
  settings = ("dsir.shortest=1", "budget.epochs=0.5")
  with job(corpus, tmp_path, *settings) as (one, data):
    found = weigh(name, one, data)
  q_N = data.pool.tokens.mass_N
  w_N = np.exp(found.log_w_N)
  assert q_N @ w_N == pytest.approx(1, rel=1e-4)
  source_N, sources = data.documents.labels("source")
  kept = {sources[i] for i in source_N[w_N > 1]}
  assert kept == {"sums", "code"}
  assert found.cost == (0, 0)
  assert [row["target"] for row in found.history] == [0, 1]
  assert all(row["tokens"] > 0 for row in found.history)
