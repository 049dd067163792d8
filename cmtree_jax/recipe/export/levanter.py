"""Data configs of Levanter: weights over components that it tokenizes itself.

Shares are of tokens, as Levanter draws rows of a fixed length. Two files, as the
format changed:

* ``levanter.yaml``: ``components``, each with a ``source`` (marin-community/marin,
  ``lib/levanter/src/levanter/data/text/datasets.py``, ``LmDataConfig``, at 161966a,
  and ``docs/guides/Training-Data-Guide.md`` at 054a715).
* ``levanter_configs.yaml``: ``configs``, each with ``train_urls`` (the releases of
  stanford-crfm/levanter, ``docs/guides/Training-Data-Guide.md`` at 8562b5b).
"""

from pathlib import Path

from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose

FILE = "levanter.yaml"
OLD_FILE = "levanter_configs.yaml"

_COMMENT = """\
Weights are shares of training tokens. {purpose}
Add model, optimizer and trainer, then
  python -m levanter.main.train_lm --config_path {name}"""


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes both files, and the text that they point to."""
  root = location(folder, options)
  parts = leaves.write(capped, folder)
  urls = {x.name: [f"{root}/{file}" for file in x.files] for x in parts}
  components = {
    name: {"source": {"type": "url", "train_urls": files_of}}
    for name, files_of in urls.items()
  }
  configs = {name: {"train_urls": files_of} for name, files_of in urls.items()}
  common = {
    "train_weights": {x.name: x.share for x in parts},
    "tokenizer": options.tokenizer,
    "cache_dir": f"{root}/levanter_cache",
    "shuffle": True,
  }
  written = [
    files.write_yaml(
      folder / name,
      {"data": {key: value, **common}},
      comment=_COMMENT.format(name=name, purpose=purpose(options)),
    )
    for name, key, value in (
      (FILE, "components", components),
      (OLD_FILE, "configs", configs),
    )
  ]
  return [*leaves.paths(folder, leaves.FOLDER, parts), *written]
