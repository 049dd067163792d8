"""A recipe on disk that is not what was written says which file, and what to do."""

import json
import random
import shutil

import numpy as np
import pytest

from cmtree_jax import budget
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import recipe
from cmtree_jax.types import UserError
from tests import corpora

TEXTS = [f"lorem {i} ipsum dolor" for i in range(12)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A recipe of two clusters."""
  folder = tmp_path_factory.mktemp("recipe")
  rows = [{"id": f"{i}", "text": text} for i, text in enumerate(TEXTS)]
  goal = [{"text": f"goal {s}", "split": s} for s in ("train", "valid", "test")]
  data = corpora.prepared(folder, rows, goal)
  leaves = partitions.clusters(np.eye(2, 4, dtype=np.float32))
  told = {
    "format": recipe.FORMAT,
    "budget": dict.fromkeys(budget.Budget._fields, 1),
    "partition": leaves.with_weights(np.array([0.5, -0.5])).to_json(),
    "config": {"cache_dir": str(folder)},
  }
  recipe.save(folder / "whole", told, learned=data.folder)
  return folder / "whole"


def _damage(data: bytes, rng: random.Random) -> bytes:
  """A flipped bit, a lost end, zeros of a page, or a piece twice."""
  at, size = rng.randrange(len(data)), rng.randrange(1, 64)
  kinds = (
    data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
    data[:at],
    data[:at] + bytes(size) + data[at + size :],
    data[: at + size] + data[at:],
  )
  return rng.choice(kinds)


@pytest.mark.parametrize(
  "name", ["recipe.json", "embedder.npz", "tokenizer.bin"]
)
def test_a_damaged_file_is_named_or_the_recipe_is_the_same(
  whole, tmp_path, name
):
  rng = random.Random(0)
  folder = shutil.copytree(whole, tmp_path / "recipe")
  before = (folder / name).read_bytes() or b"x"  # bytes need no tokenizer
  wanted = recipe.load(whole).apply(TEXTS).weight_N
  refused = 0
  for _ in range(100):
    (folder / name).write_bytes(_damage(before, rng))
    try:
      found = recipe.load(folder)
    except UserError as error:
      refused += 1
      assert str(folder / name) in str(error) and "\n" not in str(error)
    else:
      np.testing.assert_array_equal(found.apply(TEXTS).weight_N, wanted)
  assert refused > 60
  (folder / name).unlink()
  with pytest.raises(UserError, match=name):
    recipe.load(folder)


def test_a_recipe_of_a_smaller_budget_is_refused(whole, tmp_path):
  """As this format had it in an earlier version."""
  told = json.loads((whole / recipe.FILE).read_text())
  for name in ("digest", "files"):
    del told[name]
  told["budget"] = {"tokens": 5}
  (tmp_path / recipe.FILE).write_text(json.dumps(told))
  for name in ("embedder.npz", "tokenizer.bin"):
    shutil.copy(whole / name, tmp_path)
  with pytest.raises(UserError, match="without pool_tokens, parameters"):
    recipe.load(tmp_path)
