"""A policy from the job that learned it to others: their partition, a whole training."""

import json
import pathlib

import numpy as np
import pytest

from cmtree_jax import main
from cmtree_jax.config import load
from cmtree_jax.jobs import build, cells, variants
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.recipe import policies
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.types import UserError
from tests import corpora

SETTINGS = """
data.targets= proxy.preset=0.1m final.preset=0.1m final.seeds=1 baselines=
guard.on=false trial.exponents= observe.max_tokens=300 observe.target_rows=3
meta_scheduler.every=2 meta_scheduler.runs=4 meta_scheduler.population=2
meta_scheduler.learn=0.8
hypergradient.estimator=difference export.formats=
""".split()
STEPS = 40  # 16 observations of short runs, and four of a longer one


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
  folder = tmp_path_factory.mktemp("policy")
  corpora.write_job_corpus(folder, {"arithmetic": "sums"})
  return folder


def run(corpus: pathlib.Path, name: str, *settings: str) -> pathlib.Path:
  """The workdir of a job that has ended."""
  arguments = corpora.arguments(
    "configs/method.py:meta_scheduler",
    corpus,
    corpus / name,
    ["arithmetic"],
    *SETTINGS,
    *settings,
  )
  assert main.main(arguments) == 0
  return corpus / name


@pytest.fixture(scope="module")
def learned(corpus) -> pathlib.Path:
  return run(corpus, "learned", f"steer.steps={STEPS}")


def recipe_of(workdir: pathlib.Path):
  return json.loads((workdir / "recipe.json").read_text())


def mixtures(workdir: pathlib.Path) -> np.ndarray:
  rows = recipe_of(workdir)["history"]
  return np.array([row["mixture"] for row in rows if "mixture" in row])


def test_a_job_leaves_its_policy_and_charges_what_it_took(learned):
  arrays = policies.load(learned)
  assert {"scale_F", "scale_G"} < set(arrays)
  assert np.abs(arrays["psi.params.Dense_3.kernel"]).max() > 0.01
  recipe = recipe_of(learned)
  told = [row for row in recipe["history"] if "population" in row]
  assert [row["population"] for row in told] == [0, 1]
  # What is looked at and differentiated is paid for beside what is trained on.
  assert recipe["ledger"]["search_tokens"] > 1.5 * STEPS * 4 * 16
  names = {path.name for path in learned.iterdir()}
  assert policies.FILE in names
  assert names - set(workdirs.WRITTEN) <= {"config.json", workdirs.MARKER_FILE}


def test_another_partition_is_steered_without_learning(corpus, learned):
  settings = (
    f"meta_scheduler.policy={learned}",
    "partition.num_clusters=6",
    "steer.steps=8",
  )
  applied = run(corpus, "applied", *settings)
  found_OK = mixtures(applied)
  assert found_OK.shape == (4, 6)
  np.testing.assert_allclose(found_OK.sum(axis=1), 1, rtol=1e-5)
  assert np.abs(found_OK[1:] - found_OK[0]).max() > 1e-3
  kept, before = policies.load(applied), policies.load(learned)
  assert set(kept) == set(before)
  for name, array in before.items():
    np.testing.assert_array_equal(kept[name], array)
  cost, of_learning = (
    recipe_of(one)["ledger"]["search_flops"] for one in (applied, learned)
  )
  assert cost < of_learning / 4


def test_a_frozen_policy_steers_the_training_that_counts(corpus, learned):
  online = run(
    corpus, "online", "online.on=true", f"meta_scheduler.policy={learned}"
  )
  folder = cells.Folder(online / "cells")
  cell = cells.Search("meta_scheduler", "arithmetic", 0)
  schedule = schedules.load(folder.kept(cell))
  assert schedule.stages[0].begin == 0 and schedule.stages[-1].end == 12
  assert len(schedule.stages) > 2
  first_L, last_L = (
    schedule.stages[at].mixture_L for at in (0, len(schedule.stages) - 1)
  )
  assert np.abs(last_L - first_L).max() > 1e-3


@pytest.mark.parametrize(
  ("settings", "words"),
  [
    (["online.on=true"], "meta_scheduler cannot run online: it learns"),
    (["meta_scheduler.policy=nowhere"], "No policy.npz in nowhere"),
  ],
)
def test_what_cannot_be_is_refused_before_any_work(settings, words):
  config = load("configs/method.py:meta_scheduler", settings)
  with pytest.raises(UserError, match=words):
    build.check(variants.config_of("meta_scheduler", config))


def test_a_file_that_is_no_policy_is_refused(tmp_path):
  (tmp_path / policies.FILE).write_text("weights")
  with pytest.raises(UserError, match="holds no arrays"):
    policies.load(tmp_path)


def test_a_policy_that_saw_other_numbers_is_refused(corpus, learned, capsys):
  arguments = corpora.arguments(
    "configs/method.py:meta_scheduler",
    corpus,
    corpus / "refused",
    ["arithmetic"],
    *SETTINGS,
    f"meta_scheduler.policy={learned}",
    "meta_scheduler.projected=0",
  )
  status = main.main(arguments)
  corpora.assert_one_line(status, 2, ["meta_scheduler.projected"], capsys)
