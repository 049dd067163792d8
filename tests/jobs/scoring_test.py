"""A whole main job of leaves that score, beside a tree that is a residual."""

import json
import pathlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import main
from cmtree_jax.jobs import cells
from cmtree_jax.recipe import recipe
from cmtree_jax.recipe.partition import TreePartition
from cmtree_jax.report.describe import Node
from tests import corpora

_TARGETS = {"arithmetic": "sums", "programs": "code"}
# No round: what a search ends with is what it starts from.
_SETTINGS = (
  *("cmtree.branching=2,2", "cmtree.start.angle_dim=4", "cmtree.scores=true"),
  *("values.rounds=0", "values.population=4", "values.validation_rows=8"),
  *("values.outer_rows=8", "values.probe_rows=8", "guard.on=false"),
  *("final.seeds=1", "final.calls_per_save=3", "data.targets="),
  "baselines=classifier_soft,classifier_embedding",
  # The name of a variant is free.
  "variants.classifier_embedding=cmtree,cmtree.offset=classifier_soft",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[pathlib.Path, list[dict]]:
  """The workdir, and the documents of its corpus."""
  corpus = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(corpus, _TARGETS)
  workdir = tmp_path_factory.mktemp("runs") / "scoring"
  arguments = corpora.arguments(
    "configs/smoke.py", corpus, workdir, _TARGETS, *corpora.TINY, *_SETTINGS
  )
  assert main.main(arguments) == 0
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  return workdir, [json.loads(line) for line in lines]


def test_leaves_that_score_are_handed_over_for_any_documents(finished):
  workdir, rows = finished
  made = json.loads((workdir / "recipe.json").read_text())
  table = pq.read_table(workdir / "documents.parquet").to_pydict()
  weight_of = dict(zip(table["document_id"], table["weight"], strict=True))
  loaded = recipe.load(workdir)
  assert isinstance(loaded.partition, TreePartition) and loaded.partition.scores
  applied = loaded.apply([row["text"] for row in rows])
  expected_N = [weight_of[row["id"]] for row in rows]
  np.testing.assert_allclose(applied.weight_N, expected_N, rtol=1e-4)
  # Each document has a weight of its own, and the cap is that of documents.
  assert len(np.unique(applied.weight_N)) > 8
  assert max(expected_N) <= made["budget"]["max_weight"] * (1 + 1e-9)
  # The leaves' weights are the means inside: the mixture sums to one.
  nodes = [Node(**node) for node in made["nodes"]]
  assert nodes[0].mixture == pytest.approx(1, rel=1e-4)
  leaves = [node for node in nodes if "." in node.path]
  assert len(leaves) > 1 and any(node.times for node in leaves)
  log_w_L = loaded.partition.log_w_L
  for node in leaves:
    first, second = map(int, node.path.split("."))
    weight = np.exp(log_w_L[2 * first + second])
    assert node.weight == pytest.approx(weight, rel=1e-3, abs=1e-6)


def test_a_residual_before_the_first_round_is_its_scorer(finished):
  workdir, _ = finished
  folder, target_set = cells.Folder(workdir / "cells"), "arithmetic+programs"
  scorer, residual = (
    cells.Search(name, target_set, 0)
    for name in ("classifier_soft", "classifier_embedding")
  )
  scored_N, found_N = map(folder.log_w_N, (scorer, residual))
  np.testing.assert_allclose(found_N, scored_N, atol=2e-5)
  assert np.ptp(scored_N) > 1
  found = folder.found(residual)
  assert found is not None and found.partition is None
