"""A Python module that registers the mixture with seqio when it is imported.

One task per leaf over its JSON lines, and a mixture of them. seqio draws documents,
so the rates are shares of documents; give `get_dataset` a sequence length that few
documents exceed, or `trim=False`, and the shares of tokens come out as the recipe's.
Written against seqio 0.0.20; the module needs zstandard beside it.

A mixture of seqio has one list of rates. A schedule becomes a mixture for each stage,
and a list that says from which step of the trainer on each is to be drawn.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from cmtree_jax.data import store
from cmtree_jax.recipe.export import files, leaves
from cmtree_jax.recipe.export.base import (
  Capped,
  CappedStage,
  Options,
  location,
  purpose,
)

FILE = "seqio_mixture.py"

_MODULE = '''"""A recipe's mixture for seqio, registered when this module is imported.

Drawn by `seqio.get_mixture_or_task(seqio_mixture.MIXTURE).get_dataset(...)`.
{purpose}
"""

import functools
import io
import json
{imports}
import seqio
import tensorflow as tf
import zstandard

MIXTURE = {mixture}
FOLDER = {folder}
VOCABULARY = {vocabulary}

# Task: folder, documents, rate. Rates are shares of the documents drawn.
LEAVES = {{
{leaves}}}


def read(path):
  """The documents of a file of JSON lines."""
  features = {{name: tf.TensorSpec([], tf.string) for name in ("id", "text")}}
  return tf.data.Dataset.from_generator(
    lines, args=(path,), output_signature=features
  )


def lines(path):
  """Decompresses and parses a file line by line."""
  unpack = zstandard.ZstdDecompressor()
  with (
    tf.io.gfile.GFile(path.decode(), "rb") as file,
    unpack.stream_reader(file) as reader,
  ):
    for line in io.TextIOWrapper(reader, encoding="utf-8", newline="\\n"):
      document = json.loads(line)
      yield {{"id": document["id"], "text": document["text"]}}


def add(mixture, rates):
  """Registers a mixture, unless a copy of this export has."""
  if mixture not in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.add(mixture, list(rates.items()))


for task, (folder, documents, _) in LEAVES.items():
  if task in seqio.TaskRegistry.names():
    continue  # of a copy of this export, with the same documents
  seqio.TaskRegistry.add(
    task,
    source=seqio.FileDataSource(
      read,
      {{"train": f"{{FOLDER}}/{{folder}}/part-*.jsonl.zst"}},
      num_input_examples={{"train": documents}},
    ),
    preprocessors=[
      functools.partial(
        seqio.preprocessors.rekey, key_map={{"id": "id", "targets": "text"}}
      ),
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={{"targets": seqio.Feature(VOCABULARY)}},
  )

add(MIXTURE, {{task: rate for task, (_, _, rate) in LEAVES.items()}})
'''


_STAGES = """
# First step of the trainer, and the mixture that is drawn from then on: by a new
# `get_dataset`, with a seed of its own, or every stage begins with the same documents.
# MIXTURE is their mean over the training.
STAGES = (
{stages})

# Mixture of a stage: task, rate.
RATES = {{
{rates}}}

for mixture, rates in RATES.items():
  add(mixture, rates)
"""


def export(capped: Capped, folder: Path, options: Options) -> list[Path]:
  """Writes seqio_mixture.py, and the text that it reads."""
  parts = leaves.write(capped, folder)
  root = location(folder, options) if options.root else ""
  text = module(parts, root, options, capped.stages)
  return [
    *leaves.paths(folder, leaves.FOLDER, parts),
    files.write_text(folder / FILE, text),
  ]


def module(
  parts: Sequence[leaves.Leaf],
  root: str,
  options: Options,
  stages: Sequence[CappedStage] = (),
) -> str:
  """The source of the module.

  Args:
    parts: the leaves.
    root: where the files lie; "": beside the module.
    options: a budget, and the path of a SentencePiece model or "bytes".
    stages: of a schedule.
  """
  rate = leaves.document_rates(parts)
  rates = [_rates_of(stage, parts) for stage in stages]
  # Exports can be imported side by side: those of one name draw the same.
  told = [sorted(one.items()) for one in (rate, *rates)]
  begins = [stage.begin for stage in stages]
  texts = [(leaf.name, leaf.num_documents, leaf.num_tokens) for leaf in parts]
  key = store.key_of(*told, begins, texts, root, options.tokenizer)
  mixture = f"cmtree_{key[:8]}"
  tasks = _task_names(parts, mixture)
  entries = "".join(
    f"  {_quote(task)}: (\n"
    f"    {_quote(f'{leaves.FOLDER}/{leaf.name}')},\n"
    f"    {leaf.num_documents},\n"
    f"    {rate[leaf.name]!r},\n"
    f"  ),\n"
    for task, leaf in zip(tasks, parts, strict=True)
  )
  if options.tokenizer == "bytes":
    vocabulary = "seqio.ByteVocabulary()"
  else:
    vocabulary = f"seqio.SentencePieceVocabulary({_quote(options.tokenizer)})"
  beside = "os.path.dirname(os.path.abspath(__file__))"
  text = _MODULE.format(
    purpose=purpose(options),
    imports="" if root else "import os\n",
    mixture=_quote(mixture),
    folder=_quote(root) if root else beside,
    vocabulary=vocabulary,
    leaves=entries,
  )
  if not stages:
    return text
  task_of = dict(zip((leaf.name for leaf in parts), tasks, strict=True))
  return text + _staged(mixture, task_of, stages, rates)


def _rates_of(
  stage: CappedStage, parts: Sequence[leaves.Leaf]
) -> dict[str, float]:
  """Leaf -> share of the documents drawn in a stage, of those that are drawn."""
  shared = [leaf._replace(share=stage.mixture[leaf.name]) for leaf in parts]
  return leaves.document_rates([leaf for leaf in shared if leaf.share])


def _staged(
  mixture: str,
  task_of: dict[str, str],
  stages: Sequence[CappedStage],
  rates: Sequence[dict[str, float]],
) -> str:
  """The end of the module of a schedule."""
  names = [f"{mixture}_stage_{g:03d}" for g in range(len(stages))]
  begins = "".join(
    f"  ({stage.begin}, {_quote(name)}),\n"
    for stage, name in zip(stages, names, strict=True)
  )
  entries = "".join(
    f"  {_quote(name)}: {{\n"
    + "".join(
      f"    {_quote(task_of[leaf])}: {rate!r},\n" for leaf, rate in one.items()
    )
    + "  },\n"
    for name, one in zip(names, rates, strict=True)
  )
  return _STAGES.format(stages=begins, rates=entries)


def _task_names(parts: Sequence[leaves.Leaf], mixture: str) -> list[str]:
  """Names within seqio's alphabet, unique although that lacks the hyphen."""
  names: list[str] = []
  for leaf in parts:
    name = f"{mixture}:{leaf.name.replace('-', '_')}"
    while name in names:
      name += "_"
    names.append(name)
  return names


def _quote(text: str) -> str:
  """A Python literal, in double quotes where they need no escape."""
  return repr(text) if '"' in text else json.dumps(text, ensure_ascii=False)
