"""A whole job on two views: learned, kept, and applied to documents that are new."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import embed, main
from cmtree_jax.data.build import prepare
from cmtree_jax.recipe import recipe
from tests import corpora

_TARGETS = {"arithmetic": "sums"}
_VIEWS = "embedding.views=topic,form"
_SETTINGS = """
method=cmtree baselines= guard.on=false final.seeds=1
values.rounds=1 values.population=4 values.max_age=24 values.min_age=4
values.steps_between_rounds=4 values.lookahead=4 values.outer_rows=8
values.probe_rows=8 values.validation_rows=8
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.step.solver_steps=5
cmtree.replay.size=256
""".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """(workdir, folder of the corpus) of a job on two views."""
  corpus = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(corpus, _TARGETS)
  workdir = tmp_path_factory.mktemp("runs") / "views"
  assert main.main(_arguments(corpus, workdir, _VIEWS, *_SETTINGS)) == 0
  return workdir, corpus


def _arguments(corpus, workdir, *settings):
  made = corpora.arguments(
    "configs/smoke.py", corpus, workdir, _TARGETS, *corpora.TINY, *settings
  )
  return [*made, "--config.data.targets="]


def test_the_recipe_reads_new_texts_as_the_corpus_was_read(finished):
  workdir, corpus = finished
  made = recipe.load(workdir)
  level = json.loads((workdir / "recipe.json").read_text())["partition"]
  angle_PE = np.array(level["levels"][0]["angle_PE"])
  with np.load(workdir / prepare.EMBEDDER_FILE) as file:
    topic, form = embed.blocks(file, angle_PE.shape[1])
  assert (topic.name, form.name) == ("topic", "form")
  assert (topic.stop, form.stop) == (8, angle_PE.shape[1])
  rows = [
    json.loads(line)
    for line in (corpus / "pool.jsonl").read_text().splitlines()
  ]
  applied = made.apply([row["text"] for row in rows])
  kept = pq.read_table(workdir / "documents.parquet").to_pydict()
  weight = dict(zip(kept["document_id"], kept["weight"], strict=True))
  found = [weight[row["id"]] for row in rows]
  np.testing.assert_allclose(applied.weight_N, found, rtol=1e-4)
  shouted = made.apply([row["text"].upper() + "!?" for row in rows])
  assert np.abs(shouted.confidence_N - applied.confidence_N).max() > 1e-3


def test_a_person_reads_what_every_level_sees(finished):
  made = json.loads((finished[0] / "recipe.json").read_text())
  assert [set(level) for level in made["levels"]] == [{"topic", "form"}] * 2
  for number, level in enumerate(made["levels"], 1):
    assert sum(level.values()) == pytest.approx(1, abs=1e-5)
    told = made["history"][-1][f"view_share.level_{number}.form"]
    assert told == pytest.approx(level["form"], abs=0.02)


def test_it_is_applied_to_another_corpus(finished, tmp_path):
  workdir, corpus = finished
  rows = [{"id": f"new{i}", "text": f"{i} + {i} IS {2 * i}."} for i in range(9)]
  other = tmp_path / "other.jsonl"
  corpora.write(other, rows)
  settings = (f"recipe.apply={workdir}", _VIEWS, f"data.source=jsonl:{other}")
  arguments = _arguments(corpus, tmp_path / "out", *settings)
  assert main.main(arguments) == 0
  found = pq.read_table(tmp_path / "out" / "documents.parquet").to_pydict()
  assert sorted(found["document_id"]) == [row["id"] for row in rows]
  expected = recipe.load(workdir).apply([row["text"] for row in rows])
  assert found["path"] == expected.path_N


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (("recipe.apply={}",), ["config.embedding.views", "'form'", "'topic',"]),
    (("embedding.views=topic,shape",), ["views 'shape'", "form, topic"]),
    (("embedding.views=form,form",), ["embedding.views", "each once"]),
  ],
)
def test_other_views_are_refused_in_one_line(
  finished, tmp_path, capsys, settings, words
):
  workdir, corpus = finished
  settings = [one.format(workdir) for one in settings]
  status = main.main(_arguments(corpus, tmp_path / "out", *settings))
  corpora.assert_one_line(status, 2, words, capsys)
