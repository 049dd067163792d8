"""The whole job on a tiny corpus: results, resuming, and whose they are."""

import collections
import html
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import budget, main
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import INTERRUPTED
from cmtree_jax.recipe import export, recipe
from cmtree_jax.report import __main__ as report
from cmtree_jax.report import describe, figures
from cmtree_jax.types import UserError
from tests import corpora

_TARGETS = {"arithmetic": "sums"}
_TINY = """
values.rounds=3 values.population=4 values.max_age=24 values.min_age=4
values.steps_between_rounds=4
values.lookahead=4 values.outer_rows=8 values.probe_rows=8
values.validation_rows=8 final.calls_per_save=1 final.seeds=2
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.step.solver_steps=5
cmtree.replay.size=256 guard.on=false
""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """A folder with pool.jsonl (three sources) and arithmetic.jsonl (a target)."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> pathlib.Path:
  """The workdir of a job that ran to its end in one go."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  assert main.main(_arguments(corpus, workdir)) == 0
  return workdir


def _read(folder: pathlib.Path, name: str):
  return json.loads((folder / name).read_text())


def _budget(folder: pathlib.Path) -> budget.Budget:
  return budget.from_json(_read(folder, "recipe.json")["budget"])


def test_the_budget_is_in_all_that_is_handed_over(finished):
  found = _read(finished, "recipe.json")
  assert found["format"] == recipe.FORMAT
  assert found["budget"] == _read(finished, "summary.json")["budget"]
  one = _budget(finished)
  assert one == recipe.load(finished).budget
  assert one.pool_tokens == one.tokens == found_tokens(finished).sum()
  assert one.max_epochs == 4
  weight_N = pq.read_table(finished / "documents.parquet")["weight"].to_numpy()
  assert weight_N.max() <= 4 * (1 + 1e-9)


def found_tokens(folder: pathlib.Path) -> np.ndarray:
  return pq.read_table(folder / "documents.parquet")["tokens"].to_numpy()


def test_comparison_has_a_row_for_every_recipe(finished):
  rows = json.loads((finished / "comparison.json").read_text())
  assert [row["recipe"] for row in rows] == [
    "cmtree",
    "natural",
    "crisp_64",
  ]
  natural = rows[1]
  for row in rows:
    assert row["target"] == "arithmetic"
    assert row["train_tokens"] == 12 * 4 * 16
    assert row["bpb_mean"] == pytest.approx(np.mean(row["bpb"]))
    difference = np.subtract(row["bpb"], natural["bpb"])
    assert row["difference_to_natural"] == pytest.approx(difference.mean())
    assert row["ci_low"] <= row["difference_to_natural"] <= row["ci_high"]
    assert 0 < row["effective_sample_size"] <= 1 + 1e-6
  assert natural["search_tokens"] == natural["search_flops_share"] == 0
  assert rows[0]["search_tokens"] > 0


def test_summary_names_what_was_run(finished):
  summary = json.loads((finished / "summary.json").read_text())
  assert summary["documents"] == 120
  assert summary["peak_rss_bytes"] > 2**26
  for name in ("leaves", "partition"):
    assert 0 <= summary["nmi_source"][name] <= 1
  for name in ("config_digest", "corpus_digest"):
    assert len(summary[name]) >= 16


def test_weights_average_to_one_over_the_corpus_s_tokens(finished):
  table = pq.read_table(finished / "documents.parquet").to_pydict()
  mass = np.array(table["tokens"]) / np.sum(table["tokens"])
  assert mass @ np.array(table["weight"]) == pytest.approx(1, abs=1e-5)
  assert any(value is not None for value in table["value"])


def test_a_loaded_recipe_gives_the_documents_their_weights(finished, corpus):
  table = pq.read_table(finished / "documents.parquet").to_pydict()
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  texts = {r["id"]: r["text"] for r in map(json.loads, lines)}
  applied = recipe.load(finished).apply(
    [texts[i] for i in table["document_id"]]
  )
  np.testing.assert_allclose(applied.weight_N, table["weight"], rtol=1e-4)
  assert applied.path_N == table["path"]


def test_a_recipe_is_applied_to_another_corpus(
  finished, corpus, tmp_path, capsys
):
  pytest.importorskip("apache_beam")
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  other = tmp_path / "other.jsonl"
  other.write_text("\n".join([*lines[20:], "{", lines[-1]]))
  tables = []
  for name in ("local", "beam"):
    workdir = tmp_path / name
    status = main.main(
      _arguments(
        corpus,
        workdir,
        f"recipe.apply={finished}",
        f"data.source=jsonl:{other}",
        "data.shard_documents=20",
        f"workers.name={name}",
        f"cache_dir={tmp_path / 'cache' / name}",
        "export.formats=jsonl,parquet,levanter",
        "export.tokens=20000",
      )
    )
    assert status == 0
    told = capsys.readouterr().err
    assert "Skipped 1 document, invalid JSON" in told
    assert f"Recipe of {finished}. {_budget(finished).text()}" in told
    assert "Export for 20,000 tokens, " in told
    for name in ("tokenizer.bin", "embedder.npz"):  # trainers read the first
      assert (workdir / name).read_bytes() == (finished / name).read_bytes()
    lines = sorted((workdir / "export" / "jsonl").iterdir())
    tables.append(
      [p.read_bytes() for p in (workdir / "documents.parquet", *lines)]
    )
    manifest = json.loads((workdir / "export" / "manifest.json").read_text())
    assert set(manifest["inputs"]["formats"]) == {
      "jsonl",
      "parquet",
      "levanter",
    }
    assert manifest["budget"]["tokens"] == 20_000
    assert manifest["budget"]["pool_tokens"] == found_tokens(workdir).sum()
    facts = manifest["inputs"]["facts"]
    assert budget.from_json(facts["learned_for"]) == _budget(finished)
    recipe = json.loads((finished / "recipe.json").read_text())
    assert facts["method"] == recipe["method"]
  assert tables[0] == tables[-1]
  found = pq.read_table(tmp_path / "local" / "documents.parquet").to_pydict()
  known = pq.read_table(finished / "documents.parquet").to_pydict()
  weight = dict(zip(known["document_id"], known["weight"], strict=True))
  assert len(found["document_id"]) == 100
  # Of mean one over the corpus that it is applied to, and otherwise the same.
  weight_N = np.array(found["weight"])
  tokens_N = np.array(found["tokens"])
  assert tokens_N @ weight_N / tokens_N.sum() == pytest.approx(1)
  ratio_N = weight_N / [weight[i] for i in found["document_id"]]
  assert weight_N.max() < 4  # no cap
  np.testing.assert_allclose(ratio_N, ratio_N[0], rtol=1e-4)


def test_an_applied_recipe_is_capped_for_its_own_budgets(
  finished, corpus, tmp_path, capsys
):
  """That of the job for documents.parquet, that of the export for the export."""
  pool = found_tokens(finished).sum()
  known_N = pq.read_table(finished / "documents.parquet")["weight"].to_numpy()
  settings = (
    *(f"recipe.apply={finished}", "budget.epochs=2.0"),
    *("export.formats=parquet", f"export.tokens={3 * pool}"),
  )
  assert main.main(_arguments(corpus, tmp_path / "run", *settings)) == 0
  told = capsys.readouterr().err
  assert "2 epochs of a pool of" in told
  assert "documents.parquet: " in told
  tables = [
    pq.read_table(tmp_path / "run" / name)
    for name in ("documents.parquet", "export/parquet/weights.parquet")
  ]
  mass_N = found_tokens(finished) / pool
  for table, cap in zip(tables, (2.0, 4 / 3), strict=True):
    wanted_N = budget.capped(known_N, mass_N, max_weight=cap)
    assert known_N.max() > cap
    np.testing.assert_allclose(table["weight"], wanted_N, rtol=1e-5)
  assert max(tables[1]["repeats"].to_pylist()) == 4
  manifest = _read(tmp_path / "run" / "export", "manifest.json")
  assert manifest["cap"]["max_weight"] == pytest.approx(4 / 3)
  moved = mass_N @ np.maximum(wanted_N - known_N, 0)
  assert manifest["cap"]["moved"] == pytest.approx(moved, rel=1e-4)
  assert f"{moved:.2%} of the training tokens" in told


@pytest.mark.parametrize(
  "setting",
  [
    ("recipe.apply={}",),
    ("method=crisp", "partition.kind=tree:{}"),
    ("baselines=olmix", "olmix.reuse={}"),
  ],
)
@pytest.mark.parametrize("earlier", [None, 2])
def test_a_recipe_of_an_earlier_version_is_refused(
  finished, corpus, tmp_path, capsys, setting, earlier
):
  old = tmp_path / "old"
  shutil.copytree(finished, old)
  written = _read(old, "recipe.json")
  written["format"] = earlier
  del written["digest"], written["files"]
  (old / "recipe.json").write_text(json.dumps(written))
  settings = [one.format(old) for one in setting]
  status = main.main(_arguments(corpus, tmp_path / "new", *settings))
  words = [
    f"{old}/recipe.json",
    f"wanted format {recipe.FORMAT}",
    "--config CONFIG --workdir NEW",
  ]
  corpora.assert_one_line(status, 2, words, capsys)


def test_mixtures_are_keyed_by_name_and_sum_to_one(finished):
  made = json.loads((finished / "recipe.json").read_text())
  paths = {node["path"] for node in made["nodes"]}
  assert {"", "0", "1"} <= paths
  for shares in made["mixtures"].values():
    assert sum(shares.values()) == pytest.approx(1)
  root = made["nodes"][0]
  assert root["mass"] == pytest.approx(1, abs=1e-5)
  assert root["weight"] == pytest.approx(1, abs=1e-4)


_VARIANT = """
from configs import smoke


def get_config():
  config = smoke.get_config()
  config.variants.halves = ("crisp", "partition.num_clusters=2")
  return config
"""


def test_a_recipe_may_be_of_a_variant_and_a_target_only_tested(
  corpus, tmp_path
):
  (tmp_path / "own.py").write_text(_VARIANT)
  exam = tmp_path / "exam.jsonl"
  corpora.write(
    exam, [{"text": f"{i} + 1 = {i + 1}", "split": "test"} for i in range(9)]
  )
  workdir = tmp_path / "run"
  files = f"{corpus / 'arithmetic.jsonl'},{exam}"
  settings = (f"data.target_files={files}", "method=halves", "baselines=crisp")
  arguments = corpora.arguments(
    str(tmp_path / "own.py"), corpus, workdir, _TARGETS, *_TINY, *settings
  )
  assert main.main(arguments) == 0
  rows = json.loads((workdir / "comparison.json").read_text())
  assert [(row["recipe"], row["target"]) for row in rows] == [
    (recipe_name, target)
    for recipe_name in ("halves", "natural", "crisp")
    for target in ("arithmetic", "exam", "mean")
  ]
  made = json.loads((workdir / "recipe.json").read_text())
  assert made["method"] == "halves"
  assert len(made["partition"]["log_w_leaf"]) == 2
  crisp = workdir / "cells" / "search" / "crisp.arithmetic+exam.0.json"
  found = json.loads(crisp.read_text())
  assert len(dict(found["partitions"])[""]["log_w_leaf"]) == 4
  # The same comparison as a table; what is only tested chooses nothing.
  table = (workdir / "table.md").read_text()
  assert "## arithmetic+exam, mean" in table
  *_, exam_alone = table.split("## arithmetic+exam, on ")
  assert exam_alone.startswith("exam")
  assert "Best on the validation split" not in exam_alone


@pytest.fixture(scope="module")
def of_documents(corpus, tmp_path_factory) -> pathlib.Path:
  """The workdir of a job whose method weighs single documents."""
  workdir = tmp_path_factory.mktemp("documents") / "run"
  settings = (
    *("method=random_documents", "baselines=", "final.seeds=1"),
    *("export.formats=parquet,jsonl,leaves", "export.tokens=20000"),
  )
  assert main.main(_arguments(corpus, workdir, *settings)) == 0
  return workdir


def test_weights_of_documents_are_handed_over_without_leaves(of_documents):
  table = pq.read_table(of_documents / "documents.parquet").to_pydict()
  assert set(table["leaf"]) == set(table["path"]) == {None}
  mass = np.array(table["tokens"]) / np.sum(table["tokens"])
  weight = np.array(table["weight"])
  assert mass @ weight == pytest.approx(1, abs=1e-5)
  assert len(set(weight.round(5))) == 2  # in the subset or not
  made = json.loads((of_documents / "recipe.json").read_text())
  assert made["partition"] == {"kind": "documents"}
  assert made["nodes"] == [] and made["mixtures"] == {}
  heaviest = made["favored"]["heaviest"][0]
  assert heaviest["weight"] == pytest.approx(weight.max())
  kept = mass[weight > 1].sum()
  assert made["favored"]["mass"] == pytest.approx(kept)
  summary = json.loads((of_documents / "summary.json").read_text())
  assert list(summary["nmi_source"]) == ["partition"]


def test_what_is_not_kept_of_single_documents_is_told(of_documents, finished):
  table = pq.read_table(of_documents / "documents.parquet").to_pydict()
  weight = dict(zip(table["document_id"], table["weight"], strict=True))
  lost = pq.read_table(of_documents / "selection.parquet").to_pydict()
  assert set(lost["document_id"]) == {n for n, w in weight.items() if w < 0.999}
  assert all(one.startswith("random number") for one in lost["reason"])
  told = _read(of_documents, "summary.json")["selection"]
  assert told == _read(of_documents, "recipe.json")["selection"]
  assert sum(told["all"]["documents"].values()) == len(weight)
  assert (of_documents / "selection.html").exists()
  assert not (finished / "selection.html").exists()  # it has leaves


def test_exports_keep_the_weight_of_every_document(of_documents):
  export = of_documents / "export"
  table = pq.read_table(of_documents / "documents.parquet").to_pydict()
  found = pq.read_table(export / "parquet" / "weights.parquet").to_pydict()
  assert found["weight"] == table["weight"]
  assert set(found["leaf"]) == {"all"}
  repeats = np.array(found["repeats"])
  assert (repeats[np.array(table["weight"]) < 1e-3] == 0).all()
  tokens = repeats @ np.array(found["tokens"])
  assert tokens == pytest.approx(20000, rel=0.1)
  assert (export / "leaves" / "all" / "part-00000.jsonl.zst").exists()


def test_weights_of_documents_are_for_these_documents_alone(
  of_documents, corpus, tmp_path, capsys
):
  with pytest.raises(
    UserError, match=r"single documents.*as words explain.*documents\.parquet"
  ):
    recipe.load(of_documents).apply(["1 + 1 = 2"])
  damaged = shutil.copytree(of_documents, tmp_path / "damaged")
  table = damaged / "documents.parquet"
  table.write_bytes(table.read_bytes()[:-9] + b"PAR1 PAR1")
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  known = pq.read_table(of_documents / "documents.parquet").to_pydict()
  weight = dict(zip(known["document_id"], known["weight"], strict=True))
  other = tmp_path / "other.jsonl"
  settings = (f"recipe.apply={of_documents}", f"data.source=jsonl:{other}")
  other.write_text("\n".join(lines[:30:-1]))  # a part, in another order
  workdir = tmp_path / "applied"
  assert main.main(_arguments(corpus, workdir, *settings)) == 0
  found = pq.read_table(workdir / "documents.parquet").to_pydict()
  assert len(found["document_id"]) == len(lines) - 31
  ratio_N = found["weight"] / np.array(
    [weight[i] for i in found["document_id"]]
  )
  np.testing.assert_allclose(ratio_N, ratio_N[0], rtol=1e-12)
  settings = (f"recipe.apply={damaged}", f"data.source=jsonl:{other}")
  status = main.main(_arguments(corpus, tmp_path / "refused", *settings))
  corpora.assert_one_line(status, 2, [str(table), "the bytes"], capsys)
  settings = (f"recipe.apply={of_documents}", f"data.source=jsonl:{other}")
  other.write_text(
    "\n".join([*lines, json.dumps({"id": "new", "text": "x y"})])
  )
  status = main.main(_arguments(corpus, tmp_path / "grown", *settings))
  words = ["1 of these 121 are none of them", "'new'", str(of_documents)]
  corpora.assert_one_line(status, 2, words, capsys)
  first = json.loads(lines[0])
  moved = {**first, "text": " ".join(reversed(first["text"].split()))}
  other.write_text("\n".join([json.dumps(moved), *lines[1:]]))
  status = main.main(_arguments(corpus, tmp_path / "moved", *settings))
  words = ["1 of these 120 have other texts", repr(first["id"])]
  corpora.assert_one_line(status, 2, words, capsys)
  settings = ("recipe.apply=" + str(of_documents), "export.formats=olmo")
  status = main.main(_arguments(corpus, tmp_path / "olmo", *settings))
  corpora.assert_one_line(status, 2, ["'olmo' mixes leaves"], capsys)
  tree = f"partition.kind=tree:{of_documents}"
  status = main.main(
    _arguments(corpus, tmp_path / "tree", "method=crisp", tree)
  )
  corpora.assert_one_line(status, 2, ["has no leaves"], capsys)


def test_new_documents_are_weighed_by_their_words(corpus, tmp_path, capsys):
  workdir = tmp_path / "made"
  settings = (
    *("method=classifier", "classifier.kind=soft", "guard.on=false"),
    *("baselines=", "final.seeds=1"),
  )
  assert main.main(_arguments(corpus, workdir, *settings)) == 0
  assert "new documents are weighed by them" in capsys.readouterr().err
  made = recipe.load(workdir)
  sums, latin = made.apply(["1 + 1 = 2; 3 + 4 = 7;", "lorem dolor"]).weight_N
  assert sums > latin  # the target is of sums
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  new = {"1": "2 + 3 = 5; 8 + 0 = 8; 1 + 7 = 8;", "2": "sit amet do elit sed"}
  grown = tmp_path / "grown.jsonl"
  grown.write_text(
    "\n".join(
      [
        *lines[20:],
        *(json.dumps({"id": n, "text": text}) for n, text in new.items()),
      ]
    )
  )
  settings = (
    *(f"recipe.apply={workdir}", f"data.source=jsonl:{grown}"),
    "budget.max_epochs=100",
  )
  assert main.main(_arguments(corpus, tmp_path / "applied", *settings)) == 0
  assert "2 of 102 documents are new to the recipe" in capsys.readouterr().err
  before, after = (
    dict(zip(one["document_id"], one["weight"], strict=True))
    for one in (
      pq.read_table(folder / "documents.parquet").to_pydict()
      for folder in (workdir, tmp_path / "applied")
    )
  )
  known = [name for name in after if name in before]
  scale = after[known[0]] / before[known[0]]
  for name in known:
    assert after[name] == pytest.approx(scale * before[name])
  wanted = scale * made.apply(list(new.values())).weight_N
  assert [after[name] for name in new] == pytest.approx(wanted)
  path = workdir / "scorer.npz"
  path.write_bytes(path.read_bytes()[:-9] + b"123456789")
  status = main.main(_arguments(corpus, tmp_path / "damaged", *settings))
  corpora.assert_one_line(status, 2, [str(path), "the bytes"], capsys)


@pytest.mark.slow
def test_a_job_on_eight_devices_finds_the_same(finished, corpus, tmp_path):
  sizes = ("mesh.population=2", "mesh.data=2", "mesh.model=2")
  assert main.main(_arguments(corpus, tmp_path, *sizes)) == 0
  alone, divided = (
    {
      row["recipe"]: np.mean(row["bpb"])
      for row in json.loads((folder / "comparison.json").read_text())
    }
    for folder in (finished, tmp_path)
  )
  # Float32 through twelve steps; a search amplifies rounding by its choices.
  for name in ("natural", "crisp_64"):
    np.testing.assert_allclose(divided[name], alone[name], rtol=1e-4)
  np.testing.assert_allclose(divided["cmtree"], alone["cmtree"], rtol=0.02)


@pytest.mark.slow
def test_a_killed_job_ends_with_the_same_bytes(finished, corpus, tmp_path):
  workdir = tmp_path / "killed"
  cells = workdir / "cells"
  job = _start(corpus, workdir)
  running = cells / "search" / "cmtree.arithmetic.0.work" / "search"
  corpora.wait_for(job, running / "2")
  job.send_signal(signal.SIGTERM)
  assert job.wait(timeout=60) == INTERRUPTED
  job = _start(corpus, workdir)
  running = cells / "final" / "natural.any.0.x1.work" / "final"
  corpora.wait_for(job, running / "8")
  job.kill()
  job.wait()
  # The rest, and so the whole job, works without TensorFlow.
  trap = tmp_path / "tensorflow.py"
  trap.write_text("raise RuntimeError('TensorFlow was imported')")
  job = _start(corpus, workdir, tmp_path)
  assert job.wait(timeout=120) == 0
  for name in ("recipe.json", "comparison.json", "documents.parquet"):
    assert (workdir / name).read_bytes() == (finished / name).read_bytes()
  lines = {one: _metrics(one) for one in (workdir, finished)}
  assert lines[workdir] == lines[finished]


def _metrics(workdir: pathlib.Path) -> list[str]:
  """Its lines; trainings side by side write them in no order."""
  return sorted((workdir / "metrics.jsonl").read_text().splitlines())


def test_every_loop_of_a_job_tells_what_it_measures(finished):
  told = list(map(json.loads, _metrics(finished)))
  steps = collections.defaultdict(list)
  for one in told:
    steps[one["loop"], one["run"].split(".")[0]].append(one["step"])
  assert sorted(steps["search", "cmtree"]) == [1, 2, 3]
  assert sorted(steps["final", "natural"]) == sorted([4, 8, 12] * 2)
  assert {loop for loop, _ in steps} == {"search", "final"}
  for one in told:
    if one["loop"] == "search":
      assert {"outer_loss", "gain", "loss.arithmetic", "flops"} <= set(one)
    else:
      assert one["loss"] > 0
  names = {path.name for path in (finished / "tensorboard").iterdir()}
  assert any(name.startswith("events.") for name in names)


def test_a_workdir_of_another_run_is_refused(finished, corpus, capsys):
  status = main.main(_arguments(corpus, finished, "seed=1"))
  words = ["seed was 0, now 1", "--overwrite", "another --workdir"]
  corpora.assert_one_line(status, 2, words, capsys)
  assert (finished / "recipe.json").exists()


@pytest.mark.parametrize("setting", ["recipe.apply=", "partition.kind=tree:"])
def test_a_recipe_that_is_read_is_not_overwritten(
  finished, corpus, capsys, setting
):
  arguments = _arguments(corpus, finished, f"{setting}{finished}")
  status = main.main([*arguments, "--overwrite"])
  words = [setting.partition("=")[0], "would remove", "--workdir"]
  corpora.assert_one_line(status, 2, words, capsys)
  assert (finished / "recipe.json").exists()


def test_a_job_that_ended_is_exported_and_keeps_what_it_cannot_describe(
  finished, corpus, tmp_path, monkeypatch, capsys
):
  """The recipe is there before exports find no room, and whatever is only told."""

  def fail(*_):
    raise ZeroDivisionError("a flaw")

  run = tmp_path / "run"
  shutil.copytree(finished, run)
  (run / "recipe.json").unlink()
  monkeypatch.setattr(describe, "describe", fail)
  monkeypatch.setattr(figures, "draw", fail)
  monkeypatch.setattr(export, "write", fail)
  settings = ["export.formats=levanter", "data.strict=true"]
  with pytest.raises(ZeroDivisionError):
    main.main(_arguments(corpus, run, *settings))
  told = capsys.readouterr().err
  for what in ("description of the recipe", "comparison.svg"):
    assert f"No {what}: ZeroDivisionError: a flaw." in told
  monkeypatch.undo()
  one, other = (recipe.load(folder) for folder in (run, finished))
  assert one.data["nodes"] == [] != other.data["nodes"]
  assert one.data["partition"] == other.data["partition"]
  name = "documents.parquet"
  assert (run / name).read_bytes() == (finished / name).read_bytes()
  monkeypatch.setattr(describe, "describe", fail)
  assert main.main(_arguments(corpus, run, *settings)) == 0
  assert export.verify(run / "export") == []


def test_a_run_does_not_go_on_with_another_corpus(finished, corpus, capsys):
  pool = corpus / "pool.jsonl"
  before, times = pool.read_bytes(), pool.stat()
  try:
    pool.write_bytes(before + b'{"text": "one more"}\n')
    status = main.main(_arguments(corpus, finished))
  finally:
    pool.write_bytes(before)
    os.utime(pool, ns=(times.st_atime_ns, times.st_mtime_ns))
  words = ["another corpus", "hash", "--overwrite", "another --workdir"]
  corpora.assert_one_line(status, 2, words, capsys)


def test_a_report_is_made_again_from_files_alone(finished, tmp_path):
  pytest.importorskip("plotly")
  page = (finished / "report.html").read_text()
  assert "<title>cmtree: a recipe for arithmetic</title>" in page
  assert page.count('class="node"') == 7  # of the tree, the root among them
  again = tmp_path / "again.html"
  assert report.main([str(finished), "--output", str(again)]) == 0
  assert again.read_text() == page


def test_the_report_tells_a_command_that_exports(finished, corpus, tmp_path):
  pytest.importorskip("plotly")
  page = (finished / "report.html").read_text()
  told = html.unescape(page.split("<code>")[1].partition("</code>")[0])
  assert told.startswith("python -m cmtree_jax.main")
  flags = shlex.split(told.replace("\\\n", " "))[3:]
  flags[flags.index("runs/exported")] = str(tmp_path)
  assert main.main([*flags, f"--config.cache_dir={corpus / 'cache'}"]) == 0
  assert (tmp_path / "export/levanter.yaml").is_file()
  assert "recipe on another corpus" in (tmp_path / "report.html").read_text()


def test_overwrite_knows_every_file_of_a_run(finished):
  names = {path.name for path in finished.iterdir()}
  assert names - set(workdirs.WRITTEN) == {"config.json", workdirs.MARKER_FILE}


def _arguments(corpus, workdir, *overrides: str) -> list[str]:
  return corpora.arguments(
    "configs/smoke.py", corpus, workdir, _TARGETS, *_TINY, *overrides
  )


def _start(corpus, workdir, *path) -> subprocess.Popen[bytes]:
  return corpora.start("cmtree_jax.main", _arguments(corpus, workdir), *path)
