"""A schedule that is applied to a corpus: hand-made, so that nothing is trained."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import budget, main
from cmtree_jax.config import load
from cmtree_jax.data import sealed
from cmtree_jax.jobs import build, learned
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.types import UserError
from tests import corpora

_WEIGHT_GL = np.array([[0.5, 1.0, 2.0], [2.5, 1.0, 0.1]])
_NAMES = ("leaf_0_a", "leaf_1_b", "leaf_2_c")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, {"goal": "sums"})
  return folder


@pytest.fixture(scope="module")
def handed(corpus, tmp_path_factory) -> pathlib.Path:
  """A job's folder with a schedule of two stages, the first of a quarter."""
  source = f"data.source=jsonl:{corpus}/pool.jsonl"
  data = corpora.prepare_folder(corpus, source)
  rows = data.pool.embedding_NE[[0, 50, 100]]  # a document of each source
  places = partitions.clusters(np.asarray(rows, np.float32))
  stages = schedules.make(
    [0, 3],
    [places.with_weights(np.log(weight_L)) for weight_L in _WEIGHT_GL],
    np.asarray(data.pool.embedding_NE),
    data.pool.tokens.mass_N,
    steps=12,
  )
  schedule = schedules.Schedule("rnb", 0, 64, _NAMES, stages)
  config = load("configs/smoke.py", [*_settings(corpus), source])
  folder = tmp_path_factory.mktemp("runs") / "online"
  made = learned.facts(config, data)
  schedules.hand_over(folder, schedule, made, learned=data.folder)
  return folder


def _settings(corpus: pathlib.Path) -> list[str]:
  return [
    *corpora.TINY,
    "data.targets=",
    "embedding.dim=4",
    f"data.target_files={corpus}/goal.jsonl",
    f"cache_dir={corpus}/cache",
  ]


def _apply(corpus, handed, workdir, *settings) -> int:
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, workdir, ["goal"], "embedding.dim=4",
    f"recipe.apply={handed}", *settings,
  )  # fmt: skip
  return main.main(arguments)


def test_a_schedule_is_applied_to_another_corpus(
  corpus, handed, tmp_path, capsys
):
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  other = tmp_path / "other.jsonl"
  other.write_text("\n".join(lines[20:]) + "\n")
  settings = (
    *(f"data.source=jsonl:{other}", "data.shard_documents=30"),
    *("export.formats=parquet,jsonl,levanter", "export.tokens=20000"),
    *("export.rows=2", "export.row_tokens=100", "budget.epochs=3.0"),
  )
  assert _apply(corpus, handed, tmp_path / "run", *settings) == 0
  told = capsys.readouterr().err
  assert f"Schedule of {handed}, 2 stages. Budget: " in told
  assert "Export for 20,000 tokens, " in told
  documents = pq.read_table(tmp_path / "run/documents.parquet").to_pydict()
  assert len(documents["document_id"]) == 100
  # Leaves are those of the sources, and the weights those of the leaves.
  tokens_N, leaf_N = np.array(documents["tokens"]), np.array(documents["leaf"])
  mass_N = tokens_N / tokens_N.sum()
  assert set(leaf_N) == {0, 1, 2}
  given_GN = _WEIGHT_GL[:, leaf_N]
  own_N, cap = np.zeros(100), 4 / 3
  for share, weight_N in zip((0.25, 0.75), given_GN, strict=True):
    own_N += share * budget.capped(weight_N, mass_N, max_weight=cap)
  np.testing.assert_allclose(documents["weight"], own_N, rtol=1e-5)
  table = pq.read_table(tmp_path / "run/export/parquet/weights.parquet")
  stage_R, weight_R = table["stage"].to_numpy(), table["weight"].to_numpy()
  cap = max(1.0, 4 * tokens_N.sum() / 20_000)
  for g, weight_N in enumerate(given_GN):
    wanted_N = budget.capped(weight_N, mass_N, max_weight=cap)
    np.testing.assert_allclose(weight_R[stage_R == g], wanted_N, rtol=1e-5)
  manifest = json.loads((tmp_path / "run/export/manifest.json").read_text())
  assert [x["begin"] for x in manifest["stages"]] == [0, 25]  # of 100 steps
  assert set(manifest["leaves"]) == set(_NAMES)
  facts = manifest["inputs"]["facts"]
  made = schedules.made_from(handed)
  assert facts["learned_for"] == made["budget"]
  assert facts["method"] == schedules.load(handed).method
  assert not (tmp_path / "run/assigned").exists()


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (["export.formats=parquet,olmo"], ["'olmo'", "jsonl, levanter, parquet"]),
    (["embedding.views=form"], ["config.embedding.views must be ('topic',)"]),
    (["export.rows=-1"], ["export.rows = -1"]),
  ],
)
def test_what_cannot_be_is_refused_before_any_work(
  corpus, handed, tmp_path, capsys, settings, words
):
  cache = tmp_path / "cache"
  settings = [*settings, f"cache_dir={cache}"]
  assert _apply(corpus, handed, tmp_path / "run", *settings) == 2
  told = capsys.readouterr().err.strip().splitlines()[-1]
  for word in words:
    assert word in told
  assert not (cache / "prepared").exists()


def test_views_of_a_model_are_refused(corpus, handed, tmp_path, capsys):
  told = sealed.read(handed / schedules.FILE, cure="")
  told.pop(sealed.FILES)
  told["made"]["proxy_views"] = {"flops_per_token": 2e9}
  sealed.write(tmp_path / schedules.FILE, told)
  assert _apply(corpus, tmp_path, tmp_path / "run") == 2
  assert "2e+09 FLOPs per token" in capsys.readouterr().err


def test_an_online_job_whose_formats_hold_no_stages_is_refused_at_once():
  from cmtree_jax.jobs import plan

  config = load("configs/online.py", ["export.formats=megatron"])
  with pytest.raises(UserError, match="'megatron' holds one mixture"):
    plan.check_recipe(config)
  assert build.is_online(config)
