"""BETR: ranks by hand, the paper's choices, what is planted, bad input."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import betr
from cmtree_jax.methods.base import Documents
from cmtree_jax.types import UserError
from tests.methods import measured, world

# Three kinds of words; features know the kind too. Of "code" the target has examples
# of two sorts, one of them rare in the pool.
WORDS = {
  "film": "the film was slow but its actors were good".split(),
  "news": "shares fell on monday after the report".split(),
  "code": "def f ( x ) : return x + 1".split(),
  "logs": "error warn thread id at line stack".split(),
}
KIND_N = np.repeat(list(WORDS), (70, 60, 40, 10))
N, E = len(KIND_N), 8


def documents(kinds, seed) -> Documents:
  rng = np.random.default_rng(seed)
  texts = [
    " ".join(rng.choice(WORDS[kind], rng.integers(8, 20))) for kind in kinds
  ]
  made = world.documents_of(texts, seed)
  place = [list(WORDS).index(kind) for kind in kinds]
  embedding_NE = np.eye(E)[place] + 0.15 * rng.normal(size=(len(kinds), E))
  return made._replace(embedding_NE=embedding_NE.astype(np.float32))


POOL = documents(KIND_N, 0)
FILM = documents(["film"] * 6, 1)
CODE = documents(["code"] * 12 + ["logs"], 2)  # one example of a rare sort


def found(pool=POOL, targets=(CODE,), *, max_weight=100.0, **options):
  known = world.facts(max_weight)._replace(
    pool=pool, train=targets, validation=()
  )
  return betr.make(**options).init(jax.random.key(0), known)


def kept(state) -> np.ndarray:
  return state.log_w_N > -1


def kinds(state) -> set[str]:
  return set(KIND_N[kept(state)])


def test_without_a_classifier_the_best_ranks_are_kept():
  """By hand: every example sorts the pool."""
  state = found(features="ranks", share=0.1)
  cosine_MN = (
    CODE.embedding_NE
    @ (
      POOL.embedding_NE
      / np.linalg.norm(POOL.embedding_NE, axis=1, keepdims=True)
    ).T
  )
  rank_N = np.argsort(np.argsort(-cosine_MN, axis=1), axis=1).min(axis=0)
  assert rank_N[kept(state)].max() <= rank_N[~kept(state)].min()
  tokens = POOL.tokens_N[kept(state)].sum()
  wanted = 0.1 * POOL.tokens_N.sum()
  assert wanted <= tokens < wanted + POOL.tokens_N.max()


def test_a_single_example_has_its_documents_among_the_best():
  """What a mean of ranks, or a center of the examples, would not find."""
  assert kinds(found(features="ranks", share=0.1)) == {"code", "logs"}
  center_E = CODE.embedding_NE.mean(axis=0)
  nearest = np.argsort(-(POOL.embedding_NE @ center_E))[: N // 10]
  assert set(KIND_N[nearest]) == {"code"}


@pytest.mark.parametrize("features", betr.classifier.FEATURES)
def test_a_classifier_extends_the_ranks_to_the_pool(features):
  """From half of the pool, whose other half no example has ranked."""
  alike = documents(["code"] * 12, 2)
  options = {"share": 0.1, "positive": 0.2, "documents": N // 2}
  state = found(targets=(alike,), features=features, **options)
  kept_N = kept(state)
  assert kinds(state) == {"code"}
  sample = np.argsort(POOL.key_N)[: N // 2]
  unseen_N = np.ones(N, bool)
  unseen_N[sample] = False
  assert (kept_N & unseen_N).sum() > 5
  assert state.history[0]["strength"] in betr.classifier.STRENGTHS


def test_each_target_keeps_its_share():
  state = found(targets=(CODE, FILM), share=0.08)
  assert {"code", "film"} <= kinds(state)
  for row in state.history:
    share = row["tokens"] / POOL.tokens_N.sum()
    assert 0.08 <= share < 0.08 + POOL.tokens_N.max() / POOL.tokens_N.sum()


def test_only_what_is_read_is_made():
  assert betr.make().features == {"grams"}
  for features in ("embedding", "ranks"):
    assert betr.make(features=features).features == frozenset()
    found(POOL._replace(grams=None), features=features)


def test_a_sample_as_large_as_the_pool_is_the_pool():
  one, two = (
    found(features="embedding", documents=size) for size in (N, 10**6)
  )
  np.testing.assert_array_equal(one.log_w_N, two.log_w_N)


@pytest.mark.parametrize("features", ["embedding", "ranks"])
def test_the_order_of_documents_changes_nothing(features):
  order = np.random.default_rng(1).permutation(N)
  moved = measured.shuffled(POOL._replace(grams=None), order)
  one, two = (
    found(pool, features=features, documents=100) for pool in (POOL, moved)
  )
  np.testing.assert_array_equal(one.log_w_N[order], two.log_w_N)


def test_equal_documents_are_ranked_by_their_ids():
  same = POOL._replace(
    embedding_NE=np.ones((N, E), np.float32), tokens_N=np.full(N, 9)
  )
  kept_N = kept(found(same, features="ranks", share=0.1))
  first = np.argsort(POOL.key_N)[: N // 10]
  np.testing.assert_array_equal(np.flatnonzero(kept_N), np.sort(first))


def test_the_penalty_is_chosen_by_what_is_held_out(monkeypatch):
  """A useless strength is never the one that is told."""
  monkeypatch.setattr(betr.classifier, "STRENGTHS", (1e-9, 100.0))
  assert found(positive=0.25).history[0]["strength"] == 100.0
  rank_S = np.random.default_rng(0).permutation(N)  # there is nothing to find
  _, strength = betr.extend(
    POOL, np.argsort(POOL.key_N), rank_S, positive=0.3, features="embedding"
  )
  assert strength == 1e-9


def test_a_target_without_documents_is_refused():
  none = CODE._replace(
    key_N=np.zeros(0, np.uint64), embedding_NE=np.zeros((0, E), np.float32)
  )
  with pytest.raises(ValueError, match="Target 1 has no documents"):
    found(targets=(CODE, none))


@pytest.mark.parametrize(
  ("positive", "cure"),
  [(0.001, "raise config.betr"), (1.0, "lower config.betr")],
)
def test_a_sample_of_one_kind_is_refused(positive, cure):
  with pytest.raises(UserError, match=cure):
    found(positive=positive)


@pytest.mark.parametrize(
  "options",
  [
    {"share": 0.0},
    {"positive": 0.0},
    {"positive": 1.1},
    {"features": "words"},
    {"documents": 39},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Known"):
    betr.make(**options)
