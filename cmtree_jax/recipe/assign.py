"""A recipe's verdict on every document, shard by shard: leaf, weight, path.

The same function runs here, on all cores and on Beam; what it writes feeds the
exporters and, with weights under the cap of the job's budget, becomes
documents.parquet. Where documents have weights of their own there are no leaves: leaf,
path and confidence are null. Where documents are read along a path, `place` says in
which order.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.data.build.workers import Workers
from cmtree_jax.data.draw import sampler
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recap
from cmtree_jax.recipe.export import base

PARTITION_FILE = "partition.json"
DOCUMENTS_FILE = "documents.parquet"
PLACE = "place"  # its column that only a path has: each document's place on it


class ShardItem(NamedTuple):
  """One shard of a prepared corpus; see `assign_shard`."""

  done: Path  # Parquet, the rows of documents.parquet
  documents: Path  # the shard
  prepared: Path  # folder of the pool's arrays
  rows: tuple[int, int]  # of the pool, that the shard holds
  partition: Path | None  # JSON; None: documents have weights of their own
  log_w_N: np.ndarray | None  # of these rows, where they have
  place_N: np.ndarray | None  # of these rows, where they have a path
  harden: bool
  value_N: np.ndarray  # measured values of these rows; NaN where never measured


def assign(
  weights: partitions.Partition | DocumentWeights,
  data: prepare.Prepared,
  folder: Path,
  workers: Workers,
  *,
  harden: bool,
  value_N: np.ndarray,
) -> list[Path]:
  """Assigns all shards; returns a Parquet file for each, in `folder`.

  Args:
    weights: of leaves, or of the corpus's own documents.
    data: the corpus.
    folder: gets the files.
    workers: who does it.
    harden: as in `apply_partition`.
    value_N: measured values of the documents; NaN where never measured.
  """
  folder.mkdir(parents=True, exist_ok=True)
  file, log_w_N, place_N = None, None, None
  if isinstance(weights, DocumentWeights):
    log_w_N = np.asarray(weights.log_w_N, np.float64)
    # What was packed by chance has no order to hand over.
    if weights.path is not None and not weights.path.shuffled:
      place_N = weights.path.place_N
  else:
    file = folder / PARTITION_FILE
    store.write_atomically(file, store.to_json(weights.to_json()))
  starts = data.documents.start_S1.tolist()
  items = [
    ShardItem(
      folder / f"{number:05d}.parquet",
      path,
      data.folder,
      (start, stop),
      file,
      None if log_w_N is None else log_w_N[start:stop],
      None if place_N is None else place_N[start:stop],
      harden,
      value_N[start:stop],
    )
    for number, (path, start, stop) in enumerate(
      zip(data.documents.paths, starts[:-1], starts[1:], strict=True)
    )
  ]
  workers.run(assign_shard, items, text="assigning documents")
  return [item.done for item in items]


def assign_shard(item: ShardItem) -> None:
  """What a recipe says of a shard's documents, on the host alone."""
  import pyarrow as pa

  pool = prepare.load_set(item.prepared, "pool", mmap_mode="r")
  texts = store.read_table(item.documents, "id", "source")
  rows = slice(*item.rows)
  if item.log_w_N is None:
    verdict = _of_leaves(item, pool.embedding_NE[rows], texts["source"])
  else:
    verdict = _of_documents(item.log_w_N)
  columns = {
    "document_id": pa.array(texts["id"], pa.string()),
    **verdict,
    # NaN, never measured, is null.
    "value": pa.array(item.value_N, pa.float64(), from_pandas=True),
    "tokens": pa.array(pool.tokens.pairs_N[rows], pa.int64()),
    "digest": pa.array(sampler.keys_of_tokens(pool.tokens, rows), pa.uint64()),
  }
  if item.place_N is not None:
    columns[PLACE] = pa.array(item.place_N, pa.int64())
  store.write_parquet(item.done, pa.table(columns))


def _of_leaves(
  item: ShardItem, embedding_NE: np.ndarray, sources: Sequence[str]
) -> dict[str, Any]:
  """Columns of documents that are in leaves."""
  import jax
  import pyarrow as pa

  assert item.partition is not None
  partition = partitions.partition_from_json(
    json.loads(item.partition.read_text())
  )
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    applied = partitions.apply_partition(
      partition, np.asarray(embedding_NE), sources, harden=item.harden
    )
  return {
    "weight": pa.array(applied.weight_N, pa.float64()),
    "leaf": pa.array(applied.leaf_N, pa.int32()),
    "path": pa.array(applied.path_N, pa.string()),
    "confidence": pa.array(applied.confidence_N, pa.float32()),
  }


def _of_documents(log_w_N: np.ndarray) -> dict[str, Any]:
  """Columns of documents with weights of their own."""
  import pyarrow as pa

  size = len(log_w_N)
  return {
    "weight": pa.array(np.exp(log_w_N), pa.float64()),
    "leaf": pa.nulls(size, pa.int32()),
    "path": pa.nulls(size, pa.string()),
    "confidence": pa.nulls(size, pa.float32()),
  }


def join(
  assigned: Sequence[Path], path: Path, *, max_weight: float
) -> recap.Recapped:
  """documents.parquet: one row group per shard, and no weight above a cap."""
  capped = _capped(assigned, max_weight)
  _write(assigned, capped.weight_N, path)
  return capped


def join_stages(
  assigned: Sequence[Sequence[Path]],
  share_G: np.ndarray,
  path: Path,
  *,
  max_weight: float,
) -> recap.Recapped:
  """The same of a schedule: the mean weights over its stages, the leaves of its last.

  Args:
    assigned: files of `assign`, for every stage.
    share_G: of the training tokens, by stage.
    path: of the file.
    max_weight: the cap, in every stage.
  """
  stages = [_capped(one, max_weight) for one in assigned]
  capped = recap.mean(stages, share_G)
  _write(assigned[-1], capped.weight_N, path)
  return capped


def _capped(assigned: Sequence[Path], max_weight: float) -> recap.Recapped:
  shards = list(columns_of(assigned, "weight", "tokens"))
  weight_N, tokens_N = (
    np.concatenate([one[name] for one in shards])
    for name in ("weight", "tokens")
  )
  return recap.recap(weight_N, tokens_N, max_weight=max_weight)


def _write(assigned: Sequence[Path], weight_N: np.ndarray, path: Path) -> None:
  """One table of what was assigned, with other weights."""
  import pyarrow as pa

  def tables():
    begin = 0
    for one in assigned:
      table = store.read_parquet(one)
      part_N = weight_N[begin : begin + len(table)]
      begin += len(table)
      place = table.column_names.index("weight")
      yield table.set_column(place, "weight", pa.array(part_N, pa.float64()))

  store.write_row_groups(path, tables())


def digest(assigned: Sequence[Path]) -> str:
  """A hash of all weights, leaves and places: equal ones give equal exports."""
  names = ["weight", "leaf"] + [PLACE] * has_path(assigned)
  found = blake2b(digest_size=16)
  for one in columns_of(assigned, *names):
    for name in names:
      found.update(one[name].tobytes())
  return found.hexdigest()


def has_path(assigned: Sequence[Path]) -> bool:
  """Whether documents are read along a path."""
  import pyarrow.parquet as pq

  return PLACE in pq.read_schema(assigned[0]).names


def corpus(
  assigned: Sequence[Path],
  data: prepare.Prepared,
  leaf_names: Mapping[str, str],
  workers: Workers,
) -> base.Corpus:
  """What an export is made from.

  Args:
    assigned: files of `assign`.
    data: the corpus that they are about.
    leaf_names: path -> name of every leaf, in the leaves' order; one name for
      all documents where there are none.
    workers: who exporters let work on shards.
  """
  return base.Corpus(
    parts=tuple(
      functools.partial(load_shard, path, numbers)
      for path, numbers in zip(data.documents.paths, assigned, strict=True)
    ),
    leaf_names=tuple(leaf_names.values()),
    leaf_paths=tuple(leaf_names),
    num_documents=len(data.pool),
    total_tokens=int(data.pool.tokens.pairs_N.sum()),
    workers=workers,
    places=tuple(
      functools.partial(load_column, path, PLACE)
      for path in (assigned if has_path(assigned) else ())
    ),
  )


def load_shard(documents: Path, assigned: Path) -> base.Shard:
  """A shard's texts and what was assigned to them."""
  texts = store.read_table(documents, "id", "text")
  (one,) = columns_of([assigned], "tokens", "weight", "leaf")
  return base.Shard(
    texts["id"], texts["text"], one["tokens"], one["weight"], one["leaf"]
  )


def load_column(assigned: Path, name: str) -> np.ndarray:
  """What was assigned to a shard's documents: one column of numbers alone."""
  (one,) = columns_of([assigned], name)
  return one[name]


def columns_of(
  assigned: Sequence[Path], *names: str
) -> Iterator[dict[str, Any]]:
  """Columns of numbers, shard by shard; without leaves all are in the first."""

  for path in assigned:
    table = store.read_parquet(path, *names)
    yield {name: table[name].fill_null(0).to_numpy() for name in names}
