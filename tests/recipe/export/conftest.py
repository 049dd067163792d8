"""A small corpus in four shards, with leaves that need quoting, and two to omit."""

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from cmtree_jax.budget import Budget
from cmtree_jax.recipe.export import Corpus, Options, Shard, capping, survey
from cmtree_jax.recipe.export.base import Capped

# As YAML, the second is a number and the fifth is null.
NAMES = (
  "leaf_0.0_film-review",
  "0.1",
  "leaf_1.0_код",
  "unserved",
  "null",
  "bare",
)
PATHS = ("0.0", "0.1", "1.0", "1.1", "2.0", "2.1")
TEXTS = (
  "plain words",
  'quotes " and \\ and {braces}',
  "lines\nand\r\nreturns\tand \u2028 and \x85",
  "код, 電影, 🎬, e\u0301",
  "\x00\x1f\x7f\ufeff",
  "- yaml: [no]\n# no comment\n---\n",
)


@pytest.fixture
def corpus() -> Corpus:
  """Sixty documents; `unserved` has no share, `bare` no documents."""
  random = np.random.default_rng(0)
  leaf_N = random.choice(5, 60, p=[0.4, 0.2, 0.2, 0.1, 0.1]).astype(np.int32)
  # Long documents in one leaf tell shares of tokens from shares of documents.
  num_tokens_N = np.where(leaf_N == 1, 40, 10) + random.integers(0, 5, 60)
  leaf_weight = np.array([2.0, 0.5, 1.0, 0.0, 3.0])
  weight_N = leaf_weight[leaf_N] * random.uniform(0.5, 1.5, 60)
  weight_N *= num_tokens_N.sum() / (weight_N @ num_tokens_N)

  def part(begin: int, end: int) -> Shard:
    rows = range(begin, end)
    return Shard(
      id=[f"doc/{i} ж" for i in rows],
      text=[f"{TEXTS[i % len(TEXTS)]} {i}" for i in rows],
      num_tokens_N=num_tokens_N[begin:end],
      weight_N=weight_N[begin:end],
      leaf_N=leaf_N[begin:end],
    )

  cuts = ((0, 17), (17, 17), (17, 45), (45, 60))
  parts = tuple(functools.partial(part, *cut) for cut in cuts)
  return Corpus(parts, NAMES, PATHS, 60, int(num_tokens_N.sum()))


@pytest.fixture
def options(corpus) -> Options:
  """Twice the corpus, read where it was written; no weight is near the cap."""
  budget = Budget(
    tokens=2_000,
    pool_tokens=corpus.total_tokens,
    parameters=1,
    max_epochs=100.0,
    r_star=15.0,
    min_documents=1,
  )
  return Options(budget=budget, seed=3, tokenizer="gpt2", root="")


@pytest.fixture
def capped(corpus, options) -> Capped:
  """What exporters get."""
  found = survey.survey(corpus)
  return capping.cap(corpus, found, options).capped


@pytest.fixture
def merged(capped) -> Shard:
  """All documents as one shard."""
  columns = zip(*capped.corpus.shards(), strict=True)
  ids, texts, *arrays = columns
  return Shard(
    list(itertools.chain(*ids)),
    list(itertools.chain(*texts)),
    *(np.concatenate(a) for a in arrays),
  )


@pytest.fixture
def read_lines() -> Callable[[Path], list[dict[str, Any]]]:
  """Reads JSON lines of one whole zstd frame, after which some readers stop."""

  def read(path: Path) -> list[dict[str, Any]]:
    frame = zstandard.ZstdDecompressor().decompressobj()
    text = frame.decompress(path.read_bytes()).decode()
    assert frame.eof
    assert frame.unused_data == b""
    *lines, end = text.split("\n")
    assert end == ""
    return [json.loads(line) for line in lines]

  return read


@pytest.fixture
def documents_by_leaf(merged) -> dict[str, list[tuple[str, str]]]:
  """(id, text) of every leaf's documents, in the order of the corpus."""
  by_leaf = {name: [] for name in NAMES}
  for row, leaf in enumerate(merged.leaf_N):
    by_leaf[NAMES[leaf]].append((merged.id[row], merged.text[row]))
  return by_leaf


@pytest.fixture
def parse_example() -> Callable[[bytes], Mapping[str, Any]]:
  """Reads a serialized tf.train.Example by its protocol buffer."""
  from tensorflow_datasets.proto import tf_example_pb2

  # Made while it is imported, so unknown to type checkers.
  Example = vars(tf_example_pb2)["Example"]
  return lambda record: Example.FromString(record).features.feature
