"""A job whose rows are packed along a path, beside its control, and what it leaves."""

import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax import main
from cmtree_jax.data.draw import bundles
from cmtree_jax.jobs import cells
from cmtree_jax.loops import final
from tests import corpora

_TARGETS = ("arithmetic", "programs")
_SETTINGS = (
  *("method=associated", "baselines=associated_shuffled", "guard.on=False"),
  *("data.targets=", "final.seeds=1", "batch.row_tokens=128", "batch.rows=2"),
  *("export.formats=jsonl,leaves,parquet", "data.shard_documents=50"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """(workdir, corpus, name -> what its final training drew from)."""
  corpus = tmp_path_factory.mktemp("corpus")
  corpora.write_job_corpus(corpus, {"arithmetic": "sums", "programs": "code"})
  workdir = tmp_path_factory.mktemp("runs") / "associated"
  pools, run = {}, final.run

  def run_told(models, *given, **more):
    pools.update({one.name: (one.pool, one.weight_N) for one in models})
    return run(models, *given, **more)

  arguments = corpora.arguments(
    "configs/claims.py:toy", corpus, workdir, _TARGETS, *_SETTINGS
  )
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(final, "run", run_told)
    assert main.main(arguments) == 0
  return workdir, corpus, pools


def test_the_final_trainings_draw_the_same_documents(finished):
  _, _, pools = finished
  names = {name.split(".")[0]: one for name, one in pools.items()}
  assert not isinstance(names["natural"][0], bundles.Bundles)
  drawn = []
  for name in ("associated", "associated_shuffled"):
    pool, weight_N = names[name]
    assert isinstance(pool, bundles.Bundles)
    assert pool.shuffled == (name == "associated_shuffled")
    rows = pool.course.rows
    assert rows == 12 * 2 and pool.course.passes == 1
    _, batch = pool.draw(pool.start(pool.init(), weight_N), rows)
    drawn.append(batch.document_BT)
    assert (batch.segment_BT == 0).all()
  one, other = (np.sort(some.ravel()) for some in drawn)
  np.testing.assert_array_equal(one, other)
  assert (drawn[0] != drawn[1]).mean() > 0.5


def test_the_recipe_carries_the_path(finished):
  workdir, _, _ = finished
  made = json.loads((workdir / "recipe.json").read_text())
  assert "packed along the path" in made["packing"]
  search = cells.Search("associated", cells.ANY, 0)
  path = cells.Folder(workdir / "cells").path_of(search)
  assert path is not None and not path.shuffled
  table = pq.read_table(workdir / "documents.parquet").to_pydict()
  assert table["place"] == path.place_N.tolist()
  assert sorted(table["place"]) == list(range(120))
  # Near documents stand together: those of one source.
  source = [name.split("-")[0] for name in table["document_id"]]
  order = np.argsort(table["place"])
  same = [source[i] == source[j] for i, j in itertools.pairwise(order.tolist())]
  assert np.mean(same) > 0.9


def test_it_is_applied_to_a_part_of_the_corpus(finished, tmp_path, capsys):
  workdir, corpus, _ = finished
  lines = (corpus / "pool.jsonl").read_text().splitlines()
  (tmp_path / "part.jsonl").write_text("\n".join(lines[30:90]) + "\n")
  arguments = corpora.arguments(
    "configs/smoke.py",
    corpus,
    tmp_path / "run",
    _TARGETS,
    f"recipe.apply={workdir}",
    f"data.source=jsonl:{tmp_path}/part.jsonl",
    "export.formats=jsonl,parquet,array_record",
  )
  assert main.main(arguments) == 0
  told = capsys.readouterr().err.replace("\n", " ")
  assert "The order is in: jsonl, parquet." in told
  assert "without the order: array_record;" in told
  places = [
    dict(
      zip(
        *(table[x].to_pylist() for x in ("document_id", "place")), strict=True
      )
    )
    for table in (
      pq.read_table(workdir / "documents.parquet"),
      pq.read_table(tmp_path / "run/export/parquet/weights.parquet"),
    )
  ]
  whole, part = places
  assert len(part) == 60 and sorted(part.values()) == list(range(60))
  assert sorted(part, key=lambda x: part[x]) == sorted(
    part, key=lambda x: whole[x]
  )
