"""Schedules in the formats that hold stages: written, read back and counted."""

import functools
import itertools
import json
import pathlib
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from cmtree_jax.budget import Budget, capped
from cmtree_jax.recipe import export
from cmtree_jax.recipe.export import Corpus, Options, Shard, Stage, levanter
from cmtree_jax.types import UserError

LEAVES = tuple("abcd")
SIZE, ROWS = 400, 8
SHARE_G = np.array([0.5, 0.3, 0.2])
ENDS = (50, 80, 100)  # steps of the trainer
RANDOM = np.random.default_rng(0)
# The documents of a leaf stand together, as in a corpus that is sorted by source.
LEAF_N = np.repeat(np.arange(4), (40, 60, 100, 200))
TOKENS_N = RANDOM.integers(5, 60, SIZE)
MASS_N = TOKENS_N / TOKENS_N.sum()
# Each stage wants other leaves, the first of few documents; the last has no "d".
WEIGHT_GL = np.array([[50.0, 5.0, 1.0, 1.0], [1, 1, 2, 0.5], [9, 3, 1, 0]])
WEIGHT_GN = WEIGHT_GL[:, LEAF_N] * np.exp(0.3 * RANDOM.normal(size=SIZE))


def part(begin: int, end: int) -> Shard:
  names, rows = [f"{i}" for i in range(begin, end)], slice(begin, end)
  weight_N = np.ones(end - begin)  # of no stage
  return Shard(names, names, TOKENS_N[rows], weight_N, LEAF_N[rows])


def weights(stage: int, begin: int, end: int) -> np.ndarray:
  return WEIGHT_GN[stage, begin:end]


def corpus_of(*cuts: int, ends: tuple[int, ...] = ENDS) -> Corpus:
  """Parts of a corpus with the stages of a schedule."""
  bounds = list(itertools.pairwise((0, *(cuts or (100, 100, 250)), SIZE)))
  stages = tuple(
    Stage(
      begin,
      end,
      SHARE_G[g],
      tuple(functools.partial(weights, g, *one) for one in bounds),
    )
    for g, (begin, end) in enumerate(itertools.pairwise((0, *ends)))
  )
  parts = tuple(functools.partial(part, *one) for one in bounds)
  return Corpus(
    parts,
    LEAVES,
    LEAVES,
    SIZE,
    int(TOKENS_N.sum()),
    stages=stages,
    step_rows=ROWS,
  )


def options_of(epochs: float, seed: int = 3, max_epochs: float = 4.0):
  pool = int(TOKENS_N.sum())
  tokens = round(epochs * pool)
  budget = Budget(tokens, pool, 1, max_epochs, 15.0, 1)
  return Options(budget, seed, "bytes", "")


def written(
  folder: pathlib.Path, *formats: str, options: Options, corpus=None
) -> pathlib.Path:
  export.write(folder, formats, corpus or corpus_of(), options, {})
  return folder


def table_of(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Columns of the table by stage, in the corpus's order."""
  table = pq.read_table(folder / "parquet/weights.parquet").to_pydict()
  stage_R = np.array(table.pop("stage"))
  ids = [f"{i}" for i in range(SIZE)]
  rows_G = [np.flatnonzero(stage_R == g) for g in range(3)]
  assert len(stage_R) == 3 * SIZE
  for rows in rows_G:
    assert [table["document_id"][i] for i in rows] == ids
  return {
    k: np.array([np.array(v)[r] for r in rows_G]) for k, v in table.items()
  }


def texts_of(folder: pathlib.Path, read_lines) -> list[list[list[int]]]:
  """Documents in training order, by stage and file."""
  stages = []
  for g in range(3):
    files = sorted((folder / f"jsonl/stage-{g:05d}").iterdir())
    stages.append([[int(x["id"]) for x in read_lines(one)] for one in files])
  return stages


def together(files: list[list[int]]) -> list[int]:
  return list(itertools.chain.from_iterable(files))


def shares(weight_N: np.ndarray) -> dict[str, float]:
  """Of the leaves in the tokens that weights draw."""
  share_L = np.bincount(LEAF_N, MASS_N * weight_N, 4)
  return dict(zip(LEAVES, share_L / share_L.sum(), strict=True))


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("epochs", [0.1, 1.0, 4.0])
def test_no_document_is_looked_at_too_often_over_all_stages(
  epochs, seed, tmp_path, read_lines
):
  options = options_of(epochs, seed)
  epochs = options.budget.epochs
  folder = written(tmp_path / "x", "jsonl", "parquet", options=options)
  table = table_of(folder)
  for g, weight_N in enumerate(table["weight"]):
    wanted_N = capped(WEIGHT_GN[g], MASS_N, max_weight=max(1, 4 / epochs))
    np.testing.assert_allclose(weight_N, wanted_N)
    assert MASS_N @ weight_N == pytest.approx(1)
  np.testing.assert_array_equal(table["tokens"], [TOKENS_N] * 3)
  expected_GN = epochs * SHARE_G[:, None] * table["weight"]
  expected_N, total_N = expected_GN.sum(axis=0), table["repeats"].sum(axis=0)
  assert expected_N.max() <= 4 * (1 + 1e-9)
  assert total_N.max() <= 4
  # Of a document over all stages, and in each: the whole numbers around.
  assert (np.abs(total_N - expected_N) < 1).all()
  assert (np.abs(table["repeats"] - expected_GN) < 1).all()
  rounding = 5 * np.sqrt((TOKENS_N**2).sum() / 4)
  for g, count_N in enumerate(table["repeats"]):
    tokens = SHARE_G[g] * options.budget.tokens
    assert count_N @ TOKENS_N == pytest.approx(tokens, abs=rounding)
  for g, files in enumerate(texts_of(folder, read_lines)):
    found_N = np.bincount(together(files), minlength=SIZE)
    np.testing.assert_array_equal(found_N, table["repeats"][g])


def test_text_is_in_training_order_and_shuffled_within_a_stage(
  tmp_path, read_lines
):
  first, again, other = (
    texts_of(
      written(tmp_path / name, "jsonl", options=options_of(4.0, seed)),
      read_lines,
    )
    for name, seed in (("a", 3), ("b", 3), ("c", 4))
  )
  assert first == again
  assert first[0] != other[0]
  assert [len(files) for files in first] == [2, 2, 1]
  for files in first:
    order = np.array(together(files))
    # Sorted by the corpus this is one; five standard deviations of none.
    moved = np.corrcoef(order, np.arange(len(order)))[0, 1]
    assert abs(moved) < 5 / np.sqrt(len(order))
    for one in files:  # parts end at 100 and at 250
      assert min(one) < 100 and max(one) >= 100
  assert not (tmp_path / "a/jsonl/.sent").exists()


def test_copies_do_not_depend_on_where_a_corpus_is_cut(tmp_path):
  found = [
    table_of(
      written(
        tmp_path / f"{len(cuts)}",
        "parquet",
        options=options_of(1.0),
        corpus=corpus_of(*cuts),
      )
    )["repeats"]
    for cuts in ((100,), (1, 7, 7, 399))
  ]
  np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize("file", ["levanter.yaml", "levanter_configs.yaml"])
def test_levanter_draws_the_stages_that_it_is_told(tmp_path, file):
  """Its blocks, as levanter.data.mixture has them."""
  folder = written(
    tmp_path / "x", "levanter", "parquet", options=options_of(1.0)
  )
  data = yaml.safe_load((folder / file).read_text())["data"]
  block, stages = data["mixture_block_size"], data["train_weights"]
  weight_GN = table_of(folder)["weight"]
  assert [begin for begin, _ in stages] == [0, 60, 80]  # of 20 steps, 160 rows
  assert block == 160
  for (begin, weights_of), weight_N in zip(stages, weight_GN, strict=True):
    assert begin * ROWS % block == 0
    assert weights_of == pytest.approx(shares(weight_N))
    assert set(weights_of) == set(LEAVES)
    rows = {name: int(share * block) for name, share in weights_of.items()}
    rows[max(rows, key=lambda name: rows[name])] += block - sum(rows.values())
    for name, share in weights_of.items():
      assert rows[name] / block == pytest.approx(share, abs=len(LEAVES) / block)


@pytest.mark.parametrize(
  ("bounds", "rows", "wanted", "block"),
  [
    ((0, 1, 2), 70_000, [0, 1, 2], 35_000),  # no block of 2**16 and more
    ((0, 3, 1000), 2048, [0, 3, 1000], 2048),
    ((0, 1000, 1001), 4, [0, 1000, 1001], 4),  # one step is all of the last
    ((0, 3, 6, 8), 1, [0, 4, 6, 8], 2),
  ],
)
def test_stages_begin_where_blocks_do(bounds, rows, wanted, block):
  assert levanter.aligned(bounds, rows) == (wanted, block)


def test_seqio_has_a_mixture_for_every_stage(tmp_path):
  seqio = pytest.importorskip("seqio")
  folder = written(tmp_path / "x", "seqio", "parquet", options=options_of(1.0))
  file = folder / "seqio_mixture.py"
  command = [sys.executable, "-m", "ruff", "format", "--diff", "--config"]
  done = subprocess.run(
    [*command, "indent-width=2", file], capture_output=True, text=True
  )
  assert done.stdout == ""
  module: dict = {"__file__": str(file)}
  exec(file.read_text(), module)
  length = {leaf: TOKENS_N[i == LEAF_N].mean() for i, leaf in enumerate(LEAVES)}
  assert [begin for begin, _ in module["STAGES"]] == [0, 50, 80]
  for (_, name), weight_N in zip(
    module["STAGES"], table_of(folder)["weight"], strict=True
  ):
    mixture = seqio.get_mixture_or_task(name)
    drawn = {
      task.name.split(":")[1]: mixture.get_rate(task) for task in mixture.tasks
    }
    assert ("d" in drawn) == (shares(weight_N)["d"] > 0)
    tokens = {leaf: rate * length[leaf] for leaf, rate in drawn.items()}
    for leaf, one in tokens.items():
      share = one / sum(tokens.values())
      assert share == pytest.approx(shares(weight_N)[leaf])
  assert len(seqio.get_mixture_or_task(module["MIXTURE"]).tasks) == 4


def test_a_manifest_tells_the_stages(tmp_path):
  folder = written(tmp_path / "x", "jsonl", "parquet", options=options_of(1.0))
  told, table = (
    json.loads((folder / "manifest.json").read_text()),
    table_of(folder),
  )
  assert [(x["begin"], x["end"]) for x in told["stages"]] == [
    *((0, 50), (50, 80), (80, 100))
  ]
  for g, stage in enumerate(told["stages"]):
    assert stage["mixture"] == pytest.approx(shares(table["weight"][g]))
    assert stage["documents"] == table["repeats"][g].sum()
    assert stage["tokens"] == table["repeats"][g] @ TOKENS_N
  mean_N = SHARE_G @ table["weight"]
  found = {name: leaf["share"] for name, leaf in told["leaves"].items()}
  assert found == pytest.approx(shares(mean_N))
  assert told["counts"]["resampled"]["documents"] == table["repeats"].sum()
  at_cap_GN = table["weight"] > 4 * (1 - 1e-6)
  at_cap = at_cap_GN.any(axis=0).sum()
  assert told["cap"]["documents_at_cap"] == at_cap > at_cap_GN[1].sum()
  assert told["cap"]["max_weight"] == 4
  assert "documents are at the cap of weight 4" in export.told(folder)
  # The same weights at other steps are another export.
  with pytest.raises(UserError, match="made with stages"):
    written(
      folder,
      "jsonl",
      "parquet",
      options=options_of(1.0),
      corpus=corpus_of(ends=(50, 90, 100)),
    )


@pytest.mark.parametrize(
  "name", sorted(set(export.EXPORTERS) - set(export.OF_STAGES))
)
def test_formats_of_one_mixture_are_refused(name, tmp_path):
  with pytest.raises(
    UserError, match="jsonl, levanter, parquet, seqio"
  ) as told:
    written(tmp_path / "x", "parquet", name, options=options_of(1.0))
  assert repr(name) in str(told.value) and "\n" not in str(told.value)
  assert not (tmp_path / "x").exists()


def test_a_stage_without_a_step_is_refused(tmp_path):
  corpus = corpus_of(ends=(50, 50, 100))
  with pytest.raises(UserError, match="stage 1 of 3 without.*at step 50"):
    written(tmp_path, "levanter", options=options_of(1.0), corpus=corpus)
