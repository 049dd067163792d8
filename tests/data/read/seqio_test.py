"""Tasks and Mixtures that a module registers, read as documents."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("seqio", reason="seqio is not installed")

from cmtree_jax.data.read import seqio_reader, sources
from cmtree_jax.data.read.fields import Part, Rules
from cmtree_jax.types import Record, UserError

RULES = Rules("targets", "id", "source", 1_000)
# No tokenizer file is at hand; bytes have a vocabulary of their own.
MODULE = """
import seqio
import tensorflow as tf

TEXTS = {"train": ["first", "", "zweiter ü"], "test": ["third"]}
FEATURES = {"targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=False)}


def examples(split, shuffle_files, seed=None):
  texts = tf.data.Dataset.from_tensor_slices(TEXTS[split])
  return texts.map(lambda x: {"targets": x, "id": tf.strings.length(x)})


def failing(split, shuffle_files, seed=None):
  def one(number):
    if number == 2:
      raise RuntimeError("the disk is gone")
    return "x"

  numbers = tf.data.Dataset.range(4)
  return numbers.map(
    lambda x: {"targets": tf.ensure_shape(tf.py_function(one, [x], tf.string), [])}
  )


def bytes_that_are_no_text(split, shuffle_files, seed=None):
  return tf.data.Dataset.from_tensors({"targets": b"caf\\xe9"})


def add(name, function, splits, steps, features=FEATURES):
  source = seqio.FunctionDataSource(function, splits=splits)
  seqio.TaskRegistry.add(
    name, source=source, preprocessors=steps, output_features=features
  )


strip = seqio.map_over_dataset(
  lambda x: {key: x[key] for key in x if not key.endswith("_pretokenized")}
)
tokens = seqio.preprocessors.tokenize
add("pool_tokenized", examples, ("train", "test"), [tokens])
add("pool_of_tokens", examples, ("train",), [tokens, strip])
text = seqio.Feature(
  seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.string, rank=0
)
add("pool_of_text", examples, ("train",), [], {"targets": text})
add("pool_failing", failing, ("train",), [tokens])
add("pool_of_bytes", bytes_that_are_no_text, ("train",), [tokens])
seqio.MixtureRegistry.add(
  "pool_mixture", [("pool_tokenized", 1), ("pool_of_bytes", 3)]
)
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory) -> Iterator[None]:
  """A module that can be imported, as a project with tasks of its own has."""
  folder = tmp_path_factory.mktemp("project")
  (folder / "cmtree_pool_tasks.py").write_text(MODULE)
  sys.path.insert(0, str(folder))
  yield
  sys.path.remove(str(folder))


def parts(name: str) -> list[Part]:
  return sources.parts([f"seqio:cmtree_pool_tasks#{name}"])


def read(name: str, rules: Rules = RULES) -> list[Any]:
  (part,) = parts(name)
  return [
    x._replace(where="") if isinstance(x, Record) else x
    for x in sources.read(part, rules)
  ]


def test_every_split_is_a_part():
  assert parts("pool_tokenized") == [
    Part(
      "seqio", f"cmtree_pool_tasks#pool_tokenized:{x}", f"pool_tokenized:{x}"
    )
    for x in ("test", "train")
  ]


@pytest.mark.parametrize(
  "name", ["pool_tokenized", "pool_of_tokens", "pool_of_text"]
)
def test_text_is_what_the_source_held_tokenized_or_not(name):
  first, problem, last = read(f"{name}:train")
  assert first == Record("5", "first", "5", name, "", "")
  assert last.text == "zweiter ü"
  assert problem.kind == "an empty text"
  assert problem.where == f"cmtree_pool_tasks#{name}:train, example 2"


def test_mixture_is_its_tasks_each_once():
  names = [part.name for part in parts("pool_mixture:train")]
  assert names == ["pool_of_bytes:train", "pool_tokenized:train"]


def test_bytes_that_are_no_text_are_told():
  (problem,) = read("pool_of_bytes:train")
  assert problem.kind == "invalid UTF-8"
  assert "0xe9 at position 3 after 'caf'" in problem.message


def test_error_of_a_task_is_told_after_what_came_before():
  *found, problem = read("pool_failing:train")
  assert [x.text for x in found] == ["x", "x"]
  assert problem.kind == "a damaged file"
  assert problem.where.endswith(", after example 2")
  assert "the disk is gone" in problem.message
  assert "\n" not in problem.message


def test_unknown_feature_is_told_once():
  (problem,) = read("pool_tokenized:train", RULES._replace(text_field="text"))
  assert problem.kind == "no text in the field 'text'"
  assert "'targets'" in problem.message


def test_digest_is_of_the_examples():
  test, train = map(sources.digest, parts("pool_tokenized"))
  assert test != train
  other = sources.digest(parts("pool_of_text:train")[0])
  module: Any = sys.modules["cmtree_pool_tasks"]
  assert other != train
  before = module.TEXTS["train"]
  module.TEXTS["train"] = [*before[:2], "changed"]
  assert sources.digest(parts("pool_tokenized:train")[0]) != train
  module.TEXTS["train"] = before
  assert sources.digest(parts("pool_tokenized:train")[0]) == train


@pytest.mark.parametrize(
  ("address", "fact"),
  [
    (
      "cmtree_pool_tasks#pool_of_text:dev",
      "unknown split 'dev'. Known: train.",
    ),
    ("cmtree_pool_tasks#absent", "came an unknown name"),
    ("absent_task_name", "seqio:my.module#absent_task_name"),
    ("cmtree_absent_module#x", "No module named 'cmtree_absent_module'"),
    ("#x", "wanted [MODULE#]TASK_OR_MIXTURE[:SPLIT]"),
  ],
)
def test_address_that_leads_to_nothing(address, fact):
  with pytest.raises(UserError) as caught:
    seqio_reader.parts(address)
  assert fact in str(caught.value)
  assert "\n" not in str(caught.value)
