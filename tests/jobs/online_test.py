"""A job whose method moves the final training itself, from a folder to a model."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from cmtree_jax import main
from cmtree_jax.config import load
from cmtree_jax.data.build import tokenizer
from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.evaluate import perplexity
from cmtree_jax.jobs import build, cells, plan, variants
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe import trained
from cmtree_jax.types import UserError
from tests import corpora

STEPS, ROWS, T = 12, 4, 16
SETTINGS = """
data.targets= final.preset=0.1m final.seeds=1
online.unroll=2 online.every=2 online.outer_rows=8 online.probe_rows=8
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.start.steps=20
cmtree.step.solver_steps=5 baselines=ado, ado.every=3
evaluate.max_tokens=100000 export.formats=parquet,levanter export.tokens=30000
""".split()


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
  """The workdir of a job; the corpus lies beside it."""
  folder = tmp_path_factory.mktemp("online")
  corpora.write_job_corpus(folder, {"arithmetic": "sums"})
  arguments = corpora.arguments(
    "configs/online.py", folder, folder / "run", ["arithmetic"], *SETTINGS
  )
  assert main.main(arguments) == 0
  return folder / "run"


def test_the_report_shows_how_the_mixture_moved(finished):
  pytest.importorskip("plotly")
  page = (finished / "report.html").read_text()
  assert "a training that moved its own weights" in page
  for method in ("cmtree", "ado"):
    assert f"<h3>{method}: the mixture over time</h3>" in page
  assert page.count('class="node"') > 1


def run_of(finished: pathlib.Path, method: str) -> pathlib.Path:
  """What the run of a method has left."""
  folder = cells.Folder(finished / "cells")
  place = "any" if method == "ado" else "arithmetic"
  return folder.kept(cells.Search(method, place, 0))


def test_what_it_takes_is_told_before(finished, tmp_path):
  folder = finished.parent
  arguments = corpora.arguments(
    "configs/online.py", folder, tmp_path, ["arithmetic"], *SETTINGS
  )
  told = corpora.estimated(arguments, tmp_path)
  plain = {part.flops for part in told["final"]}  # of natural's training
  assert len(plain) == 1
  for name, targets in (("cmtree", "arithmetic"), ("ado", cells.ANY)):
    (part,) = told[name]
    cell = cells.Search(name, targets, 0)
    found = cells.Folder(finished / "cells").found(cell)
    assert found is not None
    flops = found.cost.flops + min(plain)
    assert part.total == pytest.approx(flops, rel=1e-9)


def test_online_methods_stand_in_the_table_without_trials(finished):
  rows = pq.read_table(finished / "results.parquet").to_pylist()
  assert {row["method"] for row in rows} == {"cmtree", "ado", "natural"}
  by_method = {r["method"]: r for r in rows if r["split"] == "test"}
  natural, tree = by_method["natural"], by_method["cmtree"]
  # As many training tokens, and as much work, as natural; events are beside it.
  assert tree["tokens"] == natural["tokens"] == STEPS * ROWS * T
  assert tree["final_flops"] == natural["final_flops"]
  # Two events: 2 steps of 4 rows are differentiated at three passes, 8 rows of
  # targets and 8 probed at as many.
  share = 2 * (2 * ROWS + 8 + 8) / (STEPS * ROWS)
  assert tree["search_flops"] == pytest.approx(share * natural["final_flops"])
  assert by_method["ado"]["search_flops"] > 0
  assert natural["search_flops"] == 0
  assert not list((finished / "cells/trial").iterdir())
  assert len({row["bpb"] for row in by_method.values()}) == 3


def test_its_schedule_tells_what_it_was_trained_on(finished):
  found = schedules.load(run_of(finished, "cmtree"))
  assert [(s.begin, s.end) for s in found.stages] == [(0, 4), (4, 8), (8, 12)]
  assert len(found.names) == 4
  for stage in found.stages:
    assert stage.mixture_L.sum() == pytest.approx(1)
    assert stage.mass_L.sum() == pytest.approx(1, abs=1e-5)
    weight_L = np.exp(stage.partition.log_w_L)
    np.testing.assert_allclose(
      stage.mixture_L, stage.mass_L * weight_L, rtol=1e-3
    )
  rows = pq.read_table(run_of(finished, "cmtree") / schedules.TABLE_FILE)
  assert rows.num_rows == 3 * 4
  steered = schedules.load(run_of(finished, "ado"))
  assert len(steered.names) == 4  # clusters
  assert steered.stages[-1].end == STEPS


def test_its_schedule_is_handed_over_to_trainers(finished):
  handed = schedules.load(finished)
  own = schedules.load(run_of(finished, "cmtree"))
  assert handed[:4] == own[:4] and len(handed.stages) == 3
  made = schedules.made_from(finished)
  assert made["method"] == "cmtree" and "budget" in made
  table = pq.read_table(finished / "export/parquet/weights.parquet")
  documents = pq.read_table(finished / "documents.parquet")
  tokens_N = documents["tokens"].to_numpy()
  weight_GN = np.reshape(
    [
      table.filter(pc.field("stage") == g)["weight"].to_numpy()
      for g in range(3)
    ],
    (3, len(tokens_N)),
  )
  np.testing.assert_allclose(weight_GN @ tokens_N, tokens_N.sum())
  assert documents["value"].null_count < len(tokens_N)
  told = yaml.safe_load((finished / "export/levanter.yaml").read_text())["data"]
  steps = 30_000 / (ROWS * T)
  assert [begin for begin, _ in told["train_weights"]] == pytest.approx(
    [0, steps / 3, 2 * steps / 3], abs=told["mixture_block_size"] / ROWS / 2
  )
  leaf_N = documents["leaf"].to_numpy()
  for (_, mixture), weight_N in zip(
    told["train_weights"], weight_GN, strict=True
  ):
    share_L = np.bincount(leaf_N, weight_N * tokens_N, 4) / tokens_N.sum()
    wanted = dict(zip(own.names, share_L, strict=True))
    assert mixture == pytest.approx({name: wanted[name] for name in mixture})


def test_losses_and_events_are_told_as_they_come(finished):
  lines = (finished / "metrics.jsonl").read_text().splitlines()
  told = [one for one in map(json.loads, lines) if one["loop"] == "online"]
  for run, events in (
    ("cmtree.arithmetic.0", {4, 8}),
    ("ado.any.0", {0, 3, 6, 9}),
  ):
    steps = [one["step"] for one in told if one["run"] == run]
    assert steps == sorted(set(steps))
    assert steps[-1] == STEPS
    moved = [one["step"] for one in told if one["run"] == f"{run}/events"]
    assert moved
    assert set(moved) <= events


def test_how_the_mixture_moved_is_told(finished):
  for name in ("cmtree.arithmetic", "ado.any"):
    text = (finished / f"online/{name}.md").read_text()
    assert text.count("## From step") >= 1 and "| root:" in text
    assert (finished / f"online/{name}.svg").read_text().startswith("<?xml")


def test_the_model_that_is_saved_is_the_one_that_was_scored(finished):
  """By its own tokenizer and forward pass, on the texts of the file."""
  model = trained.load(run_of(finished, "cmtree"))
  lines = (finished.parent / "arithmetic.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  texts = [row["text"] for row in rows if row["split"] == "test"]
  store = packing.store(
    model.tokenizer.encode_batch(texts),
    [len(text.encode()) for text in texts],
    end_of_text=tokenizer.EOS_ID,
  )
  keys = sampler.document_keys([str(i) for i in range(len(texts))])
  frozen = perplexity.eval_set(
    store, keys, max_tokens=10**6, rows=8, row_tokens=T
  )
  losses = jax.jit(proxy_loss.token_losses(model.proxy))
  nats = sum(
    float(jnp.sum(weight_BT * losses(model.params, Batch(*batch))))
    for *batch, weight_BT in zip(
      *frozen.batches, frozen.weight_CBT, strict=True
    )
  )
  rows = pq.read_table(finished / "results.parquet").to_pylist()
  (scored,) = (
    row["bpb"]
    for row in rows
    if row["method"] == "cmtree" and row["split"] == "test"
  )
  found = perplexity.bits_per_byte(nats, frozen.num_bytes)
  assert found == pytest.approx(scored, rel=1e-5)
  assert model.facts["steps"] == STEPS


def test_a_finished_job_is_not_done_again(finished):
  before = {
    path: path.stat().st_mtime_ns for path in finished.glob("cells/*/*.json")
  }
  folder = finished.parent
  arguments = corpora.arguments(
    "configs/online.py", folder, finished, ["arithmetic"], *SETTINGS
  )
  assert main.main(arguments) == 0
  assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_run_whose_weights_cannot_move_is_told_so(finished, tmp_path, capsys):
  """The one event of these twelve steps only measures."""
  settings = [*SETTINGS, "online.every=3", "baselines="]
  arguments = corpora.arguments(
    "configs/online.py", finished.parent, tmp_path, ["arithmetic"], *settings
  )
  assert main.main(arguments) == 0
  told = " ".join(capsys.readouterr().err.split())
  assert "the weights cannot move. Events lie 6 steps apart" in told
  assert "1 in 12 steps; 0 moved the weights." in told


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (["method=pds"], "pds cannot run online"),
    (["method=doremi"], "reference model"),
    (["method=cmtree", "cmtree.offset=classifier_soft"], "single documents"),
    (["values.target_weights=dro"], "by their own losses"),
    (
      ["online.unroll=7"],
      "must divide config.final.steps = 1200; .* 10, or take 1225 steps",
    ),
    (
      ["final.steps=97", "final.steps_per_call=97"],
      "= 97; set it to 1, or take 776 steps",
    ),
    (["online.probe_rows=7"], "multiple of config.batch.rows"),
  ],
)
def test_what_cannot_run_online_is_refused_before_any_work(settings, words):
  config = load("configs/online.py", ["hypergradient.estimator=difference"])
  with pytest.raises(UserError, match=words):
    changed = load("configs/online.py", settings)
    build.check(variants.config_of(changed.method, changed))
  build.check(variants.config_of("cmtree", config))


def test_a_method_that_cannot_move_a_training_is_told_so():
  config = load("configs/online.py", ["method=crisp"])
  with pytest.raises(UserError, match="crisp is none"):
    plan.check_recipe(config)


def test_rows_of_events_matter_only_to_runs_that_have_events():
  config = load("configs/default.py", ["online.probe_rows=7"])
  build.check(variants.config_of(config.method, config))


def test_every_seed_of_an_online_method_is_a_run_of_its_own():
  config = load("configs/compare.py", ["online.on=true", "compare.seeds=4"])
  with config.unlocked():
    config.compare.methods = ("cmtree", "crisp", "rnb")
    config.compare.search_seeds = 2
  found = plan.of_comparison(config)
  assert found.online == {"cmtree", "rnb"}
  seeds = {
    name: sorted({one.seed for one in found.searches() if one.method == name})
    for name in ("cmtree", "rnb", "crisp")
  }
  assert seeds == {
    "cmtree": [0, 1, 2, 3],
    "rnb": [0, 1, 2, 3],
    "crisp": [0, 1],
  }
  shares = {
    cell.fraction for cell in found.finals({}) if cell.search.method == "cmtree"
  }
  assert shares == {1.0}
