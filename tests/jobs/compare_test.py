"""A whole comparison on a tiny corpus: results, resuming, and what it refuses."""

import collections
import json
import math
import pathlib
import signal
import subprocess
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import compare as command
from cmtree_jax import main
from cmtree_jax.config import load
from cmtree_jax.evaluate import concentration
from cmtree_jax.evaluate.results import standings
from cmtree_jax.jobs import cells, compare
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.jobs.job import INTERRUPTED, Job
from cmtree_jax.loops import final
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}
_SETS = ("arithmetic", "programs", "arithmetic+programs")

# Final trainings have the shapes of run_test.py: compiled programs are shared.
_TINY = """
final.calls_per_save=3
compare.methods=natural,crisp,uniform_clusters
compare.targets=arithmetic,programs,arithmetic+programs
compare.seeds=2 compare.fractions=0.3333333333333333,1.0
compare.natural_multiples=2.0 compare.noise_repeats=1 trial.exponents=0.2,
""".split()
_FRACTIONS = (1 / 3, 1.0)
_SHARE = round(4**-0.2, 3)  # of one epoch, at most four looks
_NATURAL = """compare.methods=natural compare.targets=arithmetic
compare.fractions=1.0 compare.natural_multiples= compare.noise_repeats=0
""".split()  # no more than two full trainings


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """A folder with pool.jsonl (three sources) and two targets."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory) -> pathlib.Path:
  """The workdir of a comparison that ran to its end in one go."""
  workdir = tmp_path_factory.mktemp("runs") / "whole"
  assert command.main(_arguments(corpus, workdir)) == 0
  return workdir


def test_there_is_a_row_for_every_training_and_scored_split(finished):
  rows = _rows(finished)
  found = collections.Counter(
    (r["method"], r["target_set"], r["target"], r["split"], r["seed"])
    for r in rows
    if r["fraction"] in _FRACTIONS and r["seed"] < 2
  )
  assert found == {
    (method, target_set, target, split, seed): len(_FRACTIONS)
    for method in ("natural", "crisp", "uniform_clusters")
    for target_set in _SETS
    for target in target_set.split("+")
    for split in ("validation", "test")
    for seed in range(2)
  }
  more = {
    (r["method"], r["fraction"], r["seed"])
    for r in rows
    if r["fraction"] not in _FRACTIONS or r["seed"] >= 2
  }
  assert more == {
    ("natural", 2.0, 0),
    ("natural", 2.0, 1),
    ("natural", 1.0, 2),
  }
  for row in rows:
    assert row["tokens"] == round(row["fraction"] * 12) * 4 * 16
    assert row["final_flops"] / row["tokens"] == pytest.approx(
      rows[0]["final_flops"] / rows[0]["tokens"]
    )
    assert 0 < row["bpb"] < 20
    assert 0 < row["effective_sample_size"] <= 1 + 1e-6
    assert row["search_tokens"] >= 0
    assert len(row["config_digest"]) >= 16 <= len(row["corpus_digest"])


def test_what_it_takes_is_told_before(finished, corpus, tmp_path):
  told = corpora.estimated(
    _arguments(corpus, tmp_path), tmp_path, compares=True
  )
  assert set(told) == {"trials", "final"}  # its searches are for nothing

  def charged(kind, name):
    files = (finished / "cells" / kind).glob("*.json")
    return [json.loads(one.read_text())[name] for one in files]

  finals = charged("final", "final_flops")
  assert sum(one.times for one in told["final"]) == len(finals)
  total = sum(one.total for one in told["final"])
  assert total == pytest.approx(sum(finals), rel=1e-9)
  (trials,), took = told["trials"], sum(charged("trial", "flops"))
  assert 0.6 * trials.total <= took <= trials.total


def test_every_method_is_trained_at_its_own_best_concentration(finished):
  folder = cells.Folder(finished / "cells")
  rows = _rows(finished)
  trained = {path.stem for path in (finished / "cells/final").glob("*.json")}
  tried = {path.stem for path in (finished / "cells/trial").glob("*.json")}
  assert not any(name.startswith("natural") for name in tried)
  for target_set in _SETS:
    names = target_set.split("+")
    bpb = {}
    for share in (0.0, _SHARE):
      trials = [
        cells.Trial(
          cells.Search("crisp", target_set, seed % 2),
          seed,
          cells.Version(share=share),
        )
        for seed in range(3)
      ]
      assert {trial.name for trial in trials} <= tried
      facts = [folder.scored(trial, names) or {} for trial in trials]
      key = share or facts[0]["effective_sample_size"]
      bpb[key] = [np.mean([one["bpb"][n] for n in names]) for one in facts]
    best = concentration.best(bpb)
    kept = best if best == _SHARE else 0.0
    end = f".ess{kept:g}" if kept else ""
    assert {f"crisp.{target_set}.{s}.x1{end}" for s in (0, 1)} <= trained
    of_set = [
      row
      for row in rows
      if (row["method"], row["target_set"]) == ("crisp", target_set)
    ]
    assert {row["kept_share"] for row in of_set} == {kept}
    assert {row["search_seed"] for row in of_set} == {0, 1}
    assert all(row["trial_flops"] > 0 for row in of_set)
    if kept:
      share = pytest.approx(_SHARE, rel=1e-3)
      assert all(row["effective_sample_size"] == share for row in of_set)
  natural = [row for row in rows if row["method"] == "natural"]
  assert {row["trial_flops"] for row in natural} == {0}


def test_an_untargeted_recipe_is_trained_once_for_all_targets(finished):
  trained = {p.stem for p in (finished / "cells" / "final").glob("*.json")}
  assert len([name for name in trained if name.startswith("natural.")]) == 7
  assert "natural.any.0.x1" in trained
  for name in _SETS:
    assert any(one.startswith(f"crisp.{name}.0.x1") for one in trained)
  # Its scores stand in every set.
  values = collections.defaultdict(set)
  for row in _rows(finished):
    if row["method"] == "natural":
      place = ("target", "split", "seed", "fraction")
      values[tuple(row[name] for name in place)].add(row["bpb"])
  assert all(len(one) == 1 for one in values.values())


def test_runs_of_a_seed_are_paired_and_seeds_differ(finished, corpus, tmp_path):
  # Uniform over one cluster is natural under another name.
  workdir = tmp_path / "same"
  settings = ("partition.num_clusters=1", "compare.methods=uniform_clusters")
  assert command.main(_arguments(corpus, workdir, *_NATURAL, *settings)) == 0
  bpb = {
    method: _test_bpb(workdir, method)
    for method in ("natural", "uniform_clusters")
  }
  np.testing.assert_allclose(bpb["uniform_clusters"], bpb["natural"], rtol=1e-5)
  assert abs(bpb["natural"][0] - bpb["natural"][1]) > 1e-4
  # What else is compared does not matter to a cell.
  assert _test_bpb(finished, "natural")[:2] == bpb["natural"]


def test_a_cell_is_the_run_of_its_seed_in_any_job(corpus, tmp_path):
  # The main job trains seeds in a row, a comparison each on its own.
  assert main.main(_main_arguments(corpus, tmp_path / "main")) == 0
  rows = json.loads((tmp_path / "main" / "comparison.json").read_text())
  assert command.main(_arguments(corpus, tmp_path / "cells", *_NATURAL)) == 0
  found = {row["target"]: row["bpb"] for row in rows}
  assert found["arithmetic"] == _test_bpb(tmp_path / "cells", "natural")[:2]


def test_seeds_draw_other_documents(corpus, tmp_path, monkeypatch):
  # Also where the parameters at the start are the same.
  monkeypatch.setattr(final, "start_key", lambda seed: jax.random.key(7))
  assert command.main(_arguments(corpus, tmp_path, *_NATURAL)) == 0
  first, second = _test_bpb(tmp_path, "natural")
  assert abs(first - second) > 1e-4


def test_answers_are_scored_beside_texts(finished, corpus, tmp_path):
  files = _exam(tmp_path), corpus / "arithmetic.jsonl"
  settings = [
    f"data.target_files={files[0]},{files[1]}",
    "compare.targets=arithmetic,exam",
  ]
  workdir = tmp_path / "cells"
  arguments = _arguments(corpus, workdir, *_NATURAL, *settings)
  assert command.main(arguments) == 0
  rows = _rows(workdir)
  # A target without answers does not notice.
  assert _test_bpb(workdir, "natural") == _test_bpb(finished, "natural")[:2]
  for row in rows:
    if row["target"] == "arithmetic":
      assert math.isnan(row["accuracy"])
    else:
      # Six questions of three rows of 16 tokens each are within the limit of 300.
      assert 0 <= row["accuracy"] <= 1
      assert row["accuracy"] * 6 == pytest.approx(round(row["accuracy"] * 6))
      assert 0 < row["bpb"] < 20
  table = (workdir / "table.md").read_text().split("## ")
  assert "| BPB | − natural |" in table[1]
  assert "| BPB | acc. | − natural |" in table[2]
  # The main job scores the same.
  assert (
    main.main(
      [*_main_arguments(corpus, tmp_path / "main"), f"--config.{settings[0]}"]
    )
    == 0
  )
  (found,) = [
    row["bpb"]
    for row in json.loads((tmp_path / "main" / "comparison.json").read_text())
    if row["target"] == "exam"
  ]
  assert found == [
    row["bpb"]
    for row in rows
    if (row["target"], row["split"]) == ("exam", "test")
  ]


def _exam(folder: pathlib.Path) -> pathlib.Path:
  """A target of questions with three choices."""
  path = folder / "exam.jsonl"
  corpora.write(
    path,
    [
      {
        "question": f"{i} + {i} = ?",
        "choices": [f"{i + i + more}" for more in range(3)],
        "answer": 0,
        "split": split,
      }
      for i, split in enumerate(("train", "validation", "test") * 6)
    ],
  )
  return path


def test_the_table_is_that_of_the_rows(finished):
  found = standings(_rows(finished), seeds=2)
  table = (finished / "table.md").read_text()
  assert [one.target for one in found[::3]] == [
    "arithmetic",
    "programs",
    "mean",
    "arithmetic",
    "programs",
  ]
  for one in found:
    assert f"| {one.method} | {one.bpb:.4f} |" in table
    assert one.noise_floor > 0
  assert "Best on the validation split" in table
  figure = (finished / "comparison.svg").read_text()
  for word in ("crisp", "uniform_clusters", "arithmetic+programs, mean"):
    assert word in figure


def test_a_searched_recipe_is_for_its_own_targets(finished):
  folder = cells.Folder(finished / "cells")
  found = {
    name: folder.log_w_N(cells.Search("crisp", name, 0)) for name in _SETS
  }
  sums, code, latin = slice(40), slice(40, 80), slice(80, 120)  # as in the file
  assert found["arithmetic"][sums].mean() > found["arithmetic"][code].mean()
  assert found["programs"][sums].mean() < found["programs"][code].mean()
  both = found["arithmetic+programs"]
  assert both[latin].mean() < min(both[sums].mean(), both[code].mean())


def test_every_search_seed_has_a_partition_of_its_own(monkeypatch):
  made = []

  def partitions(names, job, data):
    made.append((names, job.config.seed, job.config.partition.num_clusters))
    return {}

  monkeypatch.setattr(compare.search, "partitions", partitions)
  config = load("configs/compare.py", ["seed=5"])
  job: Any = Job(config, pathlib.Path(), *(None,) * 2)  # type: ignore
  of_job = compare.Partitions(job, None, {})  # type: ignore
  for name, seed in (("crisp", 0), ("crisp", 1), ("crisp", 0), ("crisp_64", 1)):
    of_job.under(name, seed)
  assert made == [(["crisp"], 5, 16), (["crisp"], 6, 16), (["crisp"], 6, 64)]


@pytest.mark.slow
def test_a_killed_comparison_ends_with_the_same_bytes(
  finished, corpus, tmp_path
):
  workdir = tmp_path / "killed"
  final = workdir / "cells" / "final"
  going = _start(corpus, workdir)
  corpora.wait_for(going, final / "natural.any.0.x2.work" / "final" / "12")
  going.send_signal(signal.SIGTERM)
  assert going.wait(timeout=60) == INTERRUPTED
  assert not (final / "natural.any.0.x2.json").exists()
  before = {p: p.stat().st_mtime_ns for p in workdir.glob("cells/*/*.json")}
  assert before
  going = _start(corpus, workdir)
  assert going.wait(timeout=120) == 0
  for path, when in before.items():
    assert path.stat().st_mtime_ns == when, f"{path} was done again"
  for name in ("results.parquet", "table.md", "comparison.svg"):
    assert (workdir / name).read_bytes() == (finished / name).read_bytes()
  assert not list(workdir.glob("cells/*/*.work"))


def test_the_report_has_every_method_and_budget(finished):
  pytest.importorskip("plotly")
  page = (finished / "report.html").read_text()
  assert "A comparison of" in page and 'data-figure="Results-0-curves"' in page
  for method in ("natural", "uniform_clusters"):
    assert f'<th scope="row">{method}</th>' in page
  assert 'id="Tree"' not in page  # nothing is handed over


def test_a_finished_comparison_only_shows_its_results(finished, corpus, capsys):
  times = {p: p.stat().st_mtime_ns for p in finished.glob("cells/*/*")}
  results = (finished / "results.parquet").read_bytes()
  assert command.main(_arguments(corpus, finished)) == 0
  assert {p: p.stat().st_mtime_ns for p in finished.glob("cells/*/*")} == times
  assert (finished / "results.parquet").read_bytes() == results
  assert "uniform_clusters" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("override", "words"),
  [
    ("compare.methods=doremy", ["'doremy'", "mean doremi", "docs/methods.md"]),
    ("compare.targets=", ["compare.targets", "at least one"]),
    ("compare.targets=moon", ["'moon'", "arithmetic"]),
    ("compare.targets=arithmetic+", ["'arithmetic+'", "joined by +"]),
    ("compare.targets=programs+programs", ["different"]),
    ("compare.targets=any", ["'any'"]),
    ("compare.seeds=0", ["compare.seeds", "at least 1"]),
    ("compare.search_seeds=3", ["search_seeds = 3", "compare.seeds = 2"]),
    ("compare.search_seeds=-1", ["compare.search_seeds", "at least 0"]),
    ("trial.seeds=2", ["trial.seeds = 2", "at least 3"]),
    ("trial.exponents=1.0,", ["trial.exponents", "between 0", "(1.0,)"]),
    ("trial.steps=10", ["config.trial.steps = 10", "multiple of"]),
    ("trial.preset=huge", ["'huge'", "0.3m"]),
    ("compare.noise_repeats=-1", ["compare.noise_repeats", "at least 0"]),
    ("compare.fractions=0.5", ["fractions", "1.0 among"]),
    ("compare.fractions=1.0,2.0", ["fractions", "at most 1"]),
    ("compare.fractions=0.5,1.0", ["0.5 of", "6 steps", "multiple"]),
    ("compare.natural_multiples=0.5", ["natural_multiples", "above 1"]),
    ("compare.final_presets=2m", ["final_presets", "'2m'", "Known"]),
    ("compare.effective_sample_sizes=1.5", ["between 0 and 1", "1.5"]),
    ("compare.targets=a>b>c", ["SEARCHED>TESTED", "'a>b>c'"]),
    ("compare.targets=programs>moon", ["'moon'"]),
    ("optimizer.warmup_steps=4", ["4 steps", "warmup_steps = 4"]),
    ("crisp.smoothing=no", ["crisp.smoothing", "'no'"]),
    ("compare.seed=1", ["'compare.seed'", "compare.seeds"]),
  ],
)
def test_wrong_settings_end_with_one_line(
  corpus, tmp_path, capsys, override, words
):
  status = command.main(_arguments(corpus, tmp_path / "run", override))
  corpora.assert_one_line(status, 2, words, capsys)


def test_a_config_that_compares_nothing_is_refused(tmp_path, capsys):
  status = command.main(
    ["--config=configs/smoke.py", f"--workdir={tmp_path / 'run'}"]
  )
  corpora.assert_one_line(status, 2, ["configs/compare.py"], capsys)


def test_a_target_without_validation_texts_is_refused(corpus, tmp_path, capsys):
  target = tmp_path / "exam.jsonl"
  splits = ("train", "train", "test", "test")
  corpora.write(
    target, [{"text": f"{s} {i}", "split": s} for i, s in enumerate(splits)]
  )
  status = command.main(
    _arguments(
      corpus,
      tmp_path / "run",
      f"data.target_files={target}",
      "compare.targets=exam",
    )
  )
  corpora.assert_one_line(status, 2, ["exam", "validation"], capsys)


def test_overwrite_knows_every_file_of_a_run(finished):
  names = {path.name for path in finished.iterdir()}
  assert names - set(workdirs.WRITTEN) == {"config.json", workdirs.MARKER_FILE}


def test_a_changed_comparison_refuses_the_workdir(finished, corpus, capsys):
  status = command.main(_arguments(corpus, finished, "compare.seeds=3"))
  corpora.assert_one_line(
    status, 2, ["compare.seeds was 2, now 3", "--workdir"], capsys
  )


def _test_bpb(workdir: pathlib.Path, method: str) -> list[float]:
  """Of full trainings on the target arithmetic, seed by seed."""
  return [
    row["bpb"]
    for row in _rows(workdir)
    if (row["method"], row["target_set"]) == (method, "arithmetic")
    and (row["split"], row["fraction"]) == ("test", 1.0)
  ]


def _rows(workdir: pathlib.Path) -> list[dict]:
  return pq.read_table(workdir / "results.parquet").to_pylist()


def _arguments(corpus, workdir, *overrides: str) -> list[str]:
  return corpora.arguments(
    "configs/compare.py", corpus, workdir, _TARGETS, *_TINY, *overrides
  )


def _main_arguments(corpus, workdir) -> list[str]:
  """Of the main job on the same corpus: natural, two seeds."""
  settings = [
    one
    for one in _arguments(corpus, workdir)
    if not one.startswith(("--config.compare", "--config=", "--config.cache"))
  ]
  extra = (
    "--config=configs/default.py",
    f"--config.cache_dir={corpus / 'cache'}",
    "--config.data.targets=",
    "--config.method=natural",
    "--config.baselines=",
    "--config.final.seeds=2",
  )
  return [*settings, *extra]


def _start(corpus, workdir) -> subprocess.Popen[bytes]:
  return corpora.start("cmtree_jax.compare", _arguments(corpus, workdir))
