"""A recipe in the formats of trainers, in one folder with a manifest."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.recipe.export import (
  array_record,
  capping,
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
  staging,
)
from cmtree_jax.recipe.export import survey as surveys
from cmtree_jax.recipe.export.base import (
  Capped,
  Corpus,
  Options,
  Shard,
  Stage,
  check,
  location,
  root_of,
)
from cmtree_jax.types import UserError

__all__ = [
  "EXPORTERS",
  "OF_DOCUMENTS",
  "OF_STAGES",
  "WEIGHTS_ARE",
  "Corpus",
  "Options",
  "Shard",
  "Stage",
  "require_leaves",
  "require_place",
  "require_stages",
  "told",
  "verify",
  "write",
]

EXPORTERS: dict[str, Callable[[Capped, Path, Options], list[Path]]] = {
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

_OF_A_DOCUMENT = (
  "Of each document: how often it is seen for once in the natural training, by its "
  "tokens; 1 is as often. Documents of equal weight and unequal length are seen "
  "equally often, and give tokens by their lengths."
)
_TOKEN_SHARES = (
  "Of each leaf: its share of the training tokens. For a trainer that draws rows of a "
  "fixed length."
)
_DOCUMENT_SHARES = (
  "Of each leaf: its share of the documents drawn, less for leaves of long ones. For a "
  "trainer that draws whole documents; its tokens come out as the recipe's."
)
# What the numbers of every format are of: documents, or tokens. In the manifest.
WEIGHTS_ARE: dict[str, str] = {
  "array_record": _OF_A_DOCUMENT,
  "doremi": _TOKEN_SHARES,
  "jsonl": (
    "No numbers: a document stands as often as it is seen, its weight by the epochs of "
    "the budget."
  ),
  "leaves": _OF_A_DOCUMENT,
  "levanter": _TOKEN_SHARES,
  "maxtext": _DOCUMENT_SHARES,
  "megatron": _TOKEN_SHARES,
  "olmo": _TOKEN_SHARES,
  "parquet": _OF_A_DOCUMENT,
  "seqio": _DOCUMENT_SHARES,
}

# These keep every document's weight. The others mix leaves: they carry the leaves'
# shares alone.
OF_DOCUMENTS = ("array_record", "jsonl", "leaves", "parquet")

# These hold a schedule. What reads the others trains on one mixture from its first step
# to its last.
OF_STAGES = ("jsonl", "levanter", "parquet", "seqio")

# These hold the order of a path, too.
OF_PATHS = ("jsonl", "parquet")

# These name the trainer's tokenizer, and most of them the folder: what they say is wrong
# once it has moved.
_OF_PLACES = ("levanter", "maxtext", "megatron", "olmo", "seqio")

verify = manifest.verify
told = manifest.told


def require_leaves(formats: Sequence[str]) -> None:
  """Refuses formats that mix leaves, for a recipe that has none.

  Raises:
    UserError: for the first of them.
  """
  for name in formats:
    if name not in OF_DOCUMENTS:
      raise UserError(
        f"Export format {name!r} mixes leaves, and weights of single documents have "
        f"none. Formats that keep every weight: {', '.join(OF_DOCUMENTS)}."
      )


def require_place(folder: Path, formats: Sequence[str], root: str) -> None:
  """Refuses a folder that what trains on the formats could not read from.

  Args:
    folder: that they will be written to.
    formats: names in `EXPORTERS`; none: no folder is refused.
    root: where trainers will find it; "": there.
  Raises:
    UserError: says which signs of the path are in the way.
  """
  if not formats:
    return
  place = root_of(folder, root)
  if "megatron" in formats:
    megatron.require_root(place)


def require_stages(formats: Sequence[str]) -> None:
  """Refuses formats of one mixture, for a schedule.

  Raises:
    UserError: for the first of them.
  """
  for name in formats:
    if name not in OF_STAGES:
      raise UserError(
        f"Export format {name!r} holds one mixture, and a schedule has one for every "
        f"stage. Formats that hold stages: {', '.join(OF_STAGES)}."
      )


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
    corpus: documents with the recipe's weights, and their leaves; or with the
      stages of a schedule.
    options: budget that weights are capped for, seed, where trainers will look.
    facts: what the corpus was made from, for the manifest: digests of config,
      corpus and recipe, and the budget that the recipe was learned for.
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
  if corpus.stages:
    require_stages(formats)
  check(corpus, options)
  root, tokenizer = location(folder, options), options.tokenizer
  if not set(_OF_PLACES) & set(formats):
    root, tokenizer = "", ""
  places = options._replace(root=root, tokenizer=tokenizer)
  inputs = manifest.inputs_of(formats, corpus, places, facts)
  try:
    done = manifest.find(folder, inputs)
    if done is not None:
      return done
    found = surveys.survey(corpus)
    bring = staging.cap if corpus.stages else capping.cap
    within = bring(corpus, found, options)
    contents = manifest.describe(options, found, within)
    if corpus.places:
      kept = [name for name in sorted(formats) if name in OF_PATHS]
      lost = sorted(set(formats) - set(kept))
      contents["path"] = {"kept_by": kept, "lost_by": lost}
    if "levanter" in formats:
      contents["levanter"] = levanter.blocks_of(within.capped)._asdict()
    contents["weights_are"] = {name: WEIGHTS_ARE[name] for name in formats}
    manifest.claim(folder)
    files = [
      path
      for name in sorted(set(formats))
      for path in EXPORTERS[name](within.capped, folder, options)
    ]
    return manifest.write(folder, files, inputs=inputs, contents=contents)
  except OSError as error:
    raise UserError(
      f"Cannot export to {folder}: {error}. Free some space or choose another "
      "folder."
    ) from error
