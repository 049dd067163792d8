"""A recipe of two sources is extended to three: only the new one is searched for."""

import json

import numpy as np
import pytest

from cmtree_jax import main
from cmtree_jax.recipe.recipe import FILE
from tests import corpora

_TARGETS = {"arithmetic": "sums"}


def _run(folder, workdir, *overrides):
  arguments = corpora.arguments(
    *("configs/method.py:olmix", folder, workdir, _TARGETS),
    *("partition.kind=sources", "final.seeds=1", "final.calls_per_save=1"),
    *("data.targets=", "guard.on=false", *overrides),
  )
  return main.main(arguments)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  lines = (folder / "pool.jsonl").read_text().splitlines(keepends=True)
  old = [line for line in lines if json.loads(line)["source"] != "latin"]
  (folder / "old.jsonl").write_text("".join(old))
  return folder


@pytest.mark.slow
def test_a_new_source_joins_a_recipe(corpus, tmp_path, capsys):
  before, after = tmp_path / "before", tmp_path / "after"
  old_pool = f"data.source=jsonl:{corpus}/old.jsonl"
  assert _run(corpus, before, old_pool) == 0
  assert _run(corpus, after, f"olmix.reuse={before}") == 0
  first, second = (
    json.loads((folder / FILE).read_text()) for folder in (before, after)
  )
  assert first["partition"]["sources"] == ["code", "sums"]
  assert second["partition"]["sources"] == ["code", "latin", "sums"]
  # Two numbers of a law, those of the part kept and of latin.
  mixture_RK = np.array([run["mixture"] for run in second["history"]])
  assert len(mixture_RK) == 3 * (2 + 1)
  assert np.ptp(mixture_RK[:, 1]) > 0.1
  ratio_R = mixture_RK[:, 0] / mixture_RK[:, 2]
  np.testing.assert_allclose(ratio_R, ratio_R[0], rtol=1e-9)
  old, new = (
    np.array(one["partition"]["log_w_leaf"]) for one in (first, second)
  )
  assert new[0] - new[2] == pytest.approx(old[0] - old[1], abs=1e-5)
  capsys.readouterr()
  assert _run(corpus, tmp_path / "no", f"olmix.reuse={tmp_path}/none") == 2
  assert f"No recipe.json in {tmp_path}/none" in capsys.readouterr().err
