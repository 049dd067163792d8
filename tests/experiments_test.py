"""The experiments: one real run on a tiny corpus, and figures of made-up rows."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.config import load
from cmtree_jax.jobs import cells, compare, workdir
from cmtree_jax.jobs.command import command
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.types import UserError
from configs.claims import LEAVES, get_config
from experiments import (
  against_everything,
  claims,
  gradient_over_similarity,
  joint_against_frozen,
  search_cost,
  transfer,
)
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}
_METHODS = ("crisp_16", "crisp_64")
_TINY = """
compare.seeds=1 compare.noise_repeats=0 compare.targets=arithmetic,arithmetic>programs
data.targets=
""".split()


def _run(corpus, workdir, name, *overrides, **parts) -> claims.Results:
  shown = []

  def show(found):
    shown.append(found)
    return []

  job = claims.job(name, _METHODS, show, **parts)
  arguments = corpora.arguments(
    "configs/claims.py:toy", corpus, workdir, _TARGETS, *_TINY, *overrides
  )
  assert command("test", "A test.", job, arguments) == 0
  return shown[0]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  """Three sources and two targets."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


@pytest.mark.slow
def test_experiments_share_their_cells(corpus, tmp_path):
  first = _run(
    *(corpus, tmp_path, "first"),
    *("compare.effective_sample_sizes=0.7,", "compare.noise_repeats=1"),
    concentrations=True,
  )
  times = {p: p.stat().st_mtime_ns for p in tmp_path.glob("cells/*/*.json")}
  second = _run(
    corpus, tmp_path, "second", "compare.final_presets=0.3m,", sizes=True
  )
  for path, when in times.items():
    assert path.stat().st_mtime_ns == when, f"{path} was done again"
  for name in ("first", "second"):
    assert (tmp_path / name / "table.md").exists()
  assert first.bpb("crisp_64", "arithmetic") == second.bpb(
    "crisp_64", "arithmetic"
  )
  # At another concentration, on another target, at another size.
  ess = first.value("crisp_16@0.7", "arithmetic", "effective_sample_size")
  assert ess == pytest.approx(0.7, rel=1e-3)
  sets = ["arithmetic", "arithmetic>programs"]
  assert first.targets == sets
  assert set(second.targets) == {*sets, *(f"{one} at 0.3m" for one in sets)}
  rows = pq.read_table(tmp_path / "second" / "results.parquet").to_pylist()
  flops = {r["target_set"]: r["final_flops"] for r in rows}
  assert flops["arithmetic at 0.3m"] < flops["arithmetic"]
  found = second.found("crisp_16", "arithmetic")
  assert found.partition and len(found.partition["log_w_leaf"]) == 16
  # A name stands for the same overrides in all of them.
  cell = tmp_path / "cells" / "search" / "crisp_16.arithmetic.0.json"
  facts = json.loads(cell.read_text())
  facts["variant"][1] = "partition.num_clusters=8"
  cell.write_text(json.dumps(facts))
  with pytest.raises(UserError, match="num_clusters=8.*num_clusters=16"):
    compare.run(second.config, second.folder)


def test_other_settings_refuse_the_shared_cells(corpus, tmp_path, capsys):
  (tmp_path / "cells").mkdir()
  (tmp_path / "cells" / "config.json").write_text(json.dumps({"seed": 3}))
  for name in (workdir.MARKER_FILE, workdir.CORPUS_FILE):
    (tmp_path / "cells" / name).touch()
  job = claims.job("first", _METHODS, lambda found: [])
  arguments = corpora.arguments(
    "configs/claims.py:toy", corpus, tmp_path, _TARGETS, *_TINY
  )
  status = command("test", "A test.", job, arguments)
  words = ["cells holds another run", "compare.cells", "--workdir"]
  corpora.assert_one_line(status, 2, words, capsys)


_UNROLLS = ("window_1", "window_4", "window_64", "whole")
_NAMES = [
  *(f"{kind}_{n}" for n in LEAVES for kind in joint_against_frozen.KINDS),
  *("kmeans", "kmeans_0"),
  *("sources", "shuffled", "no_noise", "unrolled", "first_order", "one_step"),
  *(f"rounds_{n}" for n in range(4)),
  *_UNROLLS,
  *("crisp_16", "crisp_64", "crisp_256"),
  *(f"budget_{n}" for n in range(1, 5)),
  "found_at_4s",
]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory) -> claims.Results:
  """Rows in which joint trees are .1 better than all else; .1 of noise."""
  rng = np.random.default_rng(0)
  config = load(
    "configs/claims.py:toy",
    ["compare.seeds=3", "compare.effective_sample_sizes=0.3,0.1"],
  )
  names = [*_NAMES, *(f"{n}@{s}" for n in _NAMES for s in (0.3, 0.1))]
  shared = rng.normal(size=3)
  rows = [
    {
      "method": method,
      "target_set": target,
      "target": target,
      "split": split,
      "seed": seed,
      "search_seed": seed,
      "fraction": 1.0,
      "tokens": 1000,
      "bpb": 3.0
      + 0.1 * shared[seed]
      - 0.1 * method.startswith("joint")
      + 1e-3 * rng.normal(),
      "accuracy": float("nan"),
      "search_tokens": 100.0,
      "search_flops": 1e6 * (1 + names.index(method) if method in names else 1),
      "trial_flops": 0.0,
      "final_flops": 1e8,
      "effective_sample_size": 0.5,
      "kept_share": 0.0,
    }
    for method in ["natural", *names]
    for target in ("one", "two")
    for split in ("validation", "test")
    for seed in range(3)
  ]
  folder = tmp_path_factory.mktemp("made_up")
  made = cells.Folder(folder).make()
  gains = {"predicted_gain": 0.5, "heldout_gain": 0.25, "gain": 0.125}
  rounds_of = {"rounds_1": 1, "rounds_3": 3}
  for name in ("joint_16", "rounds_1", "rounds_3", *_UNROLLS):
    for target in ("one", "two"):
      history = [gains] * rounds_of.get(name, 2)
      found = cells.Found(Cost(), history, [], {"": None})
      made.save_found(
        cells.Search(name, target, 0), found, {"": np.zeros(1)}, np.zeros(1)
      )
  return claims.Results(config, folder, made, rows)


@pytest.mark.parametrize(
  ("experiment", "files", "words"),
  [
    (
      joint_against_frozen,
      ["own.svg", "own.md", "ess0.3.svg", "ess0.3.md", "ess0.1.svg"],
      ["| frozen random projections | 64 | -0.1"],
    ),
    (
      gradient_over_similarity,
      ["rounds.svg", "gradient.md"],
      [
        "| unroll of 64 |",
        "| one | rounds: 3 | -1.500 | -0.750 | -0.375 |",
        "| two | unroll of 128, of new proxies | -1.000 | -0.500 | -0.250 |",
      ],
    ),
    (against_everything, ["summary.md"], ["| one |", "-0.1", "no difference"]),
    (transfer, ["transfer.md", "sizes.md"], ["found_at_4s"]),
  ],
)
def test_every_experiment_shows_what_was_measured(
  made_up, experiment, files, words
):
  paths = list(experiment.show(made_up))
  assert {path.name for path in paths} >= set(files)
  text = "".join(p.read_text() for p in paths if p.suffix == ".md")
  for word in words:
    assert word in text
  for path in paths:
    assert path.suffix != ".svg" or "test BPB - " in path.read_text()


def test_costs_are_drawn_in_the_order_of_their_shares(made_up, tmp_path):
  path = search_cost._draw(made_up, search_cost.SEARCHES, tmp_path / "cost.svg")
  assert "CRISP, 256 clusters" in path.read_text()
  share = search_cost._share(made_up, "budget_2", "one")
  assert share == pytest.approx(1e-2 * (1 + _NAMES.index("budget_2")))


def test_a_difference_is_paired_and_a_set_is_the_mean_of_its_targets(made_up):
  found = made_up.difference("joint_16", "frozen_16", "one")
  assert found.mean == pytest.approx(-0.1, abs=5e-3)
  assert found.high - found.mean < 0.02  # the seeds' own noise is .1
  rows = [{**row, "target": "b", "bpb": row["bpb"] + 1} for row in made_up.rows]
  both = made_up._replace(rows=[*made_up.rows, *rows])
  np.testing.assert_allclose(
    both.bpb("joint_16", "one"), np.add(made_up.bpb("joint_16", "one"), 0.5)
  )


@pytest.mark.parametrize("scale", ["toy", "cpu", "gpu"])
def test_every_variant_is_accepted_at_every_scale(scale):
  from cmtree_jax.jobs import plan

  config = get_config(scale)
  config.compare.methods = tuple(config.variants)
  plan.check_comparison(config.lock())
