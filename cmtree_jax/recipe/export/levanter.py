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
a stage must be whole blocks, and a share of less than a row in a block is none. Without
stages blocks are as long as the smallest leaf wants.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose

FILE = "levanter.yaml"
OLD_FILE = "levanter_configs.yaml"

_BLOCK = 2048  # rows; the default of `mixture_block_size`
_MOST = 2**16 - 1  # rows of a block
# A share of a row in a block that is one in spite of rounding: shares are normalized
# again by who reads them.
_ROW = 1 + 1e-6

_COMMENT = """\
Weights are shares of training tokens. {purpose}
{drawn}
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
  blocks = blocks_of(capped)
  common = {
    **_weights(capped, parts),
    "mixture_block_size": blocks.rows,
    "tokenizer": options.tokenizer,
    "cache_dir": f"{root}/levanter_cache",
    "shuffle": True,
  }
  written = [
    files.write_yaml(
      folder / name,
      {"data": {key: value, **common}},
      comment=_COMMENT.format(
        name=name, purpose=purpose(options), drawn=blocks.text()
      ),
    )
    for name, key, value in (
      (FILE, "components", components),
      (OLD_FILE, "configs", configs),
    )
  ]
  return [*leaves.paths(folder, leaves.FOLDER, parts), *written]


class Blocks(NamedTuple):
  """What Levanter cuts a mixture into."""

  rows: int  # of a block
  undrawn: tuple[
    str, ...
  ]  # leaves with less than a row, in some stage or at all

  def text(self) -> str:
    """What becomes of the leaves; a sentence."""
    if not self.undrawn:
      return f"Every leaf has a row in blocks of {self.rows:,}."
    return (
      f"Levanter never draws what has less than a row in a block of {self.rows:,}: "
      f"{', '.join(self.undrawn)}."
    )


def blocks_of(capped: Capped) -> Blocks:
  """The blocks of a mixture, in which every leaf has a row if that can be.

  Those of a schedule end where its stages do, and cannot grow for a leaf.
  """
  if not capped.stages:
    smallest = min(share for share in capped.mixture.values() if share > 0)
    rows = min(_MOST, max(_BLOCK, math.ceil(_ROW / smallest)))
    return Blocks(rows, tuple(_undrawn(capped.mixture, rows)))
  rows = _aligned_stages(capped)[1]
  return Blocks(
    rows,
    tuple(
      f"{name} of the stage from step {stage.begin}"
      for stage in capped.stages
      for name in _undrawn(stage.mixture, rows)
    ),
  )


def _undrawn(mixture: Mapping[str, float], rows: int) -> list[str]:
  """Leaves with a share of less than one of so many rows."""
  return [name for name, share in mixture.items() if 0 < share < _ROW / rows]


def _aligned_stages(capped: Capped) -> tuple[list[int], int]:
  ends = [stage.end for stage in capped.stages]
  return aligned([0, *ends], capped.corpus.step_rows)


def _weights(capped: Capped, parts: Sequence[leaves.Leaf]) -> dict[str, Any]:
  """Shares of tokens: of the training, or from every stage's first step on."""
  if not capped.stages:
    return {"train_weights": {x.name: x.share for x in parts}}
  begins, _ = _aligned_stages(capped)
  return {
    "train_weights": [
      [begin, {x.name: stage.mixture[x.name] for x in parts}]
      for begin, stage in zip(begins[:-1], capped.stages, strict=True)
    ]
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
