"""A recipe in the formats of trainers, in one folder with a manifest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.recipe.export import (
  array_record,
  doremi,
  jsonl,
  leaves,
  levanter,
  manifest,
  maxtext,
  megatron,
  olmo,
  parquet,
  seqio_module,
)
from cmtree_jax.recipe.export import survey as surveys
from cmtree_jax.recipe.export.base import (
  Corpus,
  Options,
  Shard,
  check,
  location,
)
from cmtree_jax.types import UserError

__all__ = ["EXPORTERS", "Corpus", "Options", "Shard", "verify", "write"]

EXPORTERS: dict[str, Callable[[Corpus, Path, Options], list[Path]]] = {
  "array_record": array_record.export,
  "doremi": doremi.export,
  "jsonl": jsonl.export,
  "leaves": leaves.export,
  "levanter": levanter.export,
  "maxtext": maxtext.export,
  "megatron": megatron.export,
  "olmo": olmo.export,
  "parquet": parquet.export,
  "seqio": seqio_module.export,
}

verify = manifest.verify


def write(
  folder: Path,
  formats: Sequence[str],
  corpus: Corpus,
  options: Options,
  facts: Mapping[str, Any],
) -> list[Path]:
  """Writes the formats and a manifest; does nothing if they are there, unchanged.

  Args:
    folder: empty, new, or an earlier or interrupted export of the same inputs.
    formats: names in `EXPORTERS`.
    corpus: documents with their weights and leaves.
    options: budget, seed and where trainers will look.
    facts: what the corpus was made from, for the manifest: digests of config,
      corpus and recipe.
  Returns:
    The manifest and all files.
  Raises:
    UserError: something given is wrong, or the folder cannot be used.
  """
  unknown = sorted(set(formats) - set(EXPORTERS))
  if unknown or not formats:
    raise UserError(
      f"Unknown export format {', '.join(map(repr, unknown)) or '(none)'}. Known: "
      f"{', '.join(sorted(EXPORTERS))}."
    )
  check(corpus, options)
  location(folder, options)
  inputs = manifest.inputs_of(formats, corpus, options, facts)
  try:
    done = manifest.find(folder, inputs)
    if done is not None:
      return done
    found = surveys.survey(corpus, options)
    contents = manifest.describe(corpus, options, found)
    manifest.claim(folder)
    files = [
      path
      for name in sorted(set(formats))
      for path in EXPORTERS[name](corpus, folder, options)
    ]
    return manifest.write(folder, files, inputs=inputs, contents=contents)
  except OSError as error:
    raise UserError(
      f"Cannot export to {folder}: {error}. Free some space or choose another "
      "folder."
    ) from error
