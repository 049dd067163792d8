"""A whole main job whose method earns nothing: what is handed over in its place."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import main
from cmtree_jax.jobs import cells, final, guard, search
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import recipe
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}


class _Scored(list):
  """Sets that models were scored on, in the order in which they were made."""

  at_verdict = 0  # how many of them before the guard was done
  arguments: tuple[str, ...] = ()  # of the job


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, _Scored]:
  """The workdir of a job of the negative control, and what it was scored on."""
  corpus = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(corpus, _TARGETS)
  workdir = tmp_path_factory.mktemp("runs") / "guarded"
  scored, (make_sets, judge) = _Scored(), (final.sets.scored, guard.judge)

  def make_sets_told(documents, *more):
    scored.extend(documents)
    return make_sets(documents, *more)

  def judge_told(*args, **more):
    found = judge(*args, **more)
    scored.at_verdict = len(scored)
    return found

  settings = (
    *("method=worst_mixture", "baselines=", "final.seeds=1"),
    *("final.calls_per_save=3", "export.formats=parquet", "recipe.harden=true"),
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(final.sets, "scored", make_sets_told)
    patch.setattr(guard, "judge", judge_told)
    arguments = corpora.arguments(
      "configs/smoke.py", corpus, workdir, _TARGETS, *corpora.TINY, *settings
    )
    scored.arguments = (*arguments, "--config.data.targets=")
    assert main.main(scored.arguments) == 0
  return workdir, scored


def _read(workdir: pathlib.Path, name: str):
  return json.loads((workdir / name).read_text())


def test_what_it_takes_is_told_before(finished, tmp_path):
  workdir, scored = finished
  told = corpora.estimated([*scored.arguments], tmp_path)
  assert set(told) == {"trials", "final"}  # its searches are for nothing
  (trials,), (last,) = told["trials"], told["final"]
  charged = _read(workdir, "recipe.json")["ledger"]["trial_flops"]
  # One concentration that is another's already is not tried twice.
  assert 0.6 * trials.total <= charged <= trials.total
  rows = pq.read_table(workdir / "results.parquet").to_pylist()
  assert {row["final_flops"] for row in rows} == {last.flops}
  trained = {(row["method"], row["seed"]) for row in rows}
  assert last.times == len(trained)


def test_the_negative_control_is_not_handed_over(finished):
  workdir, _ = finished
  made, summary = (_read(workdir, f"{x}.json") for x in ("recipe", "summary"))
  judged = made["guard"]
  assert judged["asked"]["method"] == "worst_mixture" and judged["fired"]
  assert made["method"] == judged["handed_over"]["method"] != "worst_mixture"
  assert "worst_mixture" in judged["why"] == summary["why"]
  assert summary["handed_over"] == judged["handed_over"]
  rows = {row["name"]: row for row in judged["rows"]}
  assert {"natural", "worst_mixture", "crisp_16"} <= set(rows)
  for row in rows.values():
    assert row["difference"] == pytest.approx(
      row["bpb"] - rows["natural"]["bpb"]
    )
    mean = np.mean(list(row["differences"].values()))
    assert row["difference"] == pytest.approx(mean)
  # What the method's own recipe would have been.
  own = judged["instead_of"]
  assert len(own["partition"]["log_w_leaf"]) == 4
  assert own["nodes"] and own["partition"] != made["partition"]


def test_all_that_is_written_is_of_what_was_handed_over(finished):
  workdir, _ = finished
  made = _read(workdir, "recipe.json")
  handed = made["guard"]["handed_over"]
  folder = cells.Folder(workdir / "cells")
  target_set = "any" if handed["method"] == "natural" else "arithmetic+programs"
  table = pq.read_table(workdir / "documents.parquet").to_pydict()
  weight_N = np.array(table["weight"])
  log_w_L = np.array(made["partition"]["log_w_leaf"])
  np.testing.assert_allclose(
    np.log(weight_N), log_w_L[table["leaf"]], atol=1e-5
  )
  if not handed["kept_share"]:
    search = cells.Search(handed["method"], target_set, 0)
    np.testing.assert_allclose(
      np.log(weight_N), folder.log_w_N(search), atol=1e-5
    )
  exported = pq.read_table(workdir / "export/parquet/weights.parquet")
  assert exported["weight"].to_pylist() == table["weight"]
  loaded = recipe.load(workdir)
  assert loaded.partition is not None
  np.testing.assert_allclose(loaded.partition.log_w_L, log_w_L, atol=1e-6)


def test_the_test_split_is_read_after_the_verdict_alone(finished):
  _, scored = finished
  before, after = scored[: scored.at_verdict], scored[scored.at_verdict :]
  assert before and all(name.endswith(", validation") for name in before)
  assert {"arithmetic, test", "programs, test"} <= set(after)


def test_the_table_has_the_method_natural_and_the_best_free_rival(finished):
  workdir, _ = finished
  rows = pq.read_table(workdir / "results.parquet").to_pylist()
  table = (workdir / "table.md").read_text()
  assert table.startswith("## The guard") and "Handed over is" in table
  assert {row["method"] for row in rows} == {
    *("worst_mixture", "natural", "crisp_16")
  }
  costs = {row["method"]: row["trial_flops"] for row in rows}
  assert costs["natural"] == 0 < costs["worst_mixture"]
  made = _read(workdir, "recipe.json")
  # Natural's trials are a part of the job's cost.
  assert (
    made["ledger"]["trial_flops"] > costs["worst_mixture"] + costs["crisp_16"]
  )
  assert not list((workdir / "cells" / "trial").glob("*.work"))


def test_tokens_are_told_by_target_and_source(finished):
  workdir, _ = finished
  tokens = _read(workdir, "recipe.json")["token_shares"]
  assert [one["name"] for one in tokens["nearest_target"]] == [
    "arithmetic",
    "programs",
  ]
  assert [one["name"] for one in tokens["source"]] == ["code", "latin", "sums"]
  for shares in tokens.values():
    for field in ("natural", "recipe"):
      assert sum(one[field] for one in shares) == pytest.approx(1, abs=2e-3)
  # Equal numbers of documents of every source.
  assert all(0.1 < one["natural"] < 0.6 for one in tokens["source"])


def test_what_a_search_had_on_its_way_is_tried(tmp_path, monkeypatch):
  corpora.write_job_corpus(tmp_path, _TARGETS)
  log_w_N = np.linspace(-1, 1, 120)
  log_w_N -= np.log(np.exp(log_w_N).mean())
  last, first = DocumentWeights(log_w_N), DocumentWeights(-log_w_N)
  run = search.look.run

  def looked(*given, **more):
    found = run(*given, **more)
    candidates = (("start", first), ("round 1", last))
    return found._replace(weights=last, candidates=candidates)

  monkeypatch.setattr(search.look, "run", looked)
  settings = (
    *("method=perplexity", "baselines=", "final.seeds=1", "guard.rivals="),
    *("data.targets=", "trial.exponents="),
  )
  workdir = tmp_path / "run"
  arguments = corpora.arguments(
    "configs/smoke.py", tmp_path, workdir, _TARGETS, *corpora.TINY, *settings
  )
  assert main.main(arguments) == 0
  names = {path.stem for path in (workdir / "cells" / "trial").glob("*.json")}
  searched = "perplexity.any.0"
  # The round that ended as the last one is not tried twice.
  assert names == {
    f"{name}.t{seed}"
    for name in (searched, f"{searched}.start", "natural.any.0")
    for seed in range(3)
  }
  folder = cells.Folder(workdir / "cells")
  cell = cells.Search("perplexity", cells.ANY, 0)
  np.testing.assert_allclose(
    folder.log_w_N(cell, "start"), -folder.log_w_N(cell)
  )


def test_the_kept_share_is_told_with_the_compute_that_found_it(finished):
  workdir, _ = finished
  found = _read(workdir, "recipe.json")["concentration"]
  handed = _read(workdir, "summary.json")["handed_over"]
  assert found["share"] == handed["effective_sample_size"]
  # Trials and budget have models of one size, so compute is as the tokens; the
  # budget is one epoch.
  table = pq.read_table(workdir / "documents.parquet")
  ratio = sum(table["tokens"].to_pylist()) / (12 * 4 * 16)
  assert found["budget_compute"] / found["compute"] == pytest.approx(ratio)
