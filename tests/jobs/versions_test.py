"""What versions of a search's recipe weigh, and which concentrations are tried."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.jobs import cells
from cmtree_jax.jobs.cells import Version
from cmtree_jax.jobs.versions import Versions
from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.methods.cmtree import TreeWeights
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.tree import mixture, model
from tests import corpora

MAX_WEIGHT = 8.0
EXPONENTS = (0.2, 0.5, 0.8)
LEAVES = cells.Search("leaves", "goal", 0)
DOCUMENTS = cells.Search("documents", "goal", 0)
SCORES = cells.Search("scores", "goal", 0)
HARD = cells.Search("hard", "goal", 0)
EQUAL = cells.Search("natural", "any", 0)


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Versions:
  """Recipes of labelled sources, of documents, of a selection; and natural."""
  folder = tmp_path_factory.mktemp("versions")
  rows = [
    {"id": f"{s}-{i}", "text": f"{s} {i} " * (1 + i % 3), "source": s}
    for s in corpora.WORDS
    for i in range(20)
  ]
  splits = ("train", "validation", "test")
  goal = [{"text": f"goal {split}", "split": split} for split in splits]
  data = corpora.prepared(folder, rows, goal)
  kept = cells.Folder(folder / "cells").make()
  source_N, names = data.documents.labels("source")
  mass_N = data.pool.tokens.mass_N

  def save(cell, w_N, partition=None):
    w_N = w_N / (mass_N @ w_N)
    with np.errstate(divide="ignore"):
      log_w = {"": np.log(w_N), "start": np.zeros(len(w_N))}
    facts = cells.Found(Cost(), [], [], {"start": partition, "": partition})
    kept.save_found(cell, facts, log_w, np.full(1, np.nan))

  w_K = np.array([0.2, 0.8, 2.5])
  w_K = w_K / (np.bincount(source_N, mass_N) @ w_K)
  # Centers that place every document in the first source: labels must be read.
  center_KE = np.zeros((3, data.pool.embedding_NE.shape[1]), np.float32)
  leaves = partitions.clusters(center_KE)._replace(
    sources=names, log_w_L=np.log(w_K).astype(np.float32)
  )
  rng = np.random.default_rng(0)
  scoring = partitions.TreePartition(
    _scoring(rng, data.pool.embedding_NE, mass_N)
  )
  told = partitions.measured(scoring, data.pool.embedding_NE, mass_N)
  log_p_NL = scoring.log_p_leaf(data.pool.embedding_NE)
  log_w_N = partitions.document_log_w(scoring, data.pool.embedding_NE, log_p_NL)
  save(SCORES, np.exp(log_w_N), told.to_json())
  save(LEAVES, w_K[source_N], leaves.to_json())
  save(DOCUMENTS, rng.exponential(size=len(mass_N)))
  save(HARD, (rng.uniform(size=len(mass_N)) < 0.4).astype(float))
  save(EQUAL, np.ones(len(mass_N)))
  return Versions.make(data, kept, max_weight=MAX_WEIGHT)


def _scoring(rng, embedding_NE, mass_N) -> TreeWeights:
  """Two leaves that score documents at random."""
  width = embedding_NE.shape[1]
  level = model.Level(
    jnp.eye(width),
    jnp.float32(rng.normal(size=(1, 2, width))),
    jnp.float32(1.0),
    jnp.array([[0.0, 1.0]]),
    score_MCP=jnp.float32(rng.normal(0, 2, (1, 2, width))),
  )
  log_w_L = mixture.normalized(
    level.tilt_MC[0],
    model.place((level,), jnp.asarray(embedding_NE)),
    jnp.float32(mass_N),
    max_weight=MAX_WEIGHT,
  )
  return TreeWeights((level,), log_w_L, jnp.float32(MAX_WEIGHT))


def test_a_recipe_of_its_own_concentration_is_what_the_search_left(versions):
  for cell in (LEAVES, DOCUMENTS, SCORES):
    np.testing.assert_array_equal(
      versions.log_w_N(cell, Version()), versions.folder.log_w_N(cell)
    )
    np.testing.assert_array_equal(
      versions.log_w_N(cell, Version("start")),
      versions.folder.log_w_N(cell, "start"),
    )


@pytest.mark.parametrize("cell", [LEAVES, DOCUMENTS, SCORES])
def test_a_share_is_kept_and_weights_stay_of_one_kind(versions, cell):
  version = Version("", 0.5)
  log_w_N = versions.log_w_N(cell, version)
  mass_N = versions.data.pool.tokens.mass_N
  assert mass_N @ np.exp(log_w_N) == pytest.approx(1, rel=1e-5)
  assert versions.share(cell, version) == pytest.approx(0.5, rel=1e-3)
  recipe = versions.recipe(cell, version)
  if cell == DOCUMENTS:
    assert isinstance(recipe, DocumentWeights)
    return
  if cell == SCORES:
    assert isinstance(recipe, partitions.TreePartition) and recipe.scores
    # The mean weights inside are measured anew.
    log_p_NL = recipe.log_p_leaf(versions.data.pool.embedding_NE)
    q_L = mass_N @ np.exp(log_p_NL)
    assert q_L @ np.exp(recipe.log_w_L) == pytest.approx(1, rel=1e-4)
    return
  source_N, _ = versions.data.documents.labels("source")
  np.testing.assert_allclose(log_w_N, recipe.log_w_L[source_N], atol=1e-6)
  own_L = versions.recipe(cell, Version()).log_w_L
  assert (np.argsort(recipe.log_w_L) == np.argsort(own_L)).all()


def test_shares_are_those_that_a_power_can_reach(versions):
  grid = tuple(round(MAX_WEIGHT**-x, 3) for x in EXPONENTS)
  assert versions.shares(DOCUMENTS, "", EXPONENTS) == grid
  own = versions.share(LEAVES, Version())
  # The heaviest source alone is more than an eighth of the corpus.
  assert versions.shares(LEAVES, "", EXPONENTS) == tuple(
    share for share in grid if share > 0.34 and abs(np.log(share / own)) > 0.1
  )
  assert len(versions.shares(LEAVES, "", EXPONENTS)) in (1, 2)
  assert versions.shares(HARD, "", EXPONENTS) == ()
  assert versions.shares(EQUAL, "", EXPONENTS) == ()


def test_the_recipes_own_share_is_not_tried_twice(versions):
  own = versions.share(DOCUMENTS, Version())
  x = -np.log(own) / np.log(MAX_WEIGHT)
  assert versions.shares(DOCUMENTS, "", (float(x),)) == ()
