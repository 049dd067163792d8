"""Mixture files: the fields that each trainer reads, and the shares it would draw.

Levanter, MaxText, Megatron-LM, NeMo and OLMo-core do not install beside this package;
what their readers do with the files is done here, in the few lines that it takes.
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess

import numpy as np
import pytest
import yaml

from cmtree_jax.recipe.export import (
  doremi,
  leaves,
  levanter,
  maxtext,
  megatron,
  olmo,
)
from cmtree_jax.types import UserError
from tests.recipe.export.conftest import NAMES


@pytest.fixture
def shares(corpus, merged) -> dict[str, float]:
  """The mixture without the leaves that have no share."""
  tokens_N = merged.weight_N * merged.num_tokens_N
  return {
    name: tokens_N[merged.leaf_N == i].sum() / tokens_N.sum()
    for i, name in enumerate(corpus.leaf_names)
    if i not in (3, 5)
  }


def close(shares: dict[str, float]):
  return pytest.approx(shares, rel=1e-12)


@pytest.mark.parametrize(
  ("file", "key"),
  [("levanter.yaml", "components"), ("levanter_configs.yaml", "configs")],
)
def test_levanter_names_components_and_their_files(
  capped, options, shares, tmp_path, read_lines, documents_by_leaf, file, key
):
  levanter.export(capped, tmp_path, options)
  data = yaml.safe_load((tmp_path / file).read_text())["data"]
  assert set(data) == {
    key, "train_weights", "mixture_block_size", "tokenizer", "cache_dir",
    "shuffle",
  }  # fmt: skip
  assert data["train_weights"] == close(shares)
  assert data["tokenizer"] == "gpt2"
  # Levanter: "Weight keys must be subset of component keys."
  assert set(data[key]) == set(shares)
  for name, component in data[key].items():
    if key == "components":
      assert set(component) == {"source"}
      component = component["source"]
      assert component.pop("type") == "url"
    assert set(component) == {"train_urls"}
    lines = [
      (x["id"], x["text"])
      for url in component["train_urls"]
      for x in read_lines(pathlib.Path(url))
    ]
    assert lines == documents_by_leaf[name]


@pytest.mark.parametrize(
  ("small", "block", "undrawn"),
  [
    (0.01, 2048, 0),
    (1 / 2048, 2049, 0),  # a row, but for rounding
    (4e-4, 2501, 0),
    (2e-5, 50_001, 0),
    (1e-5, 65_535, 1),  # the most that Levanter takes
  ],
)
def test_levanter_draws_every_leaf_or_it_is_told(
  capped, options, tmp_path, small, block, undrawn
):
  mixture = {**dict.fromkeys(NAMES, 0.0), "null": small, "0.1": 1 - small}
  capped = capped._replace(mixture=mixture)
  levanter.export(capped, tmp_path, options)
  for name in (levanter.FILE, levanter.OLD_FILE):
    text = (tmp_path / name).read_text()
    data = yaml.safe_load(text)["data"]
    assert data["mixture_block_size"] == block
    # As levanter/data/mixture.py counts them.
    weights = np.array(list(data["train_weights"].values()))
    rows = (weights / weights.sum() * block).astype(int)
    assert sum(rows == 0) == undrawn
    told = "Every leaf has a row in blocks of"
    assert (f"# {told} {block:,}." in text) == (not undrawn)
    assert ("never draws what has less than a row" in text) == bool(undrawn)


def test_maxtext_draws_the_budget_in_the_recipes_shares_of_tokens(
  capped, options, shares, tmp_path, parse_example
):
  """MaxText's mixing, in its calls of Grain (without the shuffle, which is slow
  for so few documents)."""
  import glob

  import grain

  budget = options.budget._replace(tokens=20_000)
  options = options._replace(budget=budget)
  maxtext.export(capped, tmp_path, options)
  config = yaml.safe_load((tmp_path / "maxtext.yml").read_text())
  assert config["dataset_type"] == "grain"
  assert config["grain_file_type"] == "arrayrecord"
  assert config["train_data_columns"] == ["text"]
  assert config["tokenizer_path"] == "gpt2"
  assert config["use_truncation"] is False
  assert config["data_shuffle_seed"] == options.seed
  with open(config["grain_train_mixture_config_path"]) as file:
    mixture = json.load(file)
  assert all(set(x) == {"path", "weight"} for x in mixture.values())
  datasets = {}
  for name, part in mixture.items():
    files = sorted(glob.glob(part["path"]))
    data = grain.MapDataset.source(grain.sources.ArrayRecordDataSource(files))
    data = data.repeat(config["num_epoch"])
    data = data.map(
      lambda record, name=name: (
        name,
        parse_example(record)["tokens"].int64_list.value[0],
      )
    )
    datasets[name] = data.to_iter_dataset(grain.ReadOptions(num_threads=0))
  weights = {name: part["weight"] for name, part in mixture.items()}
  drawn = dict.fromkeys(shares, 0)
  for name, tokens in grain.IterDataset.mix(datasets, weights):
    drawn[name] += tokens
    if sum(drawn.values()) >= budget.tokens:
      break
  total = sum(drawn.values())
  assert total >= budget.tokens  # no leaf ended before
  found = {name: tokens / total for name, tokens in drawn.items()}
  assert found == pytest.approx(shares, abs=5e-3)  # a tenth of an epoch


def test_megatron_and_nemo_get_weights_and_prefixes(
  capped, options, shares, tmp_path
):
  megatron.export(capped, tmp_path, options)
  # `get_blend_from_list(f.read().split())`: weights at even places.
  blend = (tmp_path / "megatron_blend.txt").read_text().split()
  prefixes = [f"{tmp_path}/megatron/{name}_text_document" for name in shares]
  assert blend[1::2] == prefixes
  weights = [float(x) for x in blend[::2]]
  assert dict(zip(shares, weights, strict=True)) == close(shares)
  nemo = yaml.safe_load((tmp_path / "nemo_blend.yaml").read_text())
  data_prefix = nemo["model"]["data"]["data_prefix"]
  assert data_prefix[::2] == weights
  assert data_prefix[1::2] == prefixes


@pytest.mark.skipif(not shutil.which("zstd"), reason="the script needs zstd")
def test_megatron_script_feeds_each_leaf_to_its_prefix(
  capped, options, tmp_path, documents_by_leaf
):
  """With a stand-in for preprocess_data.py that keeps what it is given."""
  folder = tmp_path / "it's $HOME"  # to be quoted
  options = options._replace(root=str(tmp_path / "link"))
  megatron.export(capped, folder, options)
  (tmp_path / "link").symlink_to(folder)
  tool = tmp_path / "Megatron-LM" / "tools" / "preprocess_data.py"
  tool.parent.mkdir(parents=True)
  tool.write_text(
    "import argparse, shutil\n"
    "parser = argparse.ArgumentParser()\n"
    "for name in ('input', 'output-prefix', 'tokenizer-type',\n"
    "             'tokenizer-model', 'workers'):\n"
    "  parser.add_argument('--' + name, required=True)\n"
    "parser.add_argument('--append-eod', action='store_true', required=True)\n"
    "args = parser.parse_args()\n"
    "assert args.tokenizer_model == 'gpt2', args\n"
    "shutil.copy(args.input, args.output_prefix + '_text_document.bin')\n"
  )
  subprocess.run(
    ["bash", folder / "megatron_tokenize.sh"],
    env={**os.environ, "MEGATRON": str(tool.parents[1])},
    check=True,
  )
  blend = (folder / "megatron_blend.txt").read_text().split()
  for prefix in blend[1::2]:
    text = pathlib.Path(f"{prefix}.bin").read_bytes().decode()
    lines = [json.loads(line) for line in text.rstrip("\n").split("\n")]
    name = pathlib.Path(prefix).name.removesuffix("_text_document")
    assert [(x["id"], x["text"]) for x in lines] == documents_by_leaf[name]
  assert sorted(p.suffix for p in (folder / "megatron").iterdir()) == [
    ".bin"
  ] * len(blend[1::2])


def test_megatron_refuses_a_path_with_spaces(capped, options, tmp_path):
  with pytest.raises(UserError, match="white space.*a b.*another folder"):
    megatron.export(capped, tmp_path / "a b", options)


def flatten(sources, remaining=1.0):
  """OLMo-core's reading of a mix: weights of groups multiply."""
  total = sum(x["weight"] for x in sources)
  assert round(total, 4) == 1.0
  for source in sources:
    weight = remaining * source["weight"]
    if "categories" in source:
      assert set(source) == {"name", "weight", "categories"}
      yield from flatten(source["categories"], weight)
    else:
      assert set(source) == {"name", "weight", "paths", "repetition_factor"}
      yield source["name"], (weight, source)


def test_olmo_mix_is_nested_as_the_tree(capped, options, shares, tmp_path):
  olmo.export(capped, tmp_path, options)
  mix = yaml.safe_load((tmp_path / "olmo_mix.yaml").read_text())["mix"]
  # Node 1 and node 2 have one leaf left each, which stands for it.
  assert [x["name"] for x in mix] == ["0", "leaf_1.0_код", "null"]
  inner = [x["name"] for x in mix[0]["categories"]]
  assert inner == ["leaf_0.0_film-review", "0.1"]
  flat = dict(flatten(mix))
  assert {name: weight for name, (weight, _) in flat.items()} == close(shares)
  for name, (_, source) in flat.items():
    assert source["paths"] == [f"{tmp_path}/olmo/{name}/*.npy"]
    assert source["repetition_factor"] == -1


def test_olmo_mix_nests_to_any_depth_and_leaves_of_several(tmp_path):
  paths = ("0.0.0", "0.0.1", "0.1", "1")
  parts = [
    leaves.Leaf(f"leaf-{path}", path, share, 1, 1, ())
    for path, share in zip(paths, (0.1, 0.3, 0.2, 0.4), strict=True)
  ]
  mix = olmo.nest(parts, {x.name: [] for x in parts})
  assert [x["name"] for x in mix] == ["0", "leaf-1"]
  node, leaf = mix[0]["categories"]
  assert (node["name"], leaf["name"]) == ("0.0", "leaf-0.1")
  assert node["weight"] == pytest.approx(2 / 3)
  weights = {name: weight for name, (weight, _) in flatten(mix)}
  assert weights == close({x.name: x.share for x in parts})


def test_olmo_sources_allow_the_repeats_that_the_budget_needs(
  capped, options, shares, tmp_path
):
  olmo.export(capped, tmp_path, options)
  sources = yaml.safe_load((tmp_path / "olmo_sources.yaml").read_text())
  assert set(sources) == {"sources"}
  found = {x["source_name"]: x for x in sources["sources"]}
  assert {name: x["target_ratio"] for name, x in found.items()} == close(shares)
  for leaf in leaves.write(capped, tmp_path):
    source = found[leaf.name]
    assert set(source) == {
      "source_name", "target_ratio", "paths", "max_repetition_ratio",
    }  # fmt: skip
    # `max_for_source < needed_for_source` raises; half the tokens are enough.
    needed = int(options.budget.tokens * source["target_ratio"])
    ratio = source["max_repetition_ratio"]
    assert int(leaf.num_tokens / 2 * ratio) >= needed
    assert ratio >= 1
    # Without the margin it is the next whole number of epochs, no more.
    assert (ratio - 1) * leaf.num_tokens / 2 < max(needed + 1, 1)


def test_olmo_script_tokenizes_each_leaf_to_its_path(
  capped, options, shares, tmp_path
):
  """With a stand-in for dolma that prints its arguments."""
  folder = tmp_path / "it's $HOME"
  olmo.export(capped, folder, options)
  tool = tmp_path / "bin" / "dolma"
  tool.parent.mkdir()
  tool.write_text('#!/bin/bash\nprintf "%q " "$@"; echo\n')
  tool.chmod(0o755)
  done = subprocess.run(
    ["bash", folder / "olmo_tokenize.sh"],
    env={
      "PATH": f"{tool.parent}:{os.environ['PATH']}",
      "EOS_TOKEN_ID": "2",
      "PAD_TOKEN_ID": "1",
      "DTYPE": "uint16",
    },
    stdout=subprocess.PIPE,
    check=True,
    text=True,
  )
  for line, name in zip(done.stdout.splitlines(), shares, strict=True):
    command = ["bash", "-c", f"printf '%s\\0' {line}"]  # undoes %q
    words = subprocess.check_output(command, text=True).split("\0")[:-1]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "tokens"
    pattern = f"{folder}/leaves/{name}/part-*.jsonl.zst"
    assert given["--documents"] == pattern
    assert list((folder / "leaves" / name).glob(pathlib.Path(pattern).name))
    assert given["--destination"] == f"{folder}/olmo/{name}"
    assert given["--tokenizer.name_or_path"] == "gpt2"
    assert given["--tokenizer.eos_token_id"] == "2"
    assert given["--dtype"] == "uint16"


def test_doremi_has_weights_by_domain(capped, options, shares, tmp_path):
  doremi.export(capped, tmp_path, options)
  config = json.loads((tmp_path / "doremi.json").read_text())
  assert set(config) == {"train_domain_weights", "eval_domain_weights"}
  assert config["train_domain_weights"] == close(shares)
  assert config["eval_domain_weights"] == close(shares)


def test_paths_are_where_trainers_will_look(capped, options, tmp_path):
  tokenizer = "it's: #1"
  options = options._replace(root="gs://bucket/mix/", tokenizer=tokenizer)
  for module in (levanter, maxtext, megatron, olmo):
    module.export(capped, tmp_path, options)
  data = yaml.safe_load((tmp_path / "levanter.yaml").read_text())["data"]
  assert data["tokenizer"] == tokenizer
  urls = data["components"]["0.1"]["source"]["train_urls"]
  assert urls == ["gs://bucket/mix/leaves/0.1/part-00000.jsonl.zst"]
  mixture = json.loads((tmp_path / "maxtext_mixture.json").read_text())
  assert mixture["0.1"]["path"] == (
    "gs://bucket/mix/array_record/0.1/1.0.0/leaf-train.array_record*"
  )
  script = (tmp_path / "megatron_tokenize.sh").read_text()
  assert f"--tokenizer-model {shlex.quote(tokenizer)}" in script
  for path in tmp_path.glob("*.*"):
    assert str(tmp_path) not in path.read_text()


def test_shares_are_exact_in_text(capped, options, tmp_path):
  """A float is written so that it is read back bit by bit."""
  megatron.export(capped, tmp_path, options)
  blend = (tmp_path / "megatron_blend.txt").read_text().split()
  parts = leaves.write(capped, tmp_path)
  np.testing.assert_array_equal(
    [float(x) for x in blend[::2]], [x.share for x in parts]
  )
