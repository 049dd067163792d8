"""Weights and repeat counts of every document, as one Parquet file without text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.recipe.export.base import Capped, Options, Shard

FILE = "parquet/weights.parquet"


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes document_id, leaf, weight, tokens, repeats, in the corpus's order.

  With a schedule a document has a row for every stage, by the stage's number, and a
  shard of the corpus has its rows stage after stage. With a path the last column is
  each document's place on it.
  """
  del options  # weights and repeats are within the budget
  import pyarrow as pa
  import pyarrow.parquet as pq

  fields = [
    ("document_id", pa.string()),
    ("leaf", pa.dictionary(pa.int32(), pa.string())),
    ("weight", pa.float64()),
    ("tokens", pa.int64()),
    ("repeats", pa.int64()),
  ]
  if capped.stages:
    fields = [("stage", pa.int32()), *fields]
  places = capped.corpus.places
  if places:
    fields.append(("place", pa.int64()))
  schema = pa.schema(fields)
  names = pa.array(capped.corpus.leaf_names, pa.string())
  path = folder / FILE
  path.parent.mkdir(parents=True, exist_ok=True)
  with (
    store.replacing(path) as temporary,
    pq.ParquetWriter(
      temporary, schema, compression="zstd", write_page_checksum=True
    ) as writer,
  ):
    for number, (stage, shard, count_N) in enumerate(_rows(capped)):
      leaf_N = pa.array(shard.leaf_N, pa.int32())
      columns: list[Any] = [
        pa.array(shard.id, pa.string()),
        pa.DictionaryArray.from_arrays(leaf_N, names),
        pa.array(shard.weight_N, pa.float64()),
        pa.array(shard.num_tokens_N, pa.int64()),
        pa.array(count_N, pa.int64()),
      ]
      if capped.stages:
        columns = [pa.array(np.full(len(shard.id), stage, np.int32)), *columns]
      if places:
        columns.append(pa.array(places[number](), pa.int64()))
      writer.write_table(pa.table(columns, schema=schema))
  return [path]


def _rows(capped: Capped) -> Iterator[tuple[int, Shard, np.ndarray]]:
  """(stage, shard with its weights in the stage, copies); one stage without any."""
  for number, shard in enumerate(capped.corpus.shards()):
    if not capped.stages:
      yield 0, shard, capped.repeats[number]
    for g, stage in enumerate(capped.stages):
      weighed = shard._replace(weight_N=stage.weights[number])
      yield g, weighed, stage.repeats[number]
