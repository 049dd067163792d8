"""Makes a TFDS data set out of any source, so that others can read it.

The files are ArrayRecord: random access, and no TensorFlow to write or to read
them.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cmtree_jax.data.read import fields, sources
from cmtree_jax.data.read.fields import Part, Rules
from cmtree_jax.types import Record, Skip, UserError

VERSION = "1.0.0"

# The fields of `Record` as they are called in JSON lines, so that they come back.
_FEATURES = ("id", "text", "original", "source", "domain", "lang")


def build(
  addresses: Sequence[str], rules: Rules, *, data_dir: Path | str, name: str
) -> tuple[Path, Counter[str]]:
  """The folder of a new data set with one split `train`, and counts of skips.

  Args:
    addresses: sources, such as "jsonl:pool/*.jsonl.gz".
    rules: which fields of theirs are read.
    data_dir: the folder of TFDS data sets to write to.
    name: what the data set is called; small letters, digits and underscores.
  Raises:
    UserError: nothing matches, nothing is left, the name will not do, or the
      data set is there already.
  """
  if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
    raise UserError(
      f"Wanted a name of small letters, digits and underscores, came {name!r}; "
      "choose another."
    )
  tfds = fields.library("tensorflow_datasets", "all")
  skipped: Counter[str] = Counter()
  examples = _examples(sources.parts(addresses), rules, skipped)
  builder = _builder_class(tfds, name)(examples, data_dir=str(data_dir))
  if builder.is_prepared():
    raise UserError(
      f"{builder.data_dir}: wanted a new data set, came one that is there; give "
      "another name or folder, or remove it."
    )
  try:
    builder.download_and_prepare(file_format="array_record")
  except OSError as error:
    raise UserError(
      f"Cannot write {builder.data_dir}: {error.strerror or error}. Choose "
      "another folder, or free some space."
    ) from error
  return Path(builder.data_dir), skipped


def _builder_class(tfds: Any, name: str) -> type:
  """A builder of that name, which TFDS keeps no register of."""

  class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Documents of any source."""

    # Nothing is fetched. Looked up in the package instead, it would need
    # importlib_resources, which TFDS 4.9.10 uses without asking for it.
    url_infos: ClassVar = {}

    def __init__(self, examples: Iterator[Any], *, data_dir: str):
      self._examples = examples
      super().__init__(data_dir=data_dir)

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        description="Documents of a corpus with their hidden labels.",
        features=tfds.features.FeaturesDict(
          {name: tfds.features.Text() for name in _FEATURES}
        ),
        disable_shuffling=True,  # rows stay in the order of the sources
      )

    def _split_generators(self, dl_manager):
      del dl_manager  # everything is on disk
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      yield from self._examples

  Builder.name = name
  Builder.VERSION = tfds.core.Version(VERSION)
  return Builder


def _examples(
  parts: Sequence[Part], rules: Rules, skipped: Counter[str]
) -> Iterator[tuple[int, dict[str, str]]]:
  """Numbered documents; the others are counted."""
  number = 0
  for part in parts:
    for found in sources.read(part, rules):
      if isinstance(found, Skip):
        skipped[found.kind] += found.documents
      if not isinstance(found, Record):
        continue
      *features, _ = found  # `where` tells of the source, not of the document
      yield number, dict(zip(_FEATURES, features, strict=True))
      number += 1
  if not number:
    why = ", ".join(f"{count} {kind}" for kind, count in skipped.items())
    raise UserError(
      f"Wanted documents to write, came none ({why or 'the sources are empty'}); "
      "check the addresses and the text field."
    )
