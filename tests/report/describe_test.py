"""A recipe in words: what weights of single documents prefer, how leaves lean."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.methods.cmtree import TreeWeights
from cmtree_jax.recipe import partition as partitions
from cmtree_jax.recipe import schedule as schedules
from cmtree_jax.recipe.partition import (
  TreePartition,
  apply_partition,
  partition_from_json,
)
from cmtree_jax.report import describe
from cmtree_jax.tree import model, room

TEXTS = ["apples\n and pears", "pears", "stones and sand", "sand", "apples"]
MASS = np.array([0.1, 0.2, 0.3, 0.2, 0.2])
WEIGHT = np.array([2.0, 2.0, 0.1, 0.1, 2.0])
FEATURES = np.array([[0.6, 0.8], [1, 0], [0, 1], [0, 1], [0.8, 0.6]])


def _described() -> describe.Description:
  weights = DocumentWeights(np.log(WEIGHT))
  ids = [f"id{i}" for i in range(5)]
  return describe.describe(weights, describe.Sample(FEATURES, MASS, TEXTS, ids))


def test_what_weights_of_documents_prefer():
  found = _described()
  assert found.nodes == ()
  favored = found.favored
  assert favored is not None
  assert favored.mass == pytest.approx(0.5)
  assert favored.mixture == pytest.approx(1.0 / 1.05)
  assert set(favored.terms[:2]) == {"apples", "pears"}
  assert "sand" not in favored.terms
  # Of equal weights the ones nearest to the weighted mean come first.
  assert [one.id for one in favored.heaviest] == [
    *("id4", "id0", "id1"),
    *("id2", "id3"),
  ]
  assert favored.heaviest[1].text == "apples and pears"
  assert favored.heaviest[1].weight == pytest.approx(2.0)


def test_sources_have_the_documents_of_their_labels():
  """Of two that overlap, the second has nine tenths of the tokens."""
  features_NE = np.array([[1, 0.1], [1, -0.1]] * 2, np.float32)
  mass_N = np.array([0.05, 0.05, 0.45, 0.45])
  weights = partitions.clusters(features_NE[:2])._replace(
    sources=("a", "b"), log_w_L=np.log([5.0, 5 / 9]).astype(np.float32)
  )
  sample = describe.Sample(features_NE, mass_N, ["one"] * 4, list("wxyz"))
  labelled = sample._replace(sources=["a", "a", "b", "b"])
  _, a, b = describe.nodes(weights, labelled)
  assert (a.mass, b.mass) == pytest.approx((0.1, 0.9))
  assert (a.mixture, b.mixture) == pytest.approx((0.5, 0.5))
  assert a.weight == pytest.approx(5)
  (stage,) = schedules.make(
    [0],
    [weights],
    features_NE,
    mass_N,
    sources=labelled.sources,
    steps=4,
  )
  np.testing.assert_allclose(stage.mass_L, [0.1, 0.9], rtol=1e-6)
  np.testing.assert_allclose(stage.mixture_L, [0.5, 0.5], rtol=1e-6)


def test_without_leaves_there_is_one_part():
  found = _described()
  weights = DocumentWeights(np.zeros(5))
  assert describe.leaf_names(weights, found.nodes) == {"": "all"}
  made = found.to_json()
  assert made["nodes"] == [] and made["mixtures"] == {}
  assert made["favored"]["heaviest"][0]["id"] == "id4"


def test_texts_without_words_have_no_terms():
  weights = DocumentWeights(np.log(WEIGHT))
  ids = [f"id{i}" for i in range(5)]
  texts = ["a1", "b2", "12 34", "...", "é_"]
  found = describe.describe(
    weights, describe.Sample(FEATURES, MASS, texts, ids)
  )
  assert found.favored is not None
  assert found.favored.terms == ()


def test_letters_without_end_are_no_term():
  weights = DocumentWeights(np.log(WEIGHT))
  ids = [f"id{i}" for i in range(5)]
  texts = ["A" * 3000, "c" * 24, "sand", "b" * 25, "apples " + "d" * 600]
  found = describe.describe(
    weights, describe.Sample(FEATURES, MASS, texts, ids)
  )
  assert found.favored is not None
  assert found.favored.terms == ("apples", "c" * 24)


def test_a_tree_that_grows_names_its_leaves_where_they_end():
  # The root is cut by the first feature, and its second child by the second.
  root, children, last = room.one_leaf(3, 3, kappa=100.0)
  theta = (
    root._replace(
      prototype_MCP=jnp.array([[[-1.0, 0, 0], [1.0, 0, 0]]]),
      open_M=jnp.ones(1),
    ),
    children._replace(
      prototype_MCP=jnp.array([[[0, -1.0, 0], [0, 1.0, 0]]] * 2),
      open_M=jnp.array([0.0, 1.0]),
    ),
    last,
  )
  log_w_L = jnp.log(jnp.array([0.5] * 4 + [1.0] * 2 + [2.0] * 2))
  tree = TreePartition(TreeWeights(theta, log_w_L))
  same = partition_from_json(json.loads(json.dumps(tree.to_json())))
  signs = [[-1, 1, 0], [-1, -1, 0], [1, -1, 0], [1, 1, 0]]
  features_NE = np.array(signs, np.float32)
  applied = apply_partition(same, features_NE)
  assert applied.path_N == ["0", "0", "1.0", "1.1"]
  np.testing.assert_allclose(applied.weight_N, [0.5, 0.5, 1, 2], rtol=1e-5)
  texts = ["one", "two", "tin", "red"]
  nodes = describe.nodes(
    same, describe.Sample(features_NE, np.full(4, 0.25), texts, list("abcd"))
  )
  assert [one.path for one in nodes] == ["", "0", "1", "1.0", "1.1"]
  assert nodes[1].mass == pytest.approx(0.5)
  names = describe.leaf_names(same, nodes)
  # A place that no leaf has taken has a name, too, and no document.
  assert len(names) == 8 and [x for x in names if len(x) < 5] == [
    *("0", "1.0", "1.1")
  ]
  assert names["1.1"] == "leaf_1.1_red"
  mixtures = describe.children(nodes)
  assert mixtures[nodes[2].name] == pytest.approx(
    {"1.0: tin": 1 / 3, "1.1: red": 2 / 3}
  )
  # Of a sample, too, shares of the training sum to one.
  root, zero, *_ = describe.nodes(
    same,
    describe.Sample(features_NE[:3], np.full(3, 1 / 3), texts[:3], list("abc")),
  )
  assert root.mixture == pytest.approx(1.0)
  assert zero.mixture == pytest.approx(0.5)


def test_a_leaf_that_scores_tells_which_way_it_leans():
  # One leaf, whose score is the first feature.
  level = model.Level(
    *(jnp.eye(2), jnp.ones((1, 1, 2)), jnp.zeros(()), jnp.zeros((1, 1))),
    score_MCP=jnp.array([[[2.0, 0.0]]]),
  )
  weights = TreeWeights((level,), jnp.zeros(1), jnp.float32(1.5))
  number = 8
  angle_N = np.linspace(0.1, 1.4, number)
  features_NE = np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
  texts = ["apples and pears", "apples"] + ["and"] * 4 + ["sand and", "sand"]
  mass_N = np.full(number, 1 / number)
  root, leaf = describe.nodes(
    TreePartition(weights),
    describe.Sample(
      features_NE.astype(np.float32), mass_N, texts, list("abcdefgh")
    ),
  )
  assert root.times is None and root.towards is None
  assert leaf.towards == ("apples", "pears") and leaf.away == ("sand",)
  of_ends = [2 * np.cos(angle_N)[rows].mean() for rows in ([0, 1], [6, 7])]
  assert leaf.times == pytest.approx(np.exp(of_ends[0] - of_ends[1]), rel=1e-4)
  assert leaf.weight == pytest.approx(
    1.0
  )  # the only one has all of the training
  made = describe.Description((root, leaf)).to_json()["nodes"]
  assert "times" not in made[0] and describe.Node(**made[1]) == leaf
