"""What a method is told beforehand, what is made for it, and what it finds."""

import contextlib

import numpy as np
import pytest

from cmtree_jax import config as configs
from cmtree_jax.data.build import prepare
from cmtree_jax.jobs import build, known, search
from cmtree_jax.jobs.job import Job
from cmtree_jax.loops.checkpoint import StopFlag
from cmtree_jax.recipe import domains
from cmtree_jax.report.progress import Reporter
from tests import corpora


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
  """-> facts of a method under overrides, on one small corpus."""
  folder = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)

  def text(source):
    return " ".join(rng.permutation(corpora.WORDS[source]))

  rows = [{"id": f"p{i}", "text": text("latin")} for i in range(30)]
  goal = [
    {"text": f"{text('sums')} {i}", "split": split}
    for split in ("train", "valid", "test")
    for i in range(4)
  ]
  data = corpora.prepared(folder, rows, goal)
  place = domains.Plan("kmeans", num_clusters=2)
  placed = domains.make(place, data, np.arange(len(data.pool)), seed=0)

  def of(name, *overrides):
    config = configs.load("configs/smoke.py", list(overrides))
    method = build.make_method(name, config)
    return known.facts_of(method, config, data, placed), config, data

  return of


def test_the_final_training_is_the_budget_s(facts):
  found, config, data = facts(
    "mixing_laws", "budget.epochs=2", "final.steps=50"
  )
  per_step = config.batch.rows * config.batch.row_tokens
  tokens = 2 * data.pool.tokens.pairs_N.sum()
  assert found.final_steps == round(tokens / per_step) != 50
  told, *_ = facts("mixing_laws", "budget.parameters=123_000_000")
  assert told.final_size == 123_000_000


def test_sizes_are_counted_without_the_embedding(facts):
  presets = "runs.presets=0.1m,0.3m,1m"
  small, config, data = facts("mixing_laws", presets, "final.preset=1.6m")
  width, layers = 64, 2  # of 0.3m
  block = 4 * width**2 + 3 * width * 176 + 2 * width
  assert small.sizes[1] == layers * block + width
  final = build.proxy_of("1.6m", config, data.vocab_size)
  assert small.final_size == final.num_parameters - data.vocab_size * 160


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
  config = configs.load(
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


def weigh(name, one, data, *, seed=0):
  parts = search.partitions([name], one, data)
  return search.weigh(name, one, data, parts, seed=seed, stage="search")


def test_words_are_counted_for_methods_that_read_them(corpus, tmp_path):
  counted = tmp_path / "texts"
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


def test_what_is_drawn_by_keys_is_drawn_anew_for_every_seed(corpus, tmp_path):
  with job(corpus, tmp_path, "random_documents.share=0.5") as (one, data):
    first, again, other = (
      weigh("random_documents", one, data, seed=seed).log_w_N > 0
      for seed in (0, 0, 1)
    )
  np.testing.assert_array_equal(first, again)
  # Half of a half is in both.
  assert np.mean(first & other) == pytest.approx(0.25, abs=0.1)


def test_values_are_told_which_target_a_document_is_of(corpus, tmp_path):
  with job(corpus, tmp_path, "values.validation_rows=16") as (one, data):
    method = build.make_method("cmtree", one.config)
    placed = search.partitions(["cmtree"], one, data)["given"]
    facts = known.facts_of(method, one.config, data, placed)
    plans = build.plans(one.config)
    learner = search.Learner(method, one, data, placed, plans, facts)
    batches, weight_TCBT = search._validation(learner)
  names = known.driving_names(data)
  for split, of_N, features_NE, mass_N in (
    (
      "train",
      facts.target_of_N,
      facts.target_NE,
      facts.target_mass_N,
    ),
    (
      "validation",
      facts.held_out_of_N,
      facts.held_out_NE,
      facts.held_out_mass_N,
    ),
  ):
    for target, name in enumerate(names):
      own = data.targets[name][split]
      np.testing.assert_array_equal(
        features_NE[of_N == target], own.embedding_NE
      )
      assert mass_N[of_N == target].sum() == pytest.approx(1 / 2)
  # A loss of one nat a token is the target's own bits per byte; every target has
  # rows, and no token counts for two.
  for name, weight_CBT in zip(names, weight_TCBT, strict=True):
    tokens = data.targets[name]["validation"].tokens
    bits = tokens.pairs_N.sum() / tokens.bytes_N.sum() / np.log(2)
    assert weight_CBT.sum() == pytest.approx(bits, rel=1e-5)
  assert ((weight_TCBT > 0).sum(axis=0) == (batches.document_BT >= 0)).all()
