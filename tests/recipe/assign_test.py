"""A recipe's verdict on shards: equal to that on the whole corpus."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data.build import prepare, workers
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import assign
from cmtree_jax.recipe import partition as partitions
from tests import corpora


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> prepare.Prepared:
  folder = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)
  words = np.array([f"word{i}" for i in range(40)])
  rows = [
    {"id": f"{i}", "text": " ".join(rng.choice(words, 9))} for i in range(50)
  ]
  goal = [{"text": f"{s} goal", "split": s} for s in ("train", "valid", "test")]
  return corpora.prepared(folder, rows, goal, "data.shard_documents=20")


@pytest.fixture(scope="module")
def partition() -> partitions.ClusterPartition:
  centers = np.eye(3, 4, dtype=np.float32)
  return partitions.clusters(centers).with_weights(np.log([0.5, 1.0, 2.0]))


def _assign(partition, prepared, folder, name="local"):
  return assign.assign(
    partition,
    prepared,
    folder,
    workers.Workers(workers.Plan(name)),
    harden=False,
    value_N=np.where(np.arange(50) % 7, np.nan, np.arange(50.0)),
  )


def test_shards_together_are_the_whole(partition, prepared, tmp_path):
  assigned = _assign(partition, prepared, tmp_path)
  assert len(assigned) == 3
  assign.join(assigned, tmp_path / "documents.parquet")
  table = pq.read_table(tmp_path / "documents.parquet").to_pydict()
  whole = partitions.apply_partition(partition, prepared.pool.embedding_NE)
  np.testing.assert_array_equal(table["leaf"], whole.leaf_N)
  np.testing.assert_array_equal(table["weight"], whole.weight_N)
  assert table["path"] == whole.path_N
  assert table["document_id"] == [str(i) for i in range(50)]
  np.testing.assert_array_equal(table["tokens"], prepared.pool.tokens.pairs_N)
  assert table["value"][:8] == [0.0, *[None] * 6, 7.0]


def test_weights_of_documents_stay_with_their_documents(prepared, tmp_path):
  log_w_N = np.log(np.arange(1.0, 51.0))
  weights = DocumentWeights(log_w_N)
  assigned = _assign(weights, prepared, tmp_path)
  assign.join(assigned, tmp_path / "documents.parquet")
  table = pq.read_table(tmp_path / "documents.parquet")
  np.testing.assert_allclose(table["weight"], np.arange(1.0, 51.0))
  for name in ("leaf", "path", "confidence"):
    assert table[name].null_count == 50
  # Exporters see one part that holds all.
  found = assign.totals(assigned, 1)
  assert found.documents_L.tolist() == [50]
  shard = assign.load_shard(prepared.documents.paths[1], assigned[1])
  assert shard.leaf_N.tolist() == [0] * 20
  np.testing.assert_allclose(shard.weight_N, np.arange(21.0, 41.0))


def test_totals_are_sums_over_leaves(partition, prepared, tmp_path):
  assigned = _assign(partition, prepared, tmp_path)
  found = assign.totals(assigned, 3)
  whole = partitions.apply_partition(partition, prepared.pool.embedding_NE)
  tokens = prepared.pool.tokens.pairs_N
  for leaf in range(3):
    inside = whole.leaf_N == leaf
    assert found.documents_L[leaf] == inside.sum()
    assert found.tokens_L[leaf] == tokens[inside].sum()
    weighted = (tokens * whole.weight_N)[inside].sum()
    assert found.weighted_L[leaf] == pytest.approx(weighted)


def test_beam_assigns_the_same_bytes(partition, prepared, tmp_path):
  pytest.importorskip("apache_beam")
  files = [
    _assign(partition, prepared, tmp_path / name, name)
    for name in ("local", "beam")
  ]
  for one, other in zip(*files, strict=True):
    assert one.read_bytes() == other.read_bytes()
