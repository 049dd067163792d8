"""Domain weights of DoReMi's code: sangmichaelxie/doremi, ``scripts/write_config.py``.

Looked at: 4e91c74, and ``doremi/dataloader.py`` at 358f9ba. A domain is a folder of
preprocessed rows of a fixed length, so weights are shares of tokens; preprocess
``leaves/LEAF`` into ``LEAF``. As in that script, evaluation has the same weights.
"""

from pathlib import Path

from cmtree_jax.data import store
from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options

FILE = "doremi.json"


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes doremi.json, and the text of its domains."""
  del options  # only shares
  parts = leaves.write(capped, folder)
  weights = {x.name: x.share for x in parts}
  config = {"train_domain_weights": weights, "eval_domain_weights": weights}
  return [
    *leaves.paths(folder, leaves.FOLDER, parts),
    files.write_text(folder / FILE, store.to_json(config)),
  ]
