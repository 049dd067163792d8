"""A config of MaxText's Grain pipeline and the mixture file that it names.

AI-Hypercomputer/maxtext: ``docs/guides/data_input_pipeline/data_input_grain.md`` at
0ad5443, ``src/maxtext/input_pipeline/grain_data_processing.py`` at 003d719, and
``src/maxtext/configs/base.yml`` at 000b810.

MaxText mixes documents before it cuts and packs them, so the weights are shares of
documents; with ``use_truncation: false`` no token is lost, and the shares of tokens
come out as the recipe's. The mixture file is used rather than the list in
``grain_train_files``, whose weights are rounded to four decimals.
"""

import math
from pathlib import Path

from cmtree_jax.data import store
from cmtree_jax.recipe.export import array_record, files, leaves
from cmtree_jax.recipe.export.base import Capped, Options, location, purpose

FILE = "maxtext.yml"
MIXTURE_FILE = "maxtext_mixture.json"

_COMMENT = f"""\
Weights in {MIXTURE_FILE} are shares of documents. {{purpose}}
Set tokenizer_type to the kind of the tokenizer (sentencepiece, huggingface or
tiktoken), then
  python -m maxtext.trainers.pre_train.train {FILE} run_name=... \
base_output_directory=..."""


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes both files, and the data sets that they point to."""
  root = location(folder, options)
  written = array_record.export(capped, folder, options)
  parts = array_record.write(capped, folder)
  rate = leaves.document_rates(parts)
  mixture = {
    x.name: {
      "path": f"{root}/{array_record.pattern(x)}",
      "weight": rate[x.name],
    }
    for x in parts
  }
  # Mixing ends with the first leaf that does, so each may be repeated often enough
  # for the most repeated one; one more for the chance in the draws. How often it is
  # depends on the tokens of the training.
  num_epoch = math.ceil(max(leaves.epochs(x, options) for x in parts)) + 1
  config = {
    "base_config": "base.yml",
    "dataset_type": "grain",
    "grain_file_type": "arrayrecord",
    "grain_train_mixture_config_path": f"{root}/{MIXTURE_FILE}",
    "train_data_columns": ["text"],
    "tokenize_train_data": True,
    "tokenizer_path": options.tokenizer,
    "use_truncation": False,
    "packing": True,
    "num_epoch": num_epoch,
    "enable_data_shuffling": True,
    "data_shuffle_seed": options.seed,
  }
  comment = _COMMENT.format(purpose=purpose(options))
  return [
    *written,
    files.write_text(folder / MIXTURE_FILE, store.to_json(mixture)),
    files.write_yaml(folder / FILE, config, comment=comment),
  ]
