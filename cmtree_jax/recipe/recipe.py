"""The artefact: a partition with named mixture weights, applied to any document."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data import store
from cmtree_jax.data.build import prepare
from cmtree_jax.recipe.partition import (
  Applied,
  Partition,
  apply_partition,
  partition_from_json,
)
from cmtree_jax.types import UserError

FILE = "recipe.json"


class Recipe(NamedTuple):
  """A loaded recipe: `recipe.apply(texts)` weighs any documents."""

  data: dict[str, Any]  # recipe.json
  partition: Partition
  embed: Callable[[Sequence[str]], np.ndarray]

  def apply(self, texts: Sequence[str], *, harden: bool = False) -> Applied:
    """Weights, leaves and paths of texts."""
    return apply_partition(self.partition, self.embed(texts), harden=harden)


def save(folder: Path, data: dict[str, Any], *, learned: Path) -> list[Path]:
  """Writes recipe.json and what it reads documents with; returns the files.

  Args:
    folder: of the recipe.
    data: what recipe.json holds, `partition` among it.
    learned: folder of the prepared corpus, which has tokenizer and embedder.
  """
  names = (prepare.EMBEDDER_FILE, prepare.TOKENIZER_FILE)
  for name in names:
    store.write_atomically(folder / name, (learned / name).read_bytes())
  store.write_atomically(folder / FILE, store.to_json(data))
  return [folder / name for name in (*names, FILE)]


def load(folder: Path | str) -> Recipe:
  """The recipe that a job left in its workdir.

  Raises:
    UserError: there is none.
  """
  folder = Path(folder)
  file = folder / FILE
  if not file.is_file():
    raise UserError(
      f"No {FILE} in {folder}. Give the workdir of a job that has ended."
    )
  data = json.loads(file.read_text())
  embed = prepare.load_embedder(
    folder / prepare.EMBEDDER_FILE, cache_dir=Path(data["config"]["cache_dir"])
  )
  return Recipe(data, partition_from_json(data["partition"]), embed)
