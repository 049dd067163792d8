"""Source mixtures of OLMo-core, and the script that tokenizes their sources.

allenai/OLMo-core:

* ``olmo_mix.yaml``, nested as the tree is: ``mix`` of name, weight within the group,
  and either ``categories`` or ``paths`` with a ``repetition_factor``
  (``src/olmo_core/data/composable/mixture_recipe.py`` at 0eaf2a1,
  ``build_numpy_mixture_from_yaml_spec``);
* ``olmo_sources.yaml``, flat: ``sources`` of source_name, target_ratio, paths and
  max_repetition_ratio (``src/olmo_core/data/source_mixture.py`` at 004bb46,
  ``SourceMixtureList``; ``source_mixtures/OLMo3-7B-midtraining-official.yaml``);
* ``olmo_tokenize.sh`` makes the ``.npy`` files with ``dolma tokens``
  (allenai/dolma, ``docs/tokenize.md``).

Weights are shares of tokens.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose

MIX_FILE = "olmo_mix.yaml"
SOURCES_FILE = "olmo_sources.yaml"
SCRIPT_FILE = "olmo_tokenize.sh"

# The sources hold fewer tokens of another tokenizer than of the one that counted
# them here; this much fewer is allowed for.
_TOKENIZER_MARGIN = 2

_SCRIPT = """\
#!/bin/bash
# Tokenizes each leaf with dolma (pip install dolma). The ids are those of the
# tokenizer; uint16 is enough below 65,536 tokens:
#   EOS_TOKEN_ID=100257 PAD_TOKEN_ID=100277 DTYPE=uint32 bash {script}
set -euo pipefail
: "${{EOS_TOKEN_ID:?set it}}" "${{PAD_TOKEN_ID:?set it}}" "${{DTYPE:?set it}}"
ROOT={root}
tokenize() {{
  dolma tokens \\
    --documents "$ROOT/leaves/$1/part-*.jsonl.zst" \\
    --destination "$ROOT/olmo/$1" \\
    --tokenizer.name_or_path {tokenizer} \\
    --tokenizer.eos_token_id "$EOS_TOKEN_ID" \\
    --tokenizer.pad_token_id "$PAD_TOKEN_ID" \\
    --dtype "$DTYPE" --processes "$(nproc)"
}}
"""


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes the three files, and the text that the script reads."""
  root = location(folder, options)
  parts = leaves.write(capped, folder)
  tokens = {x.name: [f"{root}/olmo/{x.name}/*.npy"] for x in parts}
  sources = [
    {
      "source_name": x.name,
      "target_ratio": x.share,
      "paths": tokens[x.name],
      "max_repetition_ratio": _most_repeats(x, options),
    }
    for x in parts
  ]
  comment = (
    f"Weights are shares of training tokens. {purpose(options)}\n"
    f"Run {SCRIPT_FILE} first."
  )
  script = _SCRIPT.format(
    script=SCRIPT_FILE,
    root=shlex.quote(root),
    tokenizer=shlex.quote(options.tokenizer),
  ) + "".join(f"tokenize {shlex.quote(x.name)}\n" for x in parts)
  return [
    *leaves.paths(folder, leaves.FOLDER, parts),
    files.write_yaml(
      folder / MIX_FILE, {"mix": nest(parts, tokens)}, comment=comment
    ),
    files.write_yaml(
      folder / SOURCES_FILE, {"sources": sources}, comment=comment
    ),
    files.write_text(folder / SCRIPT_FILE, script),
  ]


def nest(
  parts: Sequence[leaves.Leaf],
  tokens: dict[str, list[str]],
  depth: int = 0,
) -> list[dict[str, Any]]:
  """Leaves that share a path up to a depth, as categories with weights of the group.

  Args:
    parts: the leaves, all below one node.
    tokens: the files of each leaf's tokens.
    depth: of that node.
  """
  total = math.fsum(x.share for x in parts)
  groups: dict[tuple[str, str], list[leaves.Leaf]] = {}
  for leaf in parts:
    steps = leaf.path.split(".")
    if len(steps) > depth + 1:
      key = ".".join(steps[: depth + 1]), ""
    else:
      key = "", leaf.name
    groups.setdefault(key, []).append(leaf)
  nodes: list[dict[str, Any]] = []
  for (name, _), inside in groups.items():
    weight = math.fsum(x.share for x in inside) / total
    if len(inside) == 1:  # also a node with a single leaf left
      leaf = inside[0]
      # -1: as often as the weight needs, which is at most the cap of the budget.
      source = {"paths": tokens[leaf.name], "repetition_factor": -1.0}
      nodes.append({"name": leaf.name, "weight": weight, **source})
    else:
      categories = nest(inside, tokens, depth + 1)
      nodes.append({"name": name, "weight": weight, "categories": categories})
  return nodes


def _most_repeats(leaf: leaves.Leaf, options: Options) -> float:
  repeats = _TOKENIZER_MARGIN * leaves.epochs(leaf, options)
  return float(max(1, math.ceil(repeats)))
