"""What each file format holds, read back by the library that trainers read with."""

import json
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
import yaml

from cmtree_jax.recipe.export import (
  array_record,
  files,
  jsonl,
  leaves,
  parquet,
)
from tests.recipe.export.conftest import NAMES


def tfds_rows(builder) -> list[dict[str, Any]]:
  """What TFDS reads at every index of the only split."""
  source = builder.as_data_source(split="train")
  return [source[i] for i in range(len(source))]


def test_parquet_has_weights_and_repeats_in_order(
  capped, options, merged, tmp_path
):
  import pyarrow.parquet as pq

  (path,) = parquet.export(capped, tmp_path, options)
  table = pq.read_table(path).to_pydict()
  assert table["document_id"] == merged.id
  assert table["leaf"] == [NAMES[i] for i in merged.leaf_N]
  assert table["weight"] == merged.weight_N.tolist()
  assert table["tokens"] == merged.num_tokens_N.tolist()
  assert table["repeats"] == np.concatenate(capped.repeats).tolist()


def test_jsonl_repeats_documents_as_they_count(
  capped, options, tmp_path, read_lines
):
  paths = jsonl.export(capped, tmp_path, options)
  # Every shard is a file of its own; the empty second one makes none.
  assert [p.name for p in paths] == [
    f"part-{i:05d}.jsonl.zst" for i in (0, 2, 3)
  ]
  shards = [
    pair
    for pair in zip(capped.corpus.shards(), capped.repeats, strict=True)
    if len(pair[1])
  ]
  for path, (shard, count_N) in zip(paths, shards, strict=True):
    lines = read_lines(path)
    found = Counter((x["id"], x["text"], x["leaf"]) for x in lines)
    names = [NAMES[i] for i in shard.leaf_N]
    keys = zip(shard.id, shard.text, names, strict=True)
    wanted = Counter(dict(zip(keys, count_N.tolist(), strict=True)))
    assert found == +wanted
    in_order = [
      i for i, n in zip(shard.id, count_N, strict=True) for _ in range(n)
    ]
    assert [x["id"] for x in lines] != in_order  # shuffled


def test_jsonl_follows_the_seed(capped, options, tmp_path):
  def content(folder, seed):
    paths = jsonl.export(capped, folder, options._replace(seed=seed))
    return [path.read_bytes() for path in paths]

  first = content(tmp_path / "a", 3)
  assert content(tmp_path / "b", 3) == first
  assert content(tmp_path / "c", 4) != first


def test_leaves_hold_each_document_once_in_its_leaf(
  capped, options, merged, tmp_path, read_lines, documents_by_leaf
):
  written = leaves.export(capped, tmp_path, options)
  parts = leaves.write(capped, tmp_path)
  assert [x.name for x in parts] == [NAMES[i] for i in (0, 1, 2, 4)]
  assert sum(x.share for x in parts) == pytest.approx(1, abs=1e-12)
  for leaf in parts:
    lines = [x for f in leaf.files for x in read_lines(tmp_path / f)]
    wanted = documents_by_leaf[leaf.name]
    assert [(x["id"], x["text"]) for x in lines] == wanted
    of_leaf = merged.leaf_N == NAMES.index(leaf.name)
    assert [x["weight"] for x in lines] == merged.weight_N[of_leaf].tolist()
    assert leaf.num_documents == of_leaf.sum()
    assert leaf.num_tokens == merged.num_tokens_N[of_leaf].sum()
    tokens_N = (merged.weight_N * merged.num_tokens_N)[of_leaf]
    assert leaf.share == pytest.approx(
      tokens_N.sum() / merged.num_tokens_N.sum()
    )
  on_disk = sorted(p for p in tmp_path.rglob("*") if p.is_file())
  assert on_disk == sorted(written)


def test_a_small_buffer_makes_more_files_of_the_same_documents(
  capped, tmp_path, read_lines, documents_by_leaf, monkeypatch
):
  monkeypatch.setattr(leaves, "BUFFER_BYTES", 300)
  held, most = 0, 0

  def encode(shard, row):
    nonlocal held, most
    record = json.dumps([shard.id[row], shard.text[row]]).encode() + b"\n"
    held += len(record)
    most = max(most, held)
    return record

  def write_group(group):
    nonlocal held
    held -= sum(map(len, group.records))
    path = tmp_path / "x" / group.leaf / str(group.number)
    return files.write_zst(path, group.records)

  parts = leaves.gather(
    capped,
    tmp_path,
    "x",
    encode=encode,
    write_group=write_group,
  )
  assert most < 300 + 150  # the last record brings it over
  assert len(parts[0].files) > 2
  for leaf in parts:
    lines = [x for f in leaf.files for x in read_lines(tmp_path / f)]
    assert [tuple(x) for x in lines] == documents_by_leaf[leaf.name]


def test_rates_of_documents_give_the_shares_of_tokens(capped, tmp_path):
  parts = leaves.write(capped, tmp_path)
  rate = leaves.document_rates(parts)
  assert sum(rate.values()) == pytest.approx(1, abs=1e-12)
  tokens = np.array(
    [rate[x.name] * x.num_tokens / x.num_documents for x in parts]
  )
  shares = [x.share for x in parts]
  np.testing.assert_allclose(tokens / tokens.sum(), shares, rtol=1e-12)
  # The leaf of long documents is drawn less often than its share of tokens.
  assert rate["0.1"] < 0.5 * parts[1].share


def test_tfds_reads_each_leaf(
  capped, options, merged, tmp_path, documents_by_leaf
):
  import tensorflow_datasets as tfds

  array_record.export(capped, tmp_path, options)
  for leaf in array_record.write(capped, tmp_path):
    folder = tmp_path / "array_record" / leaf.name / "1.0.0"
    rows = tfds_rows(tfds.builder_from_directory(folder))
    assert [
      (x["id"].decode(), x["text"].decode()) for x in rows
    ] == documents_by_leaf[leaf.name]
    of_leaf = merged.leaf_N == NAMES.index(leaf.name)
    assert [x["tokens"] for x in rows] == merged.num_tokens_N[of_leaf].tolist()
    np.testing.assert_allclose(
      [x["weight"] for x in rows], merged.weight_N[of_leaf], rtol=1e-6
    )


def test_grain_reads_each_leaf_in_any_order(
  capped, options, tmp_path, documents_by_leaf, parse_example
):
  import grain
  from array_record.python import array_record_module

  array_record.export(capped, tmp_path, options)
  for leaf in array_record.write(capped, tmp_path):
    paths = [str(tmp_path / name) for name in leaf.files]
    source = grain.sources.ArrayRecordDataSource(paths)
    data = grain.MapDataset.source(source).shuffle(seed=0)
    found = []
    for record in data:
      feature = parse_example(record)
      assert set(feature) == {"id", "text", "tokens", "weight"}
      found.append(
        tuple(feature[x].bytes_list.value[0].decode() for x in ("id", "text"))
      )
    assert sorted(found) == sorted(documents_by_leaf[leaf.name])
    # One record is read without its neighbors.
    reader = array_record_module.ArrayRecordReader(paths[0])
    assert "group_size:1," in reader.writer_options_string()
    reader.close()
    # The files are found by the pattern that mixtures name.
    pattern = array_record.pattern(leaf)
    assert sorted(tmp_path.glob(pattern)) == sorted(
      tmp_path / name for name in leaf.files
    )


_AGAIN = """
from cmtree_jax.recipe.export import array_record
from cmtree_jax.recipe.export.base import Shard
shard = Shard(["a"], ["text"], [3], [0.5], [0])
print(array_record._encode(array_record._features(), shard, 0).hex())
"""


def test_a_record_has_the_same_bytes_in_every_process():
  found = {
    subprocess.run(
      [sys.executable, "-c", _AGAIN], capture_output=True, text=True, check=True
    ).stdout
    for _ in range(3)
  }
  assert len(found) == 1 and found.pop().strip()


def test_array_record_is_split_into_files_that_tfds_counts(
  capped, options, tmp_path, monkeypatch
):
  import tensorflow_datasets as tfds

  monkeypatch.setattr(leaves, "BUFFER_BYTES", 900)
  array_record.export(capped, tmp_path, options)
  leaf = array_record.write(capped, tmp_path)[0]
  assert len(leaf.files) > 1
  folder = tmp_path / "array_record" / leaf.name / "1.0.0"
  builder = tfds.builder_from_directory(folder)
  assert builder.info.splits["train"].num_examples == leaf.num_documents
  ids = {row["id"] for row in tfds_rows(builder)}
  assert len(ids) == leaf.num_documents


def test_nothing_but_seqio_users_needs_tensorflow(tmp_path):
  """Also where TensorFlow is installed: it costs seconds and gigabytes."""
  code = """
import pathlib, sys
import numpy as np
from cmtree_jax.budget import Budget
from cmtree_jax.recipe import export
shard = export.Shard(["a"], ["b"], np.array([3]), np.array([1.0]), np.array([0]))
corpus = export.Corpus((lambda: shard,), ("x",), ("0",), 1, 3)
options = export.Options(Budget(9, 3, 1, 4.0, 15.0, 1), 0, "gpt2", "")
export.write(pathlib.Path(sys.argv[1]), list(export.EXPORTERS), corpus, options, {})
print(any(name.split(".")[0] in ("tensorflow", "seqio") for name in sys.modules))
"""
  done = subprocess.run(
    [sys.executable, "-c", code, str(tmp_path / "out")],
    capture_output=True,
    text=True,
  )
  assert done.stdout.strip() == "False", done.stderr
  manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
  assert manifest["counts"]["resampled"]["documents"] == 3
  assert yaml.safe_load((tmp_path / "out" / "levanter.yaml").read_text())
