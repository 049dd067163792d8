"""Test beds: one real run on a tiny corpus, verdicts of made-up rows, all configs."""

from types import SimpleNamespace

import numpy as np
import pytest

from cmtree_jax.config import load
from cmtree_jax.data.corpora import bed as corpus_beds
from cmtree_jax.data.plan import Plan
from cmtree_jax.evaluate import concentration
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs import cells, plan
from cmtree_jax.jobs.command import command
from experiments import beds, claims, verdicts
from experiments.planted import Bench
from experiments.verdicts import Bed, Level
from tests import corpora

_TARGETS = {"arithmetic": "sums"}
_LARGER = (("a", "cpu"), ("c", "cpu"), ("f", "gpu"), ("g", "cpu"))
_TREE = "angles_4x4"


@pytest.mark.parametrize(
  ("name", "scale"), [*((name, "toy") for name in "abcdefg"), *_LARGER]
)
def test_every_bed_is_accepted_and_judged(name, scale):
  config = load(f"beds.{name}:{scale}", [])
  plan.check_comparison(config)
  Plan(**config.data).check()
  assert {*config.bed.trees, *config.compare.methods} <= {
    *config.variants,
    *plan.METHODS,
  }
  planted = {beds.RANDOM}
  assert {*config.bed.rivals} <= {*config.compare.methods, *planted}
  rule = config.bed.refuted_if
  assert rule in verdicts.VERDICTS or rule == verdicts.RANKS
  assert (rule == verdicts.RANKS) == (len(config.bed.epochs) > 1)
  for epochs in config.bed.epochs:
    plan.check_comparison(claims.at_budget(config, epochs))


def test_a_config_without_a_bed_is_told(tmp_path, capsys):
  arguments = ["--config=claims:toy", f"--workdir={tmp_path}"]
  status = beds.main(arguments)
  corpora.assert_one_line(status, 2, ["block `bed`", "beds.b:toy"], capsys)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The workdir of a bed, and what was read there."""
  folder = tmp_path_factory.mktemp("bed")
  corpora.write_job_corpus(folder, _TARGETS)
  read = []

  def run(config, workdir, **flags):
    status = beds.run(config, workdir, **flags)
    own = claims.at_budget(config, 0.5)
    methods = (_TREE, beds.DIRECT)
    _, first = claims.compared(own, workdir / "epochs_0.5", "searched", methods)
    read.append(Bench(first))
    return status

  arguments = corpora.arguments(
    "beds.b:toy",
    folder,
    folder / "run",
    _TARGETS,
    *("data.targets=", "compare.targets=arithmetic", "compare.seeds=1"),
    *("compare.noise_repeats=0", "budget.epochs=0.5", "data.bed_seed=3"),
    *(f"compare.methods={_TREE},classifier_soft", "values.rounds=1"),
    *("values.max_age=24", "values.min_age=4", "values.lookahead=0"),
    *("values.outer_rows=8", "values.probe_rows=8"),
    *("values.validation_rows=8", "values.steps_between_rounds=4"),
    *("cmtree.replay.size=256", "bed.rivals=classifier_soft"),
  )
  assert command("test", "A test.", run, arguments) == 0
  return folder / "run", read[0]


@pytest.mark.slow
def test_a_bed_shows_methods_levels_and_a_verdict(finished):
  folder, _ = finished
  methods = (folder / "methods.arithmetic.epochs_0.5.md").read_text()
  head, *lines = [
    [one.strip() for one in line.strip("| ").split("|")]
    for line in methods.splitlines()
    if line.startswith("|") and "---" not in line
  ]
  assert head[-2:] == ["sound", "words"]
  rows = {line[0]: line for line in lines}
  assert next(iter(rows)) == NATURAL
  assert set(rows) == {
    *(NATURAL, _TREE, beds.DIRECT, beds.THROUGH),
    *(beds.RANDOM, beds.ORACLE, beds.BOTH),
  }
  assert rows[beds.ORACLE][-2:] == rows[beds.BOTH][-2:] == ["1.00", "0.00"]
  for row in rows.values():
    assert float(row[-2]) + float(row[-1]) == pytest.approx(1, abs=0.011)
  levels = (folder / "levels.arithmetic.epochs_0.5.md").read_text()
  assert levels.count(f"| {_TREE} |") == 2 and "factor" in levels
  verdict = (folder / "verdict.md").read_text()
  assert "| one search |" in verdict
  assert f"{_TREE} - {beds.DIRECT}" in verdict


@pytest.mark.slow
def test_planted_recipes_are_what_they_are_called(finished):
  _, bench = finished
  data, mass_N = bench.data, bench.mass_N
  factor_N, names = data.documents.labels(corpus_beds.FACTOR)
  sound_N = factor_N == names.index(corpus_beds.SOUND)

  def weight_N(name):
    cell = bench.search(name, "arithmetic", 0)
    if name in (beds.ORACLE, beds.RANDOM):
      cell = cell._replace(target_set=cells.ANY)
    found = bench.found.cells.found(cell)
    if name not in (_TREE, beds.DIRECT):
      assert found.history == [{"planted": name}]
    log_w_N = bench.found.cells.log_w_N(cell).astype(np.float64)
    assert mass_N @ np.exp(log_w_N) == pytest.approx(1, abs=1e-5)
    assert np.exp(log_w_N).max() <= bench.max_weight * (1 + 1e-5)
    return np.exp(log_w_N)

  oracle_N = weight_N(beds.ORACLE)
  assert (oracle_N[~sound_N] == 0).all() and np.ptp(oracle_N[sound_N]) < 1e-6
  direct_N, both_N = weight_N(beds.DIRECT), weight_N(beds.BOTH)
  assert (both_N[~sound_N] == 0).all()
  free_N = sound_N & (both_N < bench.max_weight * 0.999)
  ratio_N = both_N[free_N] / direct_N[free_N]
  np.testing.assert_allclose(ratio_N, ratio_N[0], rtol=1e-4)
  random_N = weight_N(beds.RANDOM)
  assert set(np.unique(random_N > 0)) == {False, True}
  kept = bench.found.value(_TREE, "arithmetic", "effective_sample_size")
  with np.errstate(divide="ignore"):
    share = concentration.effective_sample_size(np.log(random_N), mass_N)
  assert share == pytest.approx(max(kept, 1 / bench.max_weight), abs=0.03)
  # Leaves keep the mean of their documents' weights.
  tree = bench.tree(_TREE, "arithmetic", 0)
  p_NL = np.exp(tree.log_p_leaf(np.asarray(data.pool.embedding_NE)))
  through = bench.through(tree, direct_N)
  wanted_L = (mass_N * direct_N) @ p_NL / (mass_N @ p_NL)
  np.testing.assert_allclose(np.exp(through.log_w_L), wanted_L, rtol=1e-3)
  np.testing.assert_allclose(weight_N(beds.THROUGH), p_NL @ wanted_L, rtol=1e-3)


def test_the_oracle_knows_what_was_done():
  class Labels:
    def labels(self, name):
      return {
        "factor": (np.array([0, 2, 1, 4]), ("0", "0.25", "0.5", "0.75", "1")),
        "copy_of": (np.array([0, 0, 0, 1]), ("x", "y")),
      }[name]

  def of(line):
    manifest = {"bed": {"name": line}} if line else {}
    return beds._oracle(SimpleNamespace(documents=Labels(), manifest=manifest))

  assert of("topic_by_quality") == pytest.approx([1, 0.5, 0.75, 0])
  assert of("rewrites:2") == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1])
  assert of("tiny:8") is None
  assert of("") is None


def _bed(bpb, levels=(), overlap=0.1, rivals=("rival", "other")):
  """A bed whose methods have these bits per byte, by split, target and seed."""
  config = load("beds.b:toy", ["compare.seeds=3", "compare.search_seeds=3"])
  with config.unlocked():
    config.bed.rivals = rivals
    config.compare.methods = tuple(bpb)
  rows = [
    {
      **{"method": method, "target_set": "a+b", "target": target},
      **{"split": split, "seed": seed, "fraction": 1.0},
      "bpb": value + 0.001 * seed * (1 + (method == _TREE)),
    }
    for method, of_split in {NATURAL: 3.0, **bpb}.items()
    for split in ("validation", "test")
    for target in ("a", "b")
    for seed in range(3)
    for value in [_at(of_split, split, target)]
  ]
  found = claims.Results(config, None, None, rows)  # type: ignore
  key = (_TREE, "a+b")
  return Bed(found, {}, {key: list(levels)}, {key: overlap})


def test_one_search_judges_nothing():
  one = _bed({_TREE: 2.5, "rival": 2.9})
  with one.results.config.unlocked():
    one.results.config.compare.seeds = 1
    one.results.config.compare.search_seeds = 1
  for name in ("no_better", "overfits_more", "no_better_on_the_worst"):
    assert verdicts.VERDICTS[name](one, "a+b").refuted is None


def _at(of_split, split, target):
  one = of_split
  for key in (split, target):
    if isinstance(one, dict):
      one = one[key]
  return one


def test_the_best_rival_by_validation_is_to_be_beaten():
  rival = {"validation": 2.8, "test": 2.95}
  one = _bed({_TREE: 2.9, "rival": rival, "other": 2.85})
  verdict = verdicts.no_better(one, "a+b")
  assert not verdict.refuted and f"{_TREE} - rival: -0.049" in verdict.why
  rival["test"] = 2.9
  again = verdicts.no_better(
    _bed({_TREE: 2.9, "rival": rival, "other": 2.85}), "a+b"
  )
  assert again.refuted  # no difference


def test_a_gain_that_the_test_does_not_have_is_overfitting():
  tree = {"validation": 2.5, "test": 2.9}
  one = _bed({_TREE: tree, "rival": {"validation": 2.6, "test": 2.7}})
  verdict = verdicts.overfits_more(one, "a+b")
  assert verdict.refuted and "+0.300" in verdict.why
  one = _bed({_TREE: 2.6, "rival": {"validation": 2.6, "test": 2.7}})
  assert not verdicts.overfits_more(one, "a+b").refuted


def test_the_worst_target_counts():
  tree = {x: {"a": 2.9, "b": 2.9} for x in ("validation", "test")}
  rival = {x: {"a": 2.5, "b": 3.1} for x in ("validation", "test")}
  one = _bed({_TREE: tree, "rival": rival})
  verdict = verdicts.no_better_on_the_worst(one, "a+b")
  assert not verdict.refuted
  assert "on the worst target" in verdict.why and "-0.199" in verdict.why
  tree["test"]["b"] = 3.1
  assert verdicts.no_better_on_the_worst(
    _bed({_TREE: tree, "rival": rival}), "a+b"
  ).refuted


@pytest.mark.parametrize(
  ("second", "overlap", "refuted"),
  [(0.6, 0.1, False), (0.6, 0.5, True), (0.2, 0.1, True)],
)
def test_two_levels_must_tell_of_two_labels(second, overlap, refuted):
  levels = [
    *(Level(0, "source", 0.5), Level(0, "factor", 0.3)),
    *(Level(1, "source", 0.1), Level(1, "factor", second)),
  ]
  one = _bed({_TREE: 2.9, "rival": 2.9}, levels, overlap)
  assert verdicts.one_level_tells_both(one, "a+b").refuted == refuted


def test_orders_of_methods_are_compared_between_budgets(tmp_path):
  few = _bed({_TREE: 2.9, "rival": 2.8, "other": 2.7, "last": 2.6})
  same = _bed({_TREE: 2.95, "rival": 2.9, "other": 2.7, "last": 2.3})
  turned = _bed({_TREE: 2.5, "rival": 2.6, "other": 2.7, "last": 2.8})
  parts = {0.0625: few, 1.0: same}
  assert verdicts.ranks_alike(parts, "a+b").refuted
  parts[4.0] = turned
  verdict = verdicts.ranks_alike(parts, "a+b")
  assert not verdict.refuted and "+1.00 at 1, -1.00 at 4" in verdict.why
  with few.results.config.unlocked():
    few.results.config.bed.refuted_if = verdicts.RANKS
  table = verdicts.write(parts, tmp_path / "verdict.md").read_text()
  assert "| a+b | all | stands | Spearman" in table
