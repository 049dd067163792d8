"""Weights and repeat counts of every document, as one Parquet file without text."""

from pathlib import Path

from cmtree_jax.recipe.export import files
from cmtree_jax.recipe.export.base import Capped, Options

FILE = "parquet/weights.parquet"


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes document_id, leaf, weight, tokens, repeats, in the corpus's order."""
  del options  # weights and repeats are within the budget
  import pyarrow as pa
  import pyarrow.parquet as pq

  schema = pa.schema(
    [
      ("document_id", pa.string()),
      ("leaf", pa.dictionary(pa.int32(), pa.string())),
      ("weight", pa.float64()),
      ("tokens", pa.int64()),
      ("repeats", pa.int64()),
    ]
  )
  corpus = capped.corpus
  names = pa.array(corpus.leaf_names, pa.string())
  path = folder / FILE
  with (
    files.replacing(path) as temporary,
    pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
  ):
    for shard, count_N in zip(corpus.shards(), capped.repeats, strict=True):
      leaf_N = pa.array(shard.leaf_N, pa.int32())
      columns = [
        pa.array(shard.id, pa.string()),
        pa.DictionaryArray.from_arrays(leaf_N, names),
        pa.array(shard.weight_N, pa.float64()),
        pa.array(shard.num_tokens_N, pa.int64()),
        pa.array(count_N, pa.int64()),
      ]
      writer.write_table(pa.table(columns, schema=schema))
  return [path]
