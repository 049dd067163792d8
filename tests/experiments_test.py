"""The experiments: one real run on a tiny corpus, and figures of made-up rows."""

import json
import pathlib
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from cmtree_jax.config import load
from cmtree_jax.data import sealed
from cmtree_jax.evaluate import statistics
from cmtree_jax.jobs import build, cells, compare, variants, workdir
from cmtree_jax.jobs.command import command
from cmtree_jax.methods import METHODS
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.types import UserError
from configs import smoke
from configs.claims import LEAVES, get_config
from experiments import (
  against_everything,
  bench_gradients,
  budget,
  claims,
  cold_cache,
  concentration,
  gradient_over_similarity,
  guarded,
  joint_against_frozen,
  likeness,
  online,
  repetition,
  search_cost,
  selection_cost,
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


@pytest.mark.slow
def test_two_jobs_on_one_cold_cache_are_both_right(corpus, capsys):
  settings = [
    *corpora.TINY,
    f"data.source=jsonl:{corpus / 'pool.jsonl'}",
    f"data.target_files={corpus / 'arithmetic.jsonl'}",
  ]
  given = [f"--config.{one}" for one in settings]
  assert cold_cache.main(["--times", "1", *given]) == 0
  assert capsys.readouterr().out.endswith("1 of 1 right\n")


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
  facts = sealed.read(cell, cure="")
  facts["variant"][1] = "partition.num_clusters=8"
  cell.unlink()
  beside = [cell.with_name(name) for name in facts.pop(sealed.FILES, {})]
  sealed.write(cell, facts, beside=beside)
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
  gains = {
    "predicted_gain": 0.5,
    "heldout_gain": 0.25,
    "gain": 0.125,
    "kept": 1,
  }
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


def test_budgets_stand_side_by_side(made_up, tmp_path):
  names = ("joint_16", "crisp_64")
  made_up.config.compare.methods = names
  worse = [{**row, "bpb": row["bpb"] + 1} for row in made_up.rows]
  parts = {0.25: made_up, 4: made_up._replace(rows=worse)}
  table, _, figure = budget.show(parts, tmp_path / "budget")
  (line,) = re.findall(r"\| joint_16 \| (.*) \|", table.read_text())
  assert re.fullmatch(
    r"2\.\d+ \(-0\.1\d+ ±0\.0\d+; 0\.50\) \| 3.\d+ \(-0\.1.*; 0\.50\)", line
  )
  assert "crisp_64" in figure.read_text()


def test_all_methods_stand_side_by_side_at_all_budgets(made_up, tmp_path):
  names = ("joint_16", "crisp_64", "crisp_256", "frozen_16")
  made_up.config.compare.methods = names
  worse = [
    {**row, "bpb": row["bpb"] + (row["method"] == "crisp_64")}
    for row in made_up.rows
  ]
  parts = {0.25: made_up, 1: made_up._replace(rows=worse)}
  paths = list(against_everything.show(parts, tmp_path))
  text = {path.name: path.read_text() for path in paths}
  assert len(text) == 1 + 2 * 2
  lines = [line for line in text["all.md"].splitlines() if "_" in line]
  rows = [line.strip("| ").split(" | ") for line in lines]
  assert rows[0][:3] == ["joint_16", "tree", "values"]
  assert rows[-1][:3] == ["crisp_64", "domains", "none"]
  for row, expected in ((rows[0], (-0.1, -0.1)), (rows[-1], (0, 1))):
    assert list(map(float, row[3:])) == pytest.approx(expected, abs=0.01)
  at_one = text["targets.epochs_1.md"]
  assert re.search(r"\| natural \| 3\.0\d+ \| 3\.0\d+ \| 0\.01 \|", at_one)
  assert re.search(r"\| crisp_64 \| 4\.0\d+ \(\+.*; 0\.50\) \|", at_one)
  (of_tree,) = re.findall(r"\| one \| .*", text["tree.epochs_0.25.md"])
  assert "-0.1" in of_tree and "no difference" in of_tree


def test_online_runs_stand_beside_static_recipes(made_up, tmp_path):
  """Under the names of the made-up rows; the joint tree is better by a tenth."""
  names = ("joint_16", "crisp_64", "frozen_16")
  made_up.config.compare.methods = names
  rows = [
    {**row, "method": online.JOINT}
    for row in made_up.rows
    if row["method"] == "joint_16"
  ]
  made_up.config.compare.methods = (*names, online.JOINT)
  both = made_up._replace(rows=[*made_up.rows, *rows])
  methods, figure, joint = online.show({0.25: both}, tmp_path)
  assert "crisp" in figure.read_text()
  assert re.search(r"\| online_joint \| -0\.1\d+ .* \|", methods.read_text())
  (to_static,) = re.findall(r"\| joint_16 \| (\S+)", joint.read_text())
  assert float(to_static) == 0
  (to_crisp,) = re.findall(r"\| crisp_64 \| (\S+)", joint.read_text())
  assert float(to_crisp) == pytest.approx(-0.1, abs=0.05)


def test_every_online_variant_can_run():
  config = load("configs/claims.py:toy", [])
  for name in online.ONLINE:
    own = variants.config_of(name, config)
    build.check(own)
    assert build.is_online(own), name


def test_every_method_is_compared():
  """Some under the names of variants, but for those that want labels of the user."""
  settings = get_config("cpu").variants
  methods = {settings.get(name, (name,))[0] for name in against_everything.ALL}
  unlabelled = {name for name, one in METHODS.items() if not _wants_labels(one)}
  assert methods == unlabelled - {"natural"}


def test_like_methods_stand_beside_each_other(tmp_path):
  rng = np.random.default_rng(0)
  one, other = rng.normal(size=(2, 200))
  noise = rng.normal(size=200)
  weights = {
    "a": {"s": [one, one + noise], "t": [one, one + noise]},
    "b": {"s": [other], "t": [-other]},
    # Ranks count, not weights; and the mean over sets of targets.
    "a_too": {"s": [np.exp(one)], "t": [one**3]},
    "natural": {"s": [0 * one], "t": [0 * one]},
    "b_too": {"s": [other + 0.1 * noise], "t": [-other]},
  }
  found = likeness.likeness(weights)
  assert set(found.methods) == set(weights) - {"natural"}
  place = {name: found.methods.index(name) for name in found.methods}
  assert (
    abs(place["a"] - place["a_too"]) == abs(place["b"] - place["b_too"]) == 1
  )
  rho = {
    pair: found.rho_MM[place[pair[0]], place[pair[1]]]
    for pair in (
      ("a", "a_too"),
      ("b", "b_too"),
      ("a", "b"),
      ("a", "a"),
      ("b", "b"),
    )
  }
  assert rho["a", "a_too"] == pytest.approx(1)
  assert 0.98 < rho["b", "b_too"] < 1
  both = [stats.spearmanr(one, x).statistic for x in (other, -other)]
  assert rho["a", "b"] == pytest.approx(np.mean(both), abs=1e-12)
  again = stats.spearmanr(one, one + noise).statistic
  assert rho["a", "a"] == pytest.approx(again) and np.isnan(rho["b", "b"])
  _, pairs, figure = likeness.show(found, tmp_path)
  assert re.search(r"\| a(_too)? \| a(_too)? \| \+1\.00 \|", pairs.read_text())
  assert "a_too" in figure.read_text()


def test_likeness_searches_and_trains_nothing(corpus, tmp_path):
  arguments = corpora.arguments(
    *("configs/claims.py:toy", corpus, tmp_path, _TARGETS, *_TINY),
    *("compare.methods=crisp_16,dsir,random_documents", "compare.seeds=2"),
    "compare.targets=arithmetic,programs",
  )
  assert likeness.main(arguments) == 0
  lines = (tmp_path / "likeness/likeness.md").read_text().splitlines()
  assert {line.split(" ")[1] for line in lines[4:]} == {
    *("crisp_16", "dsir", "random_documents")
  }
  assert len(list((tmp_path / "cells/search").glob("crisp_16.*.json"))) == 4
  assert not list((tmp_path / "cells/final").iterdir())


def test_costs_of_choosing_are_measured_in_processes(
  corpus, tmp_path, monkeypatch
):
  monkeypatch.setattr(selection_cost, "_methods", lambda: ["dsir"])
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, tmp_path, _TARGETS, "look.steps=25"
  )
  assert selection_cost.main(arguments) == 0
  found = selection_cost.Took(
    **json.loads((tmp_path / "dsir.json").read_text())
  )
  assert found.documents == 120 and found.flops == 0 and not found.refused
  assert found.again <= found.seconds  # words are counted once
  assert 0 < found.more_bytes < found.peak_bytes
  # What was measured is not measured again.
  (tmp_path / "dsir.json").write_text(
    json.dumps({**found._asdict(), "refused": "no labels came"})
  )
  assert selection_cost.main(arguments) == 0
  assert (
    "| dsir | none | no labels came |" in (tmp_path / "cost.md").read_text()
  )


def test_costs_of_choosing_are_told_by_document(tmp_path):
  took = selection_cost.Took(
    *(1000, 10**6, 2.5e6, 3e12, 4.0, 7.0, 0.5), 2**30, 5 * 2**20
  )
  path = selection_cost.show({"el2n": took}, tmp_path)
  row = "| el2n | look | 2.50 | 3.0e+12 | 4.0 | 7.0 | 0.5 | 1,024 | 5 | 5.2 |"
  assert row in path.read_text()


def _wants_labels(method) -> bool:
  return method.make().labels is not None


def test_an_interval_is_over_searches(made_up):
  """Final trainings of one search are one value."""
  same = {"target_set": "one", "split": "test", "fraction": 1.0}
  rows = [
    {**same, "method": name, "seed": seed, "bpb": 3.0 - (seed % 3) * worth}
    for name, worth in (("natural", 0), ("joint_16", 0.1))
    for seed in range(9)
  ]
  config = made_up.config.copy_and_resolve_references().unlock()
  config.compare.seeds, config.compare.search_seeds = 9, 3
  found = made_up._replace(rows=rows, config=config)
  interval = found.difference("joint_16", "natural", "one")
  expected = statistics.paired_difference([0.0, -0.1, -0.2], [0.0] * 3)
  np.testing.assert_allclose(interval, expected)


def test_the_guard_is_judged_by_what_it_handed_over(tmp_path):
  def job(handed, tree):
    names = dict(
      zip(
        (guarded.ASKED, guarded.RIVAL, guarded.HANDED),
        ("cmtree", "crisp_64", handed),
        strict=True,
      )
    )
    bpb = {"natural": 3.0, "cmtree": tree, "crisp_64": 2.8}
    bpb = {name: {"a": one - 0.1, "mean": one} for name, one in bpb.items()}
    return guarded.Job(names, handed != "cmtree", bpb)

  jobs = {"a+b": [job("crisp_64", 2.9), job("cmtree", 2.7)]}
  recipes, guard = guarded.show(jobs, tmp_path)
  text = recipes.read_text()
  assert "| cmtree | 2.700 | 2.800 | -0.200 ±" in text
  assert f"| {guarded.HANDED} | 2.650 | 2.750 | -0.250 ±" in text
  assert "| a+b | 1 of 2 | crisp_64, cmtree | -0.050 ±" in guard.read_text()


def test_a_guarded_job_without_named_targets_has_all_of_them():
  config = smoke.get_config()
  assert config.data.targets == ()
  assert guarded._wanted(config) == ([guarded.ALL], guarded.SEARCHES)


@pytest.mark.slow
def test_main_jobs_tell_what_they_handed_over(corpus, tmp_path):
  arguments = corpora.arguments(
    *("configs/claims.py:toy", corpus, tmp_path, _TARGETS, *_TINY),
    *("method=crisp_16", "baselines=natural", "guard.rivals=crisp_64"),
    *("compare.targets=arithmetic", "compare.search_seeds=1"),
  )
  assert guarded.main(arguments) == 0
  text = (tmp_path / "guarded/guard.md").read_text()
  found = re.search(r"\| arithmetic \| (\d) of 1 \| (\w+) \|", text)
  assert found and found[2] in ("crisp_16", "crisp_64", "natural")
  assert (found[1] == "0") == (found[2] == "crisp_16")
  recipes = (tmp_path / "guarded/recipes.arithmetic.md").read_text()
  (handed,) = re.findall(rf"\| {guarded.HANDED} \| (\S+) \|", recipes)
  assert re.search(rf"\| {found[2]} \| {handed} \|", recipes)


def test_concentrations_are_extrapolated_to_the_budget(
  made_up, tmp_path, monkeypatch
):
  monkeypatch.setattr(claims.Results, "data", lambda self: None)
  monkeypatch.setattr(concentration, "_sizes", lambda *_: ([1e9, 16e9], 256e9))
  made_up.config.compare.methods = ("joint_16",)
  half = [{**row, "effective_sample_size": 0.25} for row in made_up.rows]
  small = made_up._replace(rows=half)
  one, _ = concentration.show(small, made_up, tmp_path)
  assert (
    "| joint_16 | 0.250 | 0.500 | 1.000 | +0.25 | +0.000 " in one.read_text()
  )


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
  for epochs in repetition.EPOCHS:
    plan.check_comparison(repetition._config_at(config, epochs))
  for own in concentration._configs(config).values():
    plan.check_comparison(own)


@pytest.mark.slow
def test_gradients_of_documents_are_measured_against_a_batch_s(tmp_path):
  file = tmp_path / "rows.json"
  sizes = "--documents 12 --vocab 300 --row-tokens 32 --lanes 4 --size 32"
  rows = bench_gradients.main(
    f"--preset 0.1m --longest 100 --repeats 1 {sizes} --json {file}".split()
  )
  batch, norm, sketch = rows
  assert (batch.wall_multiple, batch.flops_multiple) == (1, 1)
  # The same products, but for padding: the rows of a document are its own.
  assert norm.flops_multiple == pytest.approx(
    (1 - batch.padding) / (1 - norm.padding), rel=0.02
  )
  # A count sketch adds and takes no matrix product.
  assert sketch.flops == norm.flops
  assert json.loads(file.read_text())[1]["what"] == "each: norm"
