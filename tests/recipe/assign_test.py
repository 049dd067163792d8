"""A recipe's verdict on shards: equal to that on the whole corpus."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from cmtree_jax.data.build import prepare, workers
from cmtree_jax.methods.base import DocumentWeights, Path
from cmtree_jax.recipe import assign, recap
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
  assign.join(assigned, tmp_path / "documents.parquet", max_weight=9.0)
  table = pq.read_table(tmp_path / "documents.parquet").to_pydict()
  whole = partitions.apply_partition(partition, prepared.pool.embedding_NE)
  np.testing.assert_array_equal(table["leaf"], whole.leaf_N)
  mean = prepared.pool.tokens.mass_N @ whole.weight_N
  np.testing.assert_allclose(table["weight"], whole.weight_N / mean, rtol=1e-12)
  # Exporters cap for their own budget what the recipe says.
  (*_, last) = assign.columns_of(assigned, "weight")
  np.testing.assert_array_equal(last["weight"], whole.weight_N[40:])
  assert table["path"] == whole.path_N
  assert table["document_id"] == [str(i) for i in range(50)]
  np.testing.assert_array_equal(table["tokens"], prepared.pool.tokens.pairs_N)
  assert table["value"][:8] == [0.0, *[None] * 6, 7.0]


def test_weights_of_documents_stay_with_their_documents(prepared, tmp_path):
  log_w_N = np.log(np.arange(1.0, 51.0))
  weights = DocumentWeights(log_w_N)
  assigned = _assign(weights, prepared, tmp_path)
  capped = assign.join(assigned, tmp_path / "documents.parquet", max_weight=1.5)
  table = pq.read_table(tmp_path / "documents.parquet")
  found_N = table["weight"].to_numpy()
  mass_N = prepared.pool.tokens.mass_N
  assert mass_N @ found_N == pytest.approx(1)
  assert found_N.max() == 1.5
  assert capped.at_cap == (found_N == 1.5).sum() > 1
  below_N = found_N < 1.5
  ratio_N = found_N[below_N] / np.arange(1.0, 51.0)[below_N]
  np.testing.assert_allclose(ratio_N, ratio_N[0])
  before_N = np.arange(1.0, 51.0) / (mass_N @ np.arange(1.0, 51.0))
  moved = mass_N @ np.maximum(before_N - found_N, 0)
  assert capped.moved == pytest.approx(moved)
  assert f"{moved:.2%} of the training tokens" in capped.text()
  assert moved < 0.25 and "another recipe" not in capped.text()
  for name in ("leaf", "path", "confidence"):
    assert table[name].null_count == 50
  # Exporters see one part that holds all.
  shard = assign.load_shard(prepared.documents.paths[1], assigned[1])
  assert shard.leaf_N.tolist() == [0] * 20
  np.testing.assert_allclose(shard.weight_N, np.arange(21.0, 41.0))


def test_stages_are_joined_to_their_mean(partition, prepared, tmp_path):
  mass_N = prepared.pool.tokens.mass_N
  stages = [
    partition.with_weights(np.log(weight_L))
    for weight_L in ([0.5, 1.0, 2.0], [1.5, 1.0, 0.9])
  ]
  assigned = [
    _assign(stage, prepared, tmp_path / f"{number}")
    for number, stage in enumerate(stages)
  ]
  path, share_G = tmp_path / "documents.parquet", np.array([0.75, 0.25])
  capped = assign.join_stages(assigned, share_G, path, max_weight=1.4)
  wanted_N, moved, at_cap_N = np.zeros(50), 0.0, np.zeros(50, bool)
  for stage, share in zip(stages, share_G, strict=True):
    one_N = partitions.apply_partition(
      stage, prepared.pool.embedding_NE
    ).weight_N
    one = recap.recap(one_N, prepared.pool.tokens.pairs_N, max_weight=1.4)
    wanted_N += share * one.weight_N
    moved += share * one.moved
    at_cap_N |= one.weight_N > 1.4 - 1e-9
  table = pq.read_table(path)
  np.testing.assert_allclose(table["weight"], wanted_N)
  assert mass_N @ wanted_N == pytest.approx(1)
  assert (capped.moved, capped.at_cap) == (pytest.approx(moved), at_cap_N.sum())
  assert 0 < at_cap_N.sum() < 50
  assert table["document_id"].to_pylist() == [f"{i}" for i in range(50)]
  np.testing.assert_array_equal(
    assign.load_column(assigned[1][0], "weight"),
    pq.read_table(assigned[1][0])["weight"].to_numpy(),
  )


def test_other_weights_or_leaves_have_another_digest(
  partition, prepared, tmp_path
):
  def digest(name, one):
    return assign.digest(_assign(one, prepared, tmp_path / name))

  first = digest("a", partition)
  assert digest("b", partition) == first
  heavier = partition.with_weights(np.log([0.5, 1.0, 2.001]))
  assert digest("c", heavier) != first
  moved = partition._replace(group_F=np.array([1, 0, 2]))
  moved = moved.with_weights(partition.log_w_L[[1, 0, 2]])
  assert digest("d", moved) != first  # the same weights in other leaves


def test_beam_assigns_the_same_bytes(partition, prepared, tmp_path):
  pytest.importorskip("apache_beam")
  files = [
    _assign(partition, prepared, tmp_path / name, name)
    for name in ("local", "beam")
  ]
  for one, other in zip(*files, strict=True):
    assert one.read_bytes() == other.read_bytes()


def test_places_on_a_path_stay_with_their_documents(prepared, tmp_path):
  place_N = np.random.default_rng(1).permutation(50).astype(np.int32)
  weights = DocumentWeights(np.zeros(50))
  plain = _assign(weights, prepared, tmp_path / "plain")
  assigned = _assign(
    weights._replace(path=Path(place_N)), prepared, tmp_path / "path"
  )
  assign.join(assigned, tmp_path / "documents.parquet", max_weight=9.0)
  table = pq.read_table(tmp_path / "documents.parquet")
  np.testing.assert_array_equal(table["place"], place_N)
  # One that has other places is another export, and one by chance has none.
  assert assign.digest(assigned) != assign.digest(plain)
  control = weights._replace(path=Path(place_N, shuffled=True))
  assert assign.digest(
    _assign(control, prepared, tmp_path / "control")
  ) == assign.digest(plain)
  corpus = assign.corpus(assigned, prepared, {"": "all"}, corpora.LOCAL)
  places = [place() for place in corpus.places]
  np.testing.assert_array_equal(np.concatenate(places), place_N)
  assert not assign.corpus(plain, prepared, {"": "all"}, corpora.LOCAL).places
