"""A main job without a target: for whom, what it hands over and what it tells."""

import json
import pathlib
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import main
from cmtree_jax.methods import METHODS
from cmtree_jax.recipe import recipe
from tests import corpora


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """Three sources and a target that nobody needs."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, {"arithmetic": "sums"})
  return folder


def _arguments(corpus, workdir, name, *settings, targets=()) -> list[str]:
  return corpora.arguments(
    f"configs/method.py:{name}",
    corpus,
    workdir,
    targets,
    *("data.targets=", "steer.steps=12", "proxy.preset=0.1m"),
    *("look.teacher=0.1m", "look.steps=12", "look.steps_per_call=2"),
    *settings,
  )


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> pathlib.Path:
  """The workdir of a job whose method keeps a quarter of the documents."""
  workdir = tmp_path_factory.mktemp("runs") / "documents"
  assert main.main(_command(corpus, workdir)) == 0
  return workdir


def _command(corpus, workdir) -> list[str]:
  settings = (
    *("random_documents.share=0.25", "budget.epochs=0.5"),
    *("export.formats=jsonl,parquet", "data.shard_documents=50"),
  )
  return _arguments(corpus, workdir, "random_documents", *settings)


def _read(workdir: pathlib.Path, name: str):
  return json.loads((workdir / name).read_text())


def test_every_document_is_in_the_weights_or_in_both_files(finished):
  known = pq.read_table(finished / "documents.parquet").to_pydict()
  lost = pq.read_table(finished / "selection.parquet").to_pydict()
  weight = dict(zip(known["document_id"], known["weight"], strict=True))
  assert len(weight) == 120
  assert set(lost["document_id"]) == {
    name for name, w in weight.items() if w < 0.5
  }
  assert set(lost["verdict"]) == {"left out"}
  assert [weight[name] for name in lost["document_id"]] == lost["weight"]
  assert all(
    name.startswith(source)
    for name, source in zip(lost["document_id"], lost["source"], strict=True)
  )
  made = _read(finished, "summary.json")["selection"]
  assert made["all"]["documents"]["left out"] == len(lost["document_id"])
  assert made["all"]["tokens"]["left out"] == sum(lost["tokens"])
  for by in ("source", "domain"):
    documents = [one["documents"]["left out"] for one in made[by]]
    assert sum(documents) == len(lost["document_id"])
    assert sum(one["recipe"] for one in made[by]) == pytest.approx(1, abs=1e-3)
  assert _read(finished, "recipe.json")["selection"] == made


def test_the_page_shows_documents_of_all_sources(finished):
  page = (finished / "selection.html").read_text()
  assert "Some that are left out" in page and "Some that are kept" in page
  lost = pq.read_table(finished / "selection.parquet").to_pydict()
  shown = [name for name in lost["document_id"] if f">{name} ·" in page]
  assert {name.partition("-")[0] for name in shown} == set(corpora.WORDS)


def test_the_report_tells_of_it_all(finished):
  pytest.importorskip("plotly")
  page = (finished / "report.html").read_text()
  assert "<title>random_documents: a recipe for no target</title>" in page
  assert 'href="selection.html"' in page and 'id="Map"' in page
  assert 'id="Results"' not in page  # nothing was trained


def test_nothing_is_trained_and_it_is_told(finished):
  for kind in ("final", "trial"):
    assert not list((finished / "cells" / kind).iterdir())
  assert not (finished / "table.md").exists()
  why = _read(finished, "summary.json")["why"]
  assert "No target" in why and "random_documents" in why


def test_the_same_command_finds_its_search_done(finished, corpus):
  names = ("documents.parquet", "selection.parquet", "selection.html")
  before = [(finished / name).read_bytes() for name in names]
  search = next((finished / "cells" / "search").glob("*.json"))
  when = search.stat().st_mtime_ns
  assert main.main(_command(corpus, finished)) == 0
  assert [(finished / name).read_bytes() for name in names] == before
  assert search.stat().st_mtime_ns == when


def test_exports_and_other_jobs_work_with_the_recipe(
  finished, corpus, tmp_path
):
  lines = (finished / "export" / "jsonl").iterdir()
  assert sum(path.stat().st_size for path in lines)
  exported = pq.read_table(finished / "export/parquet/weights.parquet")
  known = pq.read_table(finished / "documents.parquet")
  assert exported["weight"].to_pylist() == known["weight"].to_pylist()
  assert recipe.load(finished).data["targets"] == []
  settings = (f"recipe.apply={finished}", "budget.epochs=0.5")
  workdir = tmp_path / "applied"
  arguments = _arguments(corpus, workdir, "random_documents", *settings)
  assert main.main(arguments) == 0
  again = pq.read_table(workdir / "documents.parquet")
  np.testing.assert_allclose(again["weight"], known["weight"], rtol=1e-6)


def test_of_copies_one_stays_and_each_other_names_one(tmp_path):
  """Exact copies, from the corpus to the page."""
  rng = random.Random(0)
  words = corpora.WORDS["latin"] + corpora.WORDS["code"]
  texts = [" ".join(rng.choices(words, k=30)) for _ in range(40)]
  rows = [
    {"id": f"{i}<{copy}>", "text": text, "source": "a" if i % 2 else "b"}
    for copy in range(2)
    for i, text in enumerate(texts[: 40 if not copy else 10])
  ]
  corpora.write(tmp_path / "pool.jsonl", rows)
  settings = ("semdedup.epsilon=0.0001", "embedding.dim=32")
  arguments = _arguments(tmp_path, tmp_path / "run", "semdedup", *settings)
  assert main.main(arguments) == 0
  lost = pq.read_table(tmp_path / "run" / "selection.parquet").to_pydict()
  assert len(lost["document_id"]) == 10
  for name, reason in zip(lost["document_id"], lost["reason"], strict=True):
    number = name.partition("<")[0]
    (other,) = {f"{number}<0>", f"{number}<1>"} - {name}
    assert reason.startswith(f"cosine 1.000 to {other}")
  made = _read(tmp_path / "run", "summary.json")["selection"]
  known = pq.read_table(tmp_path / "run" / "documents.parquet").to_pydict()
  kept = set(known["document_id"]) - set(lost["document_id"])
  tokens = dict(zip(known["document_id"], known["tokens"], strict=True))
  assert made["tokens_of_each_kept_document_once"] == sum(
    tokens[name] for name in kept
  )
  page = (tmp_path / "run" / "selection.html").read_text()
  assert "&lt;0&gt;" in page and "<0>" not in page


_UNTARGETED = [name for name, one in METHODS.items() if not one.make().targeted]


@pytest.mark.parametrize("name", [n for n in _UNTARGETED if n != "natural"])
def test_every_method_that_knows_no_target_runs_without_one(
  corpus, tmp_path, name
):
  settings = ()
  if name == "quality":
    labels = [{"text": "def f(x): " * i, "score": i} for i in range(1, 21)]
    corpora.write(corpus / "labels.jsonl", labels)
    settings = (f"quality.labels={corpus}/labels.jsonl",)
  assert main.main(_arguments(corpus, tmp_path / "run", name, *settings)) == 0
  table = pq.read_table(tmp_path / "run" / "documents.parquet").to_pydict()
  mass = np.array(table["tokens"]) / np.sum(table["tokens"])
  assert mass @ np.array(table["weight"]) == pytest.approx(1, abs=1e-5)
  assert (tmp_path / "run" / "selection.html").exists()


@pytest.mark.parametrize(
  ("name", "setting"),
  [
    ("doge", "doge.objective=domains"),
    ("skill_it", "skill_it.evaluate=domains"),
    ("aioli", "aioli.evaluate=domains"),
    ("metaclip", "metaclip.entries={corpus}/entries.txt"),
  ],
)
def test_options_may_make_a_method_know_no_target(
  corpus, tmp_path, name, setting
):
  (corpus / "entries.txt").write_text("lorem ipsum\nreturn\n1\n")
  setting = setting.format(corpus=corpus)
  assert main.main(_arguments(corpus, tmp_path / "run", name, setting)) == 0


def test_no_target_may_be_asked_for_beside_one(corpus, tmp_path, capsys):
  arguments = _arguments(
    *(corpus, tmp_path / "run", "temperature", "data.targets=none"),
    targets=["arithmetic"],
  )
  assert main.main(arguments) == 0
  assert "No target" in capsys.readouterr().err
  table = pq.read_table(tmp_path / "run" / "selection.parquet").to_pydict()
  assert set(table["verdict"]) == {"held back"}


def test_a_corpus_without_targets_needs_no_word_of_them(corpus, tmp_path):
  arguments = _arguments(corpus, tmp_path / "run", "uniform_clusters")
  arguments.remove("--config.data.targets=")
  assert main.main(arguments) == 0
  assert (tmp_path / "run" / "export" / "parquet" / "weights.parquet").exists()


@pytest.mark.parametrize(
  ("name", "settings", "words"),
  [
    ("crisp", (), ["crisp chooses for one", "target_files", "semdedup"]),
    ("crisp", ("data.targets=none",), ["crisp chooses for one"]),
    ("metaclip", (), ["metaclip chooses for one"]),
    ("quality", (), ["quality.labels", "came none", '"score": 3']),
    ("quality", ("quality.labels=none.jsonl",), ["none.jsonl"]),
    ("natural", ("data.targets=none,x",), ["config.data.targets", "'none'"]),
    ("natural", ("data.targets=x",), ["'x'", "(none)", "data.targets=none"]),
  ],
)
def test_a_method_that_chooses_for_a_target_is_refused(
  corpus, tmp_path, capsys, name, settings, words
):
  status = main.main(_arguments(corpus, tmp_path / "run", name, *settings))
  corpora.assert_one_line(status, 2, words, capsys)
