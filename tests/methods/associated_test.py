"""Associated: links, path and weights as they are handed over."""

from typing import Any

import jax
import numpy as np
import pytest

from cmtree_jax.methods import associated
from cmtree_jax.methods.base import DocumentWeights
from tests.methods import world

GROUPS, SIZE = 6, 5  # groups of near documents


def facts(order=None, *, embedding_NE=None, max_weight=100.0, original_N=None):
  """Some documents of every group; the first group lies closest together."""
  rng = np.random.default_rng(0)
  group_N = np.repeat(np.arange(GROUPS), SIZE)
  if embedding_NE is None:
    noise_N1 = np.where(group_N == 0, 0.01, 0.2)[:, None]
    embedding_NE = np.eye(GROUPS)[group_N] + noise_N1 * rng.normal(
      size=(len(group_N), GROUPS)
    )
  known = world.facts(max_weight=max_weight)
  pool = known.pool
  assert pool is not None
  count = len(group_N)
  pool = pool._replace(
    key_N=pool.key_N[:count],
    tokens_N=rng.integers(5, 50, count),
    embedding_NE=embedding_NE.astype(np.float32),
    original_N=original_N,
  )
  if order is not None:
    pool = pool._replace(
      key_N=pool.key_N[order],
      tokens_N=pool.tokens_N[order],
      embedding_NE=pool.embedding_NE[order],
    )
  return known._replace(pool=pool)


def found(known, **options):
  """(weights, their path, what is told)."""
  settings: dict[str, Any] = {"neighbors": 3, **options}
  method = associated.make(**settings)
  state = method.init(jax.random.key(0), known)
  (told,) = method.history(state)
  weights = method.finalize(state)
  assert isinstance(weights, DocumentWeights) and weights.path is not None
  return weights, weights.path, told


def test_near_documents_follow_one_another():
  weights, path, told = found(facts())
  assert not path.shuffled
  group_N = np.argsort(path.place_N) // SIZE
  assert (np.diff(group_N) != 0).sum() == GROUPS - 1
  assert 1 < told["starts"] <= GROUPS and told["strength"] > 0.7
  np.testing.assert_allclose(weights.log_w_N, 0, atol=1e-12)


def test_the_control_has_the_same_path_and_says_so():
  _, path, _ = found(facts())
  _, control, _ = found(facts(), path="shuffled")
  assert control.shuffled
  np.testing.assert_array_equal(control.place_N, path.place_N)


def test_the_order_of_documents_does_not_matter():
  # Half of them are copies of others, which only their ids tell apart.
  known = facts()
  assert known.pool is not None
  twice_NE = np.asarray(known.pool.embedding_NE)[np.arange(GROUPS * SIZE) // 2]
  order = np.random.default_rng(3).permutation(GROUPS * SIZE)
  one, path, _ = found(facts(embedding_NE=twice_NE), gamma=2.0)
  two, other, _ = found(facts(order, embedding_NE=twice_NE), gamma=2.0)
  np.testing.assert_array_equal(path.place_N[order], other.place_N)
  np.testing.assert_allclose(one.log_w_N[order], two.log_w_N, atol=1e-6)


def test_what_is_strongly_linked_weighs_more():
  weights, *_ = found(facts(), gamma=3.0)
  w_N = np.exp(weights.log_w_N)
  known = facts()
  assert known.pool is not None
  mass_N = known.pool.tokens_N / known.pool.tokens_N.sum()
  assert mass_N @ w_N == pytest.approx(1, rel=1e-6)
  assert w_N[:SIZE].min() > w_N[SIZE:].max()
  # All cosines of the first group are one, so that its weights are c (1 + gamma).
  more, *_ = found(facts(), gamma=1.0)
  ratio_N = w_N / np.exp(more.log_w_N)
  strength_N = ((ratio_N / ratio_N[0] * 2) - 1) / (3 - ratio_N / ratio_N[0] * 2)
  np.testing.assert_allclose(w_N / w_N[0], (1 + 3 * strength_N) / 4, rtol=2e-3)
  capped, *_ = found(facts(max_weight=1.05), gamma=3.0)
  assert np.exp(capped.log_w_N).max() == pytest.approx(1.05, rel=1e-6)


def test_documents_of_one_original_are_linked():
  rng = np.random.default_rng(2)
  random_NE = rng.normal(size=(GROUPS * SIZE, GROUPS))
  original_N = np.arange(GROUPS * SIZE) % (GROUPS * SIZE // 2)
  *_, apart = found(facts(embedding_NE=random_NE), neighbors=1)
  *_, linked = found(
    facts(embedding_NE=random_NE, original_N=original_N), neighbors=1
  )
  assert linked["links"] > apart["links"]
  # Distinct originals are no links.
  *_, each = found(
    facts(embedding_NE=random_NE, original_N=np.arange(GROUPS * SIZE)),
    neighbors=1,
  )
  assert each == apart


@pytest.mark.parametrize(
  ("option", "value", "words"),
  [
    ("path", "random", "greedy, shuffled"),
    ("neighbors", 0, "neighbors"),
    ("gamma", -0.1, "gamma"),
    ("gamma", float("nan"), "gamma"),
  ],
)
def test_options_out_of_range_are_refused(option, value, words):
  settings: dict[str, Any] = {option: value}
  with pytest.raises(ValueError, match=words):
    associated.make(**settings)
