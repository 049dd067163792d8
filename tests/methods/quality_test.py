"""Quality: what is kept by labels, and what cannot be learned from."""

import jax
import numpy as np
import pytest

from cmtree_jax.methods import quality
from cmtree_jax.types import UserError
from tests.methods import world

FACTS = world.facts(max_weight=100.0)
POOL = world.some_documents(world.POOL, 10)
# What the labels of `world` say, but for noise.
TRUE_N = POOL.embedding_NE[:, 0]


def found(facts=FACTS, **options):
  method = quality.make(labels="given", **options)
  state = method.init(jax.random.key(0), facts._replace(pool=POOL))
  w_N = np.exp(np.asarray(state.log_w_N, np.float64))
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  assert q_N @ w_N == pytest.approx(1, rel=1e-5)
  return state, w_N, method


def test_documents_above_the_threshold_are_kept():
  state, w_N, _ = found(threshold=0.5)
  np.testing.assert_allclose(state.score_N, TRUE_N, atol=0.3)
  np.testing.assert_array_equal(w_N > 1, state.score_N >= 0.5)
  assert w_N[w_N < 1].max() < 1e-5
  _, more_N, _ = found(threshold=0.0)
  assert set(np.flatnonzero(w_N > 1)) < set(np.flatnonzero(more_N > 1))


def test_or_the_best_share_of_the_tokens():
  state, w_N, _ = found(share=0.2)
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  assert 0.2 <= q_N[w_N > 1].sum() < 0.2 + q_N.max()
  assert state.score_N[w_N > 1].min() >= state.score_N[w_N < 1].max()


def test_it_tells_how_far_the_head_can_be_trusted_and_why_documents_are_out():
  state, _, method = found()
  (row,) = method.history(state)
  assert row["labels"] == 30 and row["spearman"] == 1.0  # of three held out
  assert row["penalty"] > 0 and "target" not in row
  why = method.reasons(state)
  assert why is not None
  assert why.text(3, {}).startswith("by the labels it scores ")
  said = float(why.text(3, {}).split()[-1])
  assert said == pytest.approx(state.score_N[3], abs=0.01)
  assert not method.targeted and method.labels == "given"


def test_no_target_and_no_counts_are_needed():
  bare = FACTS._replace(train=(), validation=())
  _, w_N, method = found(bare)
  np.testing.assert_array_equal(w_N, found()[1])
  assert method.features == frozenset() and method.loop == "none"


def test_what_is_kept_is_capped():
  _, w_N, _ = found(FACTS._replace(max_weight=1.5), threshold=1.0)
  assert w_N.max() == pytest.approx(1.5, rel=1e-5)
  assert w_N.min() > 0.1


def labelled(score_M):
  count = len(score_M)
  return FACTS._replace(
    labelled=world.Labelled(
      np.arange(count, dtype=np.uint64), world.features(count, 1), score_M
    )
  )


@pytest.mark.parametrize(
  ("facts", "told"),
  [
    (FACTS._replace(labelled=None), "no labelled texts"),
    (labelled(np.ones(20)), "All 20 scores of config.quality.labels are 1"),
    (labelled(np.arange(4.0)), "at least 10 scored documents, came 4"),
  ],
)
def test_labels_that_say_nothing_are_refused(facts, told):
  with pytest.raises(UserError, match=told):
    found(facts)


def test_a_threshold_that_nothing_reaches_is_refused():
  with pytest.raises(UserError, match=r"No document reaches .* = 50: .* above"):
    found(threshold=50.0)


@pytest.mark.parametrize(
  "options", [{"share": 0.0}, {"share": 2}, {"threshold": float("nan")}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    quality.make(**options)
