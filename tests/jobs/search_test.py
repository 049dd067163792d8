"""What a method is told beforehand: the training that its recipe is for."""

import numpy as np
import pytest

from cmtree_jax import config as configs
from cmtree_jax.jobs import build, search
from cmtree_jax.recipe import domains
from tests import corpora


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
  """-> facts of a method under overrides, on one small corpus."""
  folder = tmp_path_factory.mktemp("corpus")
  rng = np.random.default_rng(0)

  def text(source):
    return " ".join(rng.permutation(corpora.WORDS[source]))

  rows = [{"id": f"p{i}", "text": text("latin")} for i in range(30)]
  goal = [
    {"text": f"{text('sums')} {i}", "split": split}
    for split in ("train", "valid", "test")
    for i in range(4)
  ]
  data = corpora.prepared(folder, rows, goal)
  place = domains.Plan("kmeans", num_clusters=2)
  placed = domains.make(place, data, np.arange(len(data.pool)), seed=0)

  def of(name, *overrides):
    config = configs.load("configs/smoke.py", list(overrides))
    method = build.make_method(name, config)
    return search.facts_of(method, config, data, placed), config, data

  return of


def test_the_final_training_is_the_budget_s(facts):
  found, config, data = facts(
    "mixing_laws", "budget.epochs=2", "final.steps=50"
  )
  per_step = config.batch.rows * config.batch.row_tokens
  tokens = 2 * data.pool.tokens.pairs_N.sum()
  assert found.final_steps == round(tokens / per_step) != 50
  told, *_ = facts("mixing_laws", "budget.parameters=123_000_000")
  assert told.final_size == 123_000_000


def test_sizes_are_counted_without_the_embedding(facts):
  presets = "runs.presets=0.1m,0.3m,1m"
  small, config, data = facts("mixing_laws", presets, "final.preset=1.6m")
  width, layers = 64, 2  # of 0.3m
  block = 4 * width**2 + 3 * width * 176 + 2 * width
  assert small.sizes[1] == layers * block + width
  final = build.proxy_of("1.6m", config, data.vocab_size)
  assert small.final_size == final.num_parameters - data.vocab_size * 160
