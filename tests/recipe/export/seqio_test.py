"""The module that seqio imports: its tasks, texts and rates, drawn by seqio itself."""

import importlib.util
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cmtree_jax.recipe.export import leaves, seqio_module


@pytest.fixture
def parts(capped, tmp_path) -> list[leaves.Leaf]:
  return leaves.write(capped, tmp_path)


def load(path: pathlib.Path):
  """Imports a file under a name of its own."""
  name = f"module_{abs(hash(path))}"
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def test_seqio_draws_the_recipes_texts_at_its_rates(
  corpus, capped, options, merged, parts, tmp_path
):
  seqio = pytest.importorskip("seqio")
  options = options._replace(tokenizer="bytes")
  module = load(seqio_module.export(capped, tmp_path, options)[-1])
  mixture = seqio.get_mixture_or_task(module.MIXTURE)
  assert [x.name for x in mixture.tasks] == sorted(module.LEAVES)
  assert mixture.num_input_examples("train") == sum(
    x.num_documents for x in parts
  )
  data = mixture.get_dataset(
    sequence_length=None, split="train", seed=0, passthrough_features=["id"]
  )
  row_of = {name: row for row, name in enumerate(merged.id)}
  vocabulary = module.VOCABULARY
  drawn = np.zeros(60, np.int64)
  size = 3_000
  for example in data.take(size).as_numpy_iterator():
    row = row_of[example["id"].decode()]
    drawn[row] += 1
    *text, end = example["targets"].tolist()
    assert end == vocabulary.eos_id
    wanted = [byte + 3 for byte in merged.text[row].encode()]
    assert text == wanted
  rates = leaves.document_rates(parts)
  tokens = drawn * merged.num_tokens_N
  for leaf in parts:
    of_leaf = merged.leaf_N == corpus.leaf_names.index(leaf.name)
    rate = rates[leaf.name]
    error = 4.5 * np.sqrt(rate * (1 - rate) / size)
    assert drawn[of_leaf].sum() / size == pytest.approx(rate, abs=error)
    # What the rates are for: the recipe's share of training tokens.
    assert tokens[of_leaf].sum() / tokens.sum() == pytest.approx(
      leaf.share, abs=0.05
    )
    assert (drawn[of_leaf] > 0).all()
  assert drawn.sum() == size


def test_seqio_reads_two_exports_side_by_side(capped, options, tmp_path):
  seqio = pytest.importorskip("seqio")
  options = options._replace(tokenizer="bytes")
  for name, share in (("a", 0.25), ("b", 0.5)):
    mixture = dict.fromkeys(capped.mixture, 0.0)
    each = capped._replace(mixture={**mixture, "0.1": share, "null": 1 - share})
    module = load(seqio_module.export(each, tmp_path / name, options)[-1])
    tasks = seqio.get_mixture_or_task(module.MIXTURE).tasks
    assert len(tasks) == 2


def test_seqio_reads_exports_of_one_recipe_side_by_side(
  capped, options, tmp_path
):
  """Other options are another mixture; a copy is the same one."""
  seqio = pytest.importorskip("seqio")
  options = options._replace(tokenizer="bytes")
  path = seqio_module.export(capped, tmp_path / "a", options)[-1]
  shutil.copytree(tmp_path / "a", tmp_path / "copy")
  first, again = load(path), load(tmp_path / "copy" / path.name)
  assert again.MIXTURE == first.MIXTURE
  root = str(tmp_path / "copy")
  moved = options._replace(root=root)
  other = load(seqio_module.export(capped, tmp_path / "b", moved)[-1])
  assert other.MIXTURE != first.MIXTURE
  for module in (first, other):
    mixture = seqio.get_mixture_or_task(module.MIXTURE)
    assert {x.name for x in mixture.tasks} == set(module.LEAVES)


@pytest.mark.parametrize("root", ["", 'gs://a "b"/c'])
@pytest.mark.parametrize("tokenizer", ["bytes", "/my models/it's.model"])
def test_module_is_formatted_and_says_where_it_reads(
  parts, options, tmp_path, root, tokenizer
):
  options = options._replace(tokenizer=tokenizer)
  text = seqio_module.module(parts, root, options)
  path = tmp_path / "seqio_mixture.py"
  path.write_text(text)
  command = [sys.executable, "-m", "ruff", "format", "--diff", "--config"]
  done = subprocess.run(
    [*command, "indent-width=2", path], capture_output=True, text=True
  )
  assert done.stdout == ""
  names: dict = {"__file__": "/x/seqio_mixture.py", "os": __import__("os")}
  for line in text.splitlines():
    if line.startswith(("FOLDER = ", "MIXTURE = ")):
      exec(line, names)
  assert names["FOLDER"] == (root or "/x")
  wanted = {
    "bytes": "VOCABULARY = seqio.ByteVocabulary()",
    "/my models/it's.model": (
      'VOCABULARY = seqio.SentencePieceVocabulary("/my models/it\'s.model")'
    ),
  }
  assert wanted[tokenizer] in text.splitlines()


def test_names_stay_apart_without_hyphens(parts, options):
  parts = [
    parts[0]._replace(name=name) for name in ("a-b", "a_b", "a.b", "ж-1")
  ]
  text = seqio_module.module(parts, "", options)
  tasks = [
    line.split('"')[1].split(":")[1]
    for line in text.splitlines()
    if line.endswith('": (')
  ]
  assert tasks == ["a_b", "a_b_", "a.b", "ж_1"]
