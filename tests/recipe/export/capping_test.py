"""Every format at several budgets: what was written is read back, and repeats counted."""

import importlib.util
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cmtree_jax.budget import Budget, capped
from cmtree_jax.recipe import export
from cmtree_jax.recipe.export import Corpus, Options, Shard, capping, survey

LEAVES = tuple("abcdef")
SIZE = 400
MAX_EPOCHS = 4.0
RANDOM = np.random.default_rng(0)
# Few documents in the first leaves, with nearly all of the weight.
LEAF_N = RANDOM.choice(6, SIZE, p=[0.02, 0.03, 0.05, 0.2, 0.3, 0.4])
TOKENS_N = RANDOM.integers(5, 60, SIZE)
WEIGHT_N = np.exp(RANDOM.normal(size=SIZE)) * 10.0 ** (3 - LEAF_N)
MASS_N = TOKENS_N / TOKENS_N.sum()
# Five standard deviations of the tokens in a resampled text, at the most.
ROUNDING = 5 * np.sqrt((TOKENS_N**2).sum() / 4)


def corpus_of(weight_N: np.ndarray, *cuts: int) -> Corpus:
  """Parts of a corpus, with weights as a recipe has them."""

  def part(begin: int, end: int) -> Callable[[], Shard]:
    names = [f"{i}" for i in range(begin, end)]
    rows = slice(begin, end)
    return lambda: Shard(
      names, names, TOKENS_N[rows], weight_N[rows], LEAF_N[rows]
    )

  bounds = itertools.pairwise((0, *(cuts or (150,)), SIZE))
  parts = tuple(part(begin, end) for begin, end in bounds)
  return Corpus(parts, LEAVES, LEAVES, SIZE, int(TOKENS_N.sum()))


def options_of(epochs: float, max_epochs: float = MAX_EPOCHS) -> Options:
  """For a training of so many epochs."""
  pool = int(TOKENS_N.sum())
  tokens = round(epochs * pool)
  budget = Budget(tokens, pool, 1, max_epochs, 15.0, 1)
  return Options(budget, 3, "bytes", "")


def learned_at(max_weight: float) -> np.ndarray:
  """The weights of a recipe under the cap of its own budget."""
  return capped(WEIGHT_N, MASS_N, max_weight=max_weight)


def copies(folder: Path, read_lines) -> np.ndarray:
  """How often each document is in the resampled text."""
  files = sorted((folder / "jsonl").iterdir())
  found = Counter(line["id"] for file in files for line in read_lines(file))
  return np.array([found[f"{i}"] for i in range(SIZE)])


def weight_files(folder: Path, read_lines, parse_example) -> Iterator[Any]:
  """(format, weights) of what keeps every document's."""
  import grain
  import pyarrow.parquet as pq

  table = pq.read_table(folder / "parquet" / "weights.parquet").to_pydict()
  yield "parquet", np.array(table["weight"])
  files = (folder / "leaves").rglob("*.zst")
  lines = [line for file in files for line in read_lines(file)]
  yield "leaves", in_order({x["id"]: x["weight"] for x in lines})
  files = map(str, (folder / "array_record").rglob("*.array_record*"))
  records = grain.sources.ArrayRecordDataSource(sorted(files))
  features = [parse_example(records[i]) for i in range(len(records))]
  yield (
    "array_record",
    in_order(
      {
        x["id"].bytes_list.value[0].decode(): x["weight"].float_list.value[0]
        for x in features
      }
    ),
  )


def in_order(weight_of: dict[str, float]) -> np.ndarray:
  """Of all documents; those in a leaf without a share are not written."""
  return np.array([weight_of.get(f"{i}", 0.0) for i in range(SIZE)])


def mixtures(folder: Path) -> Iterator[tuple[str, dict[str, float]]]:
  """(format, leaf -> share of the tokens that are drawn) of what mixes leaves."""

  def read_yaml(name):
    return yaml.safe_load((folder / name).read_text())

  for name in ("levanter.yaml", "levanter_configs.yaml"):
    yield name, read_yaml(name)["data"]["train_weights"]
  blend = (folder / "megatron_blend.txt").read_text().split()
  for name, pairs in (
    ("megatron", blend),
    ("nemo", read_yaml("nemo_blend.yaml")["model"]["data"]["data_prefix"]),
  ):
    leaves = [x.rsplit("/")[-1].split("_text")[0] for x in pairs[1::2]]
    yield name, dict(zip(leaves, map(float, pairs[::2]), strict=True))
  mix = read_yaml("olmo_mix.yaml")["mix"]
  yield "olmo_mix", {one["name"]: one["weight"] for one in mix}
  sources = read_yaml("olmo_sources.yaml")["sources"]
  yield (
    "olmo_sources",
    {one["source_name"]: one["target_ratio"] for one in sources},
  )
  doremi = json.loads((folder / "doremi.json").read_text())
  yield "doremi", doremi["train_domain_weights"]
  maxtext = json.loads((folder / "maxtext_mixture.json").read_text())
  yield "maxtext", of_tokens({k: x["weight"] for k, x in maxtext.items()})
  yield "seqio", of_tokens(seqio_rates(folder / "seqio_mixture.py"))


def of_tokens(rate: dict[str, float]) -> dict[str, float]:
  """Shares of tokens where a trainer draws documents."""
  length = {leaf: TOKENS_N[i == LEAF_N].mean() for i, leaf in enumerate(LEAVES)}
  tokens = {leaf: one * length[leaf] for leaf, one in rate.items()}
  return {leaf: one / sum(tokens.values()) for leaf, one in tokens.items()}


def seqio_rates(file: Path) -> dict[str, float]:
  """LEAVES of the module, without importing seqio."""
  text = file.read_text()
  begin = text.index("LEAVES = {")
  code = text[begin : text.index("\n}\n", begin) + 2]
  spec = importlib.util.spec_from_loader("leaves", None)
  assert spec is not None
  found = importlib.util.module_from_spec(spec)
  exec(code, vars(found))
  return {task.split(":")[1]: rate for task, (*_, rate) in found.LEAVES.items()}


@pytest.mark.parametrize("epochs", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("max_weight", [297.0, 4.0])
def test_no_format_repeats_a_document_too_often(
  epochs, max_weight, tmp_path, read_lines, parse_example
):
  folder, options = tmp_path / "out", options_of(epochs)
  tokens, epochs = options.budget.tokens, options.budget.epochs
  weight_N = learned_at(max_weight)
  formats = list(export.EXPORTERS)
  export.write(folder, formats, corpus_of(weight_N), options, {})

  count_N = copies(folder, read_lines)
  assert count_N.max() <= MAX_EPOCHS
  assert count_N @ TOKENS_N == pytest.approx(tokens, abs=ROUNDING)
  for name, found_N in weight_files(folder, read_lines, parse_example):
    assert (found_N * epochs).max() <= MAX_EPOCHS * (1 + 1e-6), name
    assert MASS_N @ found_N == pytest.approx(1, rel=1e-6), name
    # The order of documents stays.
    order_N = np.argsort(weight_N, kind="stable")
    assert (np.diff(found_N[order_N]) >= -1e-6).all(), name
  for name, share in mixtures(folder):
    assert sum(share.values()) == pytest.approx(1, rel=1e-6), name
    for leaf, one in share.items():
      inside = LEAVES.index(leaf) == LEAF_N
      repeats = one * tokens / TOKENS_N[inside].sum()
      assert repeats <= MAX_EPOCHS * (1 + 1e-6), (name, leaf)

  # The same test fails without the cap, where there is anything to cap.
  binds = max_weight > MAX_EPOCHS / epochs
  assert ((weight_N * epochs).max() > MAX_EPOCHS * (1 + 1e-6)) == binds
  cap = json.loads((folder / "manifest.json").read_text())["cap"]
  assert (cap["moved"] > 1e-6) == binds
  over_N = np.maximum(capped_N(folder) - weight_N, 0)
  assert cap["moved"] == pytest.approx(MASS_N @ over_N, abs=1e-9)


def capped_N(folder: Path) -> np.ndarray:
  """The weights in the export."""
  import pyarrow.parquet as pq

  table = pq.read_table(folder / "parquet" / "weights.parquet")
  return table["weight"].to_numpy()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
  ("epochs", "max_epochs", "most", "tokens"),
  [
    (1.0, 2.5, 2, 1.0),
    (0.3, 1.7, 1, 0.3),
    (0.1, 0.5, 1, 0.1),  # less than one look: never sure, never twice
    (2.2, 2.5, 2, 2.0),  # two whole copies of all is the most
    (5.0, 4.0, 5, 5.0),  # natural
    (4.5, 4.0, 5, 4.5),
  ],
)
def test_whole_copies_are_within_any_limit(
  epochs, max_epochs, most, tokens, seed, tmp_path, read_lines
):
  options = options_of(epochs, max_epochs)._replace(seed=seed)
  corpus = corpus_of(WEIGHT_N)
  export.write(tmp_path / "out", ["jsonl", "parquet"], corpus, options, {})
  count_N = copies(tmp_path / "out", read_lines)
  assert count_N.max() == most
  if epochs > max_epochs:
    assert count_N.min() == np.floor(epochs)
  expected_N = capping.expected_copies(survey.survey(corpus), options.budget)
  assert expected_N.max() <= max(max_epochs, options.budget.epochs)
  pool = TOKENS_N.sum()
  assert count_N @ TOKENS_N == pytest.approx(tokens * pool, abs=ROUNDING)
  most_N = capped_N(tmp_path / "out") * options.budget.epochs
  limit = max(max_epochs, options.budget.epochs)
  assert most_N.max() == pytest.approx(limit)
  told = export.told(tmp_path / "out")
  assert ("natural, as even that" in told) == (epochs > max_epochs)
  assert ("as 2 whole copies" in told) == (epochs == 2.2)


def test_resampled_text_that_whole_copies_make_natural_is_told(tmp_path):
  for max_epochs, natural in ((2.5, True), (3.0, False)):
    options = options_of(2.0, max_epochs=max_epochs)
    folder = tmp_path / str(max_epochs)
    export.write(folder, ["jsonl"], corpus_of(WEIGHT_N), options, {})
    assert ("Resampled text is natural" in export.told(folder)) == natural


def test_resampled_text_without_a_document_is_told(tmp_path):
  for epochs, empty in ((1e-4, True), (1.0, False)):
    folder = tmp_path / str(epochs)
    export.write(folder, ["jsonl"], corpus_of(WEIGHT_N), options_of(epochs), {})
    assert ("Resampled text is empty" in export.told(folder)) == empty


def test_copies_do_not_depend_on_where_a_corpus_is_cut():
  def copies_of(seed, *cuts):
    corpus = corpus_of(WEIGHT_N, *cuts)
    options = options_of(1.0)._replace(seed=seed)
    found = capping.cap(corpus, survey.survey(corpus), options)
    return np.concatenate(found.capped.repeats).tolist()

  first = copies_of(3, 150)
  assert copies_of(3, 1, 7, 7, 399) == first
  assert copies_of(4, 150) != first


def test_a_person_is_told_what_moved(tmp_path):
  options = options_of(1.0)
  corpus = corpus_of(WEIGHT_N)
  export.write(tmp_path, ["doremi"], corpus, options, {})
  weight_N = WEIGHT_N / (MASS_N @ WEIGHT_N)
  wanted_N = learned_at(4.0)
  moved = MASS_N @ np.maximum(wanted_N - weight_N, 0)
  at_cap = (wanted_N > 4 - 1e-9).sum()
  assert 5 < at_cap < SIZE / 2
  assert moved > 0.25
  assert export.told(tmp_path) == (
    f"Export for {TOKENS_N.sum():,} tokens, 1 epoch of this corpus: {at_cap} "
    f"documents are at the cap of weight 4; {moved:.2%} of the training tokens "
    "went from such documents to the others. That is another recipe: learn one "
    "with this config.budget."
  )


def test_a_person_is_told_that_nothing_is_left_of_a_recipe(tmp_path):
  export.write(tmp_path, ["doremi"], corpus_of(WEIGHT_N), options_of(4.0), {})
  told = export.told(tmp_path)
  assert "all documents are drawn alike, as in the natural mixture" in told
  assert "went" not in told
