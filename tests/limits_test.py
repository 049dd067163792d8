"""What limits the tree: each comparison on data where the answer is known."""

import numpy as np
import pytest

from cmtree_jax.jobs import cells
from experiments import limits
from tests import corpora

_TARGETS = {"arithmetic": "sums"}


def test_texts_left_out_want_as_many_clusters_as_there_are_groups():
  """Two groups of texts; finer clusters only split what is alike, by chance."""
  rng = np.random.default_rng(0)
  group_N = np.repeat([0, 1], 30)

  def score(parts):
    mass_K = np.full(20 * parts, 1 / (20 * parts))
    cluster_N = group_N * parts + rng.integers(0, parts, 60)
    return limits.validated([cluster_N], mass_K, max_weight=1e9)

  scores = [score(parts) for parts in (1, 4, 64)]
  assert scores == sorted(scores, reverse=True)
  assert scores[0] == pytest.approx(np.log(0.999 * 10 + 1e-3), abs=0.05)
  # And coarser ones mix the groups with what is none.
  coarse = limits.validated(
    [np.zeros(60, int)], np.array([1.0]), max_weight=1e9
  )
  assert coarse == pytest.approx(0) and scores[0] > coarse


def test_no_text_that_is_left_out_is_counted():
  numbers, mass_K = [np.arange(5)], np.full(5, 0.2)
  found = limits.validated(numbers, mass_K, max_weight=1e9)
  assert found == pytest.approx(np.log(1e-3))


def test_a_cap_counts_as_it_will_in_training():
  found = limits.validated(
    [np.zeros(10, int)], np.array([0.01, 0.99]), max_weight=4
  )
  assert found == pytest.approx(np.log(4))


def test_a_regression_predicts_documents_without_values():
  rng = np.random.default_rng(0)
  x_NE = rng.normal(size=(400, 5))
  value_N = x_NE @ [1.0, -2.0, 0.5, 0.0, 0.0]
  known_N = np.where(np.arange(400) < 300, value_N, np.nan)
  predicted_N, rho = limits.regression(x_NE, known_N)
  assert rho > 0.999
  assert np.corrcoef(predicted_N[300:], value_N[300:])[0, 1] > 0.999
  noise = np.where(np.isnan(known_N), np.nan, rng.normal(size=400))
  assert abs(limits.regression(x_NE, noise)[1]) < 0.5


def test_a_step_goes_as_far_as_it_is_told_and_where():
  rng = np.random.default_rng(0)
  mass_N = rng.dirichlet(np.ones(200))
  start_N, direction_N = np.zeros(200), rng.normal(size=200)
  for distance in (0.05, 0.5):
    log_w_N = limits._moved(start_N, direction_N, distance, mass_N, 8.0)
    moved = limits._divergence(log_w_N, start_N, mass_N)
    assert moved == pytest.approx(distance, rel=1e-3)
    assert mass_N @ np.exp(log_w_N) == pytest.approx(1)
    assert np.exp(log_w_N).max() <= 8 * (1 + 1e-9)
    assert np.corrcoef(log_w_N, direction_N)[0, 1] > 0.95
  still_N = limits._moved(start_N, direction_N, 0.0, mass_N, 8.0)
  np.testing.assert_allclose(still_N, start_N, atol=1e-12)
  # Further than the cap allows is as far as it allows.
  far_N = limits._moved(start_N, direction_N, 1e9, mass_N, 8.0)
  assert np.exp(far_N).max() == pytest.approx(8)


@pytest.mark.slow
def test_every_pair_is_trained(tmp_path, monkeypatch):
  corpora.write_job_corpus(tmp_path, _TARGETS)
  clusters = ("crisp_16", "crisp_64")
  monkeypatch.setattr(limits, "CLUSTERS", clusters)
  monkeypatch.setattr(limits, "METHODS", (*limits.METHODS[:2], *clusters))
  monkeypatch.setattr(limits, "SIZES", (4, 8))
  pairs = [one for one in limits.PAIRS if "256" not in "".join(one)]
  monkeypatch.setattr(limits, "PAIRS", pairs)
  arguments = corpora.arguments(
    *("claims:toy", tmp_path, tmp_path / "run", _TARGETS),
    *("data.targets=", "compare.targets=arithmetic", "compare.seeds=1"),
    *("compare.noise_repeats=0", "values.rounds=1", "values.max_age=24"),
    *("values.min_age=4", "values.lookahead=0", "values.outer_rows=8"),
    *("values.probe_rows=8", "values.validation_rows=8"),
    *("values.steps_between_rounds=4", "cmtree.replay.size=256"),
  )
  assert limits.main(arguments) == 0
  folder = tmp_path / "run" / "limits"
  table = (folder / "pairs.md").read_text()
  for what, one, other in pairs:
    assert f"| {what} | {one} | {other} |" in table
  assert (folder / "validated.md").read_text().count("| arithmetic |") == 1
  told = (folder / "values.md").read_text()
  assert limits.STEP_WORDS in told and limits.SCORED in told
  # A step from the start goes as far as the tree's own.
  made = cells.Folder(tmp_path / "run" / "cells")
  place = cells.Search(limits.TREE, "arithmetic", 0)
  found = made.found(place)
  assert found is not None
  name = "start" if "start" in found.partitions else ""
  start_N = made.log_w_N(place, name).astype(float)
  mass_N = np.full(len(start_N), 1.0)
  own, step = (
    limits._divergence(made.log_w_N(one).astype(float), start_N, mass_N)
    for one in (place, place._replace(method=limits.STEP_EMBEDDING))
  )
  assert step == pytest.approx(own, abs=0.05)
