"""Data configs of Levanter: weights over components that it tokenizes itself.

Shares are of tokens, as Levanter draws rows of a fixed length. Two files, as the
format changed:

* ``levanter.yaml``: ``components``, each with a ``source`` (marin-community/marin,
  ``lib/levanter/src/levanter/data/text/datasets.py``, ``LmDataConfig``, at 161966a,
  and ``docs/guides/Training-Data-Guide.md`` at 054a715).
* ``levanter_configs.yaml``: ``configs``, each with ``train_urls`` (the releases of
  stanford-crfm/levanter, ``docs/guides/Training-Data-Guide.md`` at 8562b5b).

The ``train_weights`` of a schedule are a list of (first step, weights), which both take
(``lib/levanter/src/levanter/data/mixture.py`` at 071105a, and the releases since pull
request 868). The mixture is cut into blocks of ``mixture_block_size`` rows, below
:math:`2^{16}`, with the same numbers of rows in all blocks of a stage; so the rows before
a stage must be whole blocks, and a share of less than a row in a block is none.
"""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose

FILE = "levanter.yaml"
OLD_FILE = "levanter_configs.yaml"

_BLOCK = 2048  # rows; the default of `mixture_block_size`
_MOST = 2**16 - 1  # rows of a block

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
    **_weights(capped, parts),
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


def _weights(capped: Capped, parts: Sequence[leaves.Leaf]) -> dict[str, Any]:
  """Shares of tokens: of the training, or from every stage's first step on."""
  if not capped.stages:
    return {"train_weights": {x.name: x.share for x in parts}}
  ends = [stage.end for stage in capped.stages]
  begins, block = aligned([0, *ends], capped.corpus.step_rows)
  return {
    "train_weights": [
      [begin, {x.name: stage.mixture[x.name] for x in parts}]
      for begin, stage in zip(begins[:-1], capped.stages, strict=True)
    ],
    "mixture_block_size": block,
  }


def aligned(bounds: Sequence[int], rows: int) -> tuple[list[int], int]:
  """Steps that whole blocks end at, near those given: (steps, rows of a block).

  Blocks are those of Levanter's default, or as long as the shortest stage where that
  is shorter. No bound moves by more than half a block.

  >>> aligned([0, 90, 210, 300], rows=64)
  ([0, 96, 224, 288], 2048)
  >>> aligned([0, 5, 11, 20], rows=64)
  ([0, 5, 10, 20], 320)

  Args:
    bounds: of the stages in steps, rising from zero.
    rows: of a step.
  """
  shortest = min(end - begin for begin, end in itertools.pairwise(bounds))
  unit = max(1, min(_BLOCK // rows, shortest))
  # Half a unit is always rounded up, so what is a unit apart stays apart.
  moved = [unit * math.floor(bound / unit + 0.5) for bound in bounds]
  size = unit * rows
  block = next(
    size // n
    for n in range(1, size + 1)
    if size % n == 0 and size // n <= _MOST
  )
  return moved, block
