"""A bed's hidden factor reaches the report of a recipe, and no search."""

import json

import numpy as np
import pytest

from cmtree_jax import main
from cmtree_jax.jobs import hidden
from cmtree_jax.recipe.partition import leaf_paths, partition_from_json
from cmtree_jax.report import tables
from cmtree_jax.tree import cuts, growth
from tests import corpora

_TARGETS = {"arithmetic": "sums"}
_TINY = """
values.rounds=1 values.population=4 values.max_age=24 values.min_age=4
values.steps_between_rounds=4 values.lookahead=4 values.outer_rows=8
values.probe_rows=8 values.validation_rows=8 final.seeds=1
cmtree.branching=2,2 cmtree.start.angle_dim=4 cmtree.step.solver_steps=5
cmtree.replay.size=256 guard.on=false baselines=natural
""".split()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Three sources and a target."""
  folder = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(folder, _TARGETS)
  return folder


def _recipe(corpus, workdir, *overrides):
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, workdir, _TARGETS, *_TINY, *overrides
  )
  assert main.main([*arguments, "--config.data.targets="]) == 0
  return json.loads((workdir / "recipe.json").read_text())


@pytest.mark.slow
def test_a_tree_s_levels_are_scored_by_the_factor(corpus, tmp_path, capsys):
  found = _recipe(corpus, tmp_path / "run", "data.bed=spoiled:letters:0.5")
  told = capsys.readouterr()
  assert "By what the bed did to documents: letters" in told.out
  assert "Bed spoiled:letters:0.5" in told.err
  shares = found["token_shares"]["factor"]
  assert [one["name"] for one in shares] == ["letters", "sound"]
  assert sum(one["recipe"] for one in shares) == pytest.approx(1, abs=0.002)
  assert sum(one["natural"] for one in shares) == pytest.approx(1, abs=0.002)
  *rows, pair = found["separations"]
  assert [(row["level"], row["label"]) for row in rows] == [
    *((level, label) for level in (0, 1) for label in ("source", "factor"))
  ]
  for row in rows:
    assert row["entropy"] == pytest.approx(
      {"factor": 1.0, "source": np.log2(3)}[row["label"]], abs=0.1
    )
    share = row["added"] / row["entropy"]
    assert row["added_share"] == pytest.approx(share)
  assert pair["levels"] == [0, 1] and 0 <= pair["overlap"] <= 1
  assert partition_from_json(found["partition"]).log_w_L.shape == (4,)


@pytest.mark.slow
def test_without_a_bed_no_level_is_scored_and_growth_is_told(
  corpus, tmp_path, capsys, monkeypatch
):
  # A dozen documents split a leaf here, and one round's chance is enough.
  monkeypatch.setattr(growth, "_FEWEST", 1.0)
  monkeypatch.setattr(cuts.Contrast, "penalty_M", 0.0)
  grow = ("cmtree.branching=2", "cmtree.grow=true", "cmtree.max_leaves=3")
  found = _recipe(corpus, tmp_path / "run", *grow, "values.rounds=2")
  assert "separations" not in found
  assert set(found["token_shares"]) == {"nearest_target", "source"}
  rounds, events = found["history"][:2], found["history"][2:]
  assert found["growth"] == events
  assert [one["event"] for one in events] == [
    growth.KINDS[int(row["event.kind"])] for row in rounds if row["event.kind"]
  ]
  assert events[0]["event"] == "split"
  assert f"Round {events[0]['step']}: split of node" in capsys.readouterr().out
  tree = partition_from_json(found["partition"])
  known = {row["path"] for row in found["nodes"]}
  assert known <= {"", *leaf_paths(tree), "0", "1"}


def test_leaves_without_levels_separate_nothing():
  assert hidden.separations(None, None, None) == []  # type: ignore
  lines = tables.token_lines({"nearest_target": [], "source": []})
  assert len(lines) == 1
