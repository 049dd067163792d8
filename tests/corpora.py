"""A small corpus on disk, prepared as a job would."""

import json
import pathlib
from collections.abc import Iterable

from cmtree_jax import prepare, workers
from cmtree_jax.config import load


def prepared(
  folder: pathlib.Path, rows: Iterable[dict], goal: Iterable[dict], *overrides
) -> prepare.Prepared:
  """A pool and one target, tokenized as bytes."""
  for name, lines in (("pool", rows), ("goal", goal)):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"{name}.jsonl").write_text(text)
  config = load(
    "configs/smoke.py",
    [
      f"data.source=jsonl:{folder}/pool.jsonl",
      f"data.target_files={folder}/goal.jsonl",
      "data.targets=",
      "tokenizer.kind=bytes",
      "embedding.dim=4",
      *overrides,
    ],
  )
  return prepare.prepare(
    config.data,
    config.tokenizer,
    config.embedding,
    cache_dir=folder / "cache",
    engine=workers.Engine("local"),
    progress=lambda line: None,
  )
