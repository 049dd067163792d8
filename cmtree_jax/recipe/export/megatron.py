"""Blends for Megatron-LM and NeMo, and the script that tokenizes what they blend.

* ``megatron_blend.txt``, weights and prefixes in turn, for ``--data-args-path``
  (NVIDIA/Megatron-LM, ``megatron/training/utils.py`` at 00caa53: the file is split at
  white space; ``megatron/core/datasets/utils.py``: ``get_blend_from_list``).
* ``nemo_blend.yaml``, the same as ``model.data.data_prefix`` (NVIDIA/NeMo,
  ``examples/nlp/language_modeling/conf/megatron_gpt_config.yaml`` at 000763d).
* ``megatron_tokenize.sh`` makes the ``_text_document`` files of the prefixes with
  Megatron's ``tools/preprocess_data.py`` (at 00736f4), which reads plain text only.

Weights are shares of tokens, as a sample has a fixed length.
"""

import shlex
from pathlib import Path

from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose
from cmtree_jax.types import UserError

BLEND_FILE = "megatron_blend.txt"
NEMO_FILE = "nemo_blend.yaml"
SCRIPT_FILE = "megatron_tokenize.sh"

_SCRIPT = """\
#!/bin/bash
# Tokenizes each leaf for Megatron-LM. Needs zstd; run with its checkout:
#   MEGATRON=path/to/Megatron-LM bash {script}
# Other arguments of preprocess_data.py, such as --tokenizer-type
# SentencePieceTokenizer, may follow. Then train with
#   --data-args-path {blend} --split 100,0,0
# {purpose}
set -euo pipefail
: "${{MEGATRON:?set it to a checkout of Megatron-LM}}"
ROOT={root}
mkdir -p "$ROOT/megatron"
tokenize() {{
  local leaf="$1"; shift
  zstd -dcq "$ROOT/leaves/$leaf"/part-*.jsonl.zst > "$ROOT/megatron/$leaf.jsonl"
  python "$MEGATRON/tools/preprocess_data.py" \\
    --input "$ROOT/megatron/$leaf.jsonl" \\
    --output-prefix "$ROOT/megatron/$leaf" \\
    --tokenizer-type HuggingFaceTokenizer \\
    --tokenizer-model {tokenizer} \\
    --append-eod --workers "$(nproc)" "$@"
  rm "$ROOT/megatron/$leaf.jsonl"
}}
"""


def require_root(root: str) -> None:
  """Refuses a path that Megatron-LM cannot read a blend of.

  Raises:
    UserError: it has white space.
  """
  if len(root.split()) != 1:
    raise UserError(
      f"Megatron-LM splits a blend at white space: wanted a folder without, came "
      f"{root!r}. Export to another folder."
    )


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes the three files, and the text that the script reads."""
  root = location(folder, options)
  require_root(root)
  parts = leaves.write(capped, folder)
  blend = [(x.share, f"{root}/megatron/{x.name}_text_document") for x in parts]
  lines = [f"{share!r} {prefix}\n" for share, prefix in blend]
  script = _SCRIPT.format(
    script=SCRIPT_FILE,
    blend=BLEND_FILE,
    purpose=purpose(options),
    root=shlex.quote(root),
    tokenizer=shlex.quote(options.tokenizer),
  ) + "".join(f'tokenize {shlex.quote(x.name)} "$@"\n' for x in parts)
  nemo = {
    "model": {"data": {"data_prefix": [x for pair in blend for x in pair]}}
  }
  comment = (
    f"Weights are shares of training tokens. {purpose(options)}\n"
    f"Run {SCRIPT_FILE} first."
  )
  return [
    *leaves.paths(folder, leaves.FOLDER, parts),
    files.write_text(folder / BLEND_FILE, "".join(lines)),
    files.write_yaml(folder / NEMO_FILE, nemo, comment=comment),
    files.write_text(folder / SCRIPT_FILE, script),
  ]
