"""A whole job on several views: learned, kept, and applied to documents that are new."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import embed, main
from cmtree_jax.data.build import prepare
from cmtree_jax.recipe import recipe
from cmtree_jax.types import UserError
from tests import corpora

_TARGETS = {"arithmetic": "sums"}
_VIEWS = "embedding.views=topic,form,grams"
_OF_MODELS = "embedding.views=topic,loss,trajectory,hidden"
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
  """(workdir, folder of the corpus) of a job on all views of texts."""
  corpus = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(corpus, _TARGETS)
  workdir = tmp_path_factory.mktemp("runs") / "views"
  assert main.main(_arguments(corpus, workdir, _VIEWS, *_SETTINGS)) == 0
  return workdir, corpus


@pytest.fixture(scope="module")
def of_proxy(finished, tmp_path_factory):
  """Two workdirs of jobs with views of a model, that share what it makes."""
  folder = tmp_path_factory.mktemp("proxy")
  settings = (
    *(_OF_MODELS, "embedding.hidden_dim=3", "embedding.hidden_layers=2"),
    *("method=crisp", "baselines=", "guard.on=false", "final.seeds=1"),
    *("partition.num_clusters=3", "look.steps=8", "look.steps_per_call=2"),
  )
  for name in ("one", "two"):
    arguments = _arguments(finished[1], folder / name, *settings)
    assert main.main(arguments) == 0
  return folder / "one", folder / "two"


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
    topic, form, grams = embed.blocks(file, angle_PE.shape[1])
  assert (topic.name, form.name, grams.name) == ("topic", "form", "grams")
  assert (topic.stop, grams.stop) == (8, angle_PE.shape[1])
  assert grams.stop - grams.start == 2  # one target's, and the constant
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
  views = {"topic", "form", "grams"}
  assert [set(level) for level in made["levels"]] == [views] * 2
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
    (
      ("embedding.views=topic,shape",),
      ["views 'shape'", "form, grams, hidden, loss, topic, trajectory"],
    ),
    (("embedding.views=form,form",), ["embedding.views", "each view once"]),
    (
      ("embedding.views=topic,loss", "look.steps=8", "look.steps_per_call=8"),
      ["embedding.views", "lower look.steps_per_call"],
    ),
    (
      ("embedding.views=topic,hidden", "embedding.hidden_layers=3"),
      ["embedding.hidden_layers = 3", "has 2"],
    ),
    (
      ("embedding.views=topic,trajectory", "embedding.trajectory_ages=3"),
      ["trajectory_ages", "embedding", "even number", "came 3"],
    ),
  ],
)
def test_other_views_are_refused_in_one_line(
  finished, tmp_path, capsys, settings, words
):
  workdir, corpus = finished
  settings = [one.format(workdir) for one in settings]
  status = main.main(_arguments(corpus, tmp_path / "out", *settings))
  corpora.assert_one_line(status, 2, words, capsys)


def test_views_of_a_model_are_made_once(of_proxy):
  one, two = (workdir / "recipe.json" for workdir in of_proxy)
  assert (of_proxy[0] / "views").exists()
  assert not (of_proxy[1] / "views").exists()
  made = json.loads(one.read_text())
  assert made["partition"] == json.loads(two.read_text())["partition"]
  told = made["proxy_views"]
  assert told["views"] == ["loss", "trajectory", "hidden"]
  assert told["steps"] == 8
  # A step takes three passes; every age of a loss takes one, and hidden states do.
  forward = told["flops_per_token"] / (2 + 4 + 1)
  measured = told["flops"] / forward - 3 * 8 * 4 * 16
  # Statistics and hidden states at four ages; rows are filled up.
  assert measured > 8 * 120 * 5


def test_they_are_the_whitened_numbers_of_all_documents(of_proxy, finished):
  arrays = of_proxy[0] / "views"
  cache = finished[1] / "cache" / "prepared"
  places = [
    place for place in cache.iterdir() if (place / "manifest.json").exists()
  ]
  (place,) = (
    place
    for place in places
    if "proxy_views" in json.loads((place / "manifest.json").read_text())
  )
  data = prepare.load(place, ["arithmetic"], notes=())
  assert [tuple(block) for block in data.blocks] == [
    ("topic", 0, 8),
    ("loss", 8, 11),
    ("trajectory", 11, 16),
    ("hidden", 16, 20),
  ]
  for number, some in enumerate(
    [data.pool, *(data.targets["arithmetic"][s] for s in ("train", "test"))]
  ):
    number = (0, 1, 3)[number]
    first_N, young_N, third_N, old_N = np.load(arrays / f"{number}.loss_ON.npy")
    assert np.isfinite(old_N).all() and not np.allclose(young_N, old_N)
    falls = first_N - young_N, young_N - third_N, third_N - old_N
    hidden_NH = np.load(arrays / f"{number}.hidden_ONH.npy")[-1]
    assert hidden_NH.shape[1] == 2 * 64  # both layers of 0.3m
    for name, x_NF in (
      ("loss", np.stack([old_N, young_N - old_N], 1)),
      ("trajectory", np.stack([old_N, *falls], 1)),
      ("hidden", hidden_NH),
    ):
      (block,) = (block for block in data.blocks if block.name == name)
      _assert_whitened(some, block, x_NF, place / prepare.EMBEDDER_FILE)


def _assert_whitened(some, block, x_NF, embedder):
  """The block's columns are these numbers, whitened."""
  with np.load(embedder) as file:
    mean, scale, root = (
      file[f"{block.name}.{name}"]
      for name in ("mean_F", "scale_F", "whiten_FG")
    )
  y_NG = np.clip((x_NF - mean) / scale @ root, -3, 3)
  part = np.asarray(some.embedding_NE)[:, block.start : block.stop]
  found = part[:, :-1] / part[:, -1:] * y_NG.shape[1] ** 0.5 / 2
  np.testing.assert_allclose(found, y_NG, atol=1e-4)


def test_documents_that_the_proxy_never_saw_are_refused(
  of_proxy, finished, tmp_path, capsys
):
  workdir = of_proxy[0]
  with pytest.raises(UserError, match="FLOPs per token"):
    recipe.load(workdir).apply(["1 + 1 = 2"])
  settings = (f"recipe.apply={workdir}", _OF_MODELS)
  status = main.main(_arguments(finished[1], tmp_path / "out", *settings))
  corpora.assert_one_line(status, 2, ["FLOPs per token"], capsys)
