"""PreSelect: which documents order models as the target does, and who learns it."""

from typing import Any

import numpy as np
import pytest

from cmtree_jax.methods import classifier, preselect
from cmtree_jax.types import UserError
from tests.methods import measured, world

#                  agrees  turned  half   equal
LOSS_ON = np.array(
  [
    [5.0, 1.0, 3.0, 2.0],  # the third of the models at the target
    [4.0, 2.0, 1.0, 2.0],  # second
    [3.0, 3.0, 2.0, 2.0],  # first
  ]
)
GOAL_O = np.array([0.9, 0.8, 0.7])
WORDS = {
  "proof": "lemma proof hence follows bound theorem".split(),
  "shop": "buy cart price offer sale click".split(),
}
KIND_N = np.repeat(["proof", "shop"], 40)


def test_pairs_are_counted_as_by_hand():
  np.testing.assert_allclose(
    preselect.agreement(LOSS_ON, GOAL_O), [1, 0, 2 / 3, 0]
  )


def test_only_the_order_counts():
  rng = np.random.default_rng(0)
  loss_ON, goal_O = rng.uniform(1, 5, (6, 50)), rng.uniform(1, 5, 6)
  one = preselect.agreement(loss_ON, goal_O)
  np.testing.assert_array_equal(
    one, preselect.agreement(np.exp(loss_ON) + 7, goal_O**3)
  )
  models = rng.permutation(6)
  np.testing.assert_allclose(
    one, preselect.agreement(loss_ON[models], goal_O[models])
  )
  # The other way round all pairs turn.
  np.testing.assert_allclose(one, 1 - preselect.agreement(-loss_ON, goal_O))
  # Six models have 15 pairs.
  assert set(np.round(one * 15, 9)) <= set(range(16))


def test_equal_goals_are_no_pair():
  found_N = preselect.agreement(LOSS_ON, np.array([0.9, 0.9, 0.7]))
  np.testing.assert_allclose(found_N, [1, 0, 0.5, 0])
  with pytest.raises(UserError, match="All 3 models have the same loss"):
    preselect.agreement(LOSS_ON, np.ones(3))


def test_long_texts_of_the_target_count_for_more():
  goals = measured.documents(loss_ON=np.array([[1.0, 9.0], [2.0, 1.0]]))
  some = measured.documents(loss_ON=np.array([[1.0, 2.0], [2.0, 1.0]]))
  for lengths, better in (([90, 10], 0), ([10, 90], 1)):
    goal = goals._replace(tokens_N=np.array(lengths))
    assert np.argmax(preselect.strength(some, goal)) == better


def texts(seed=0) -> Any:
  """Documents of two kinds; the models are in order on proofs alone."""
  rng = np.random.default_rng(seed)
  made = world.documents_of(
    [" ".join(rng.choice(WORDS[kind], 12)) for kind in KIND_N], seed
  )
  rising = np.arange(6)[:, None] * np.where(KIND_N == "proof", 1, -1)
  loss_ON = 9 + rising + rng.normal(0, 0.8, (6, len(KIND_N)))
  return made._replace(loss_ON=loss_ON.astype(np.float32))


POOL = texts()
GOAL = measured.documents(loss_ON=np.arange(6)[:, None] + np.zeros((1, 4)))
FACTS = measured.known(POOL, GOAL)


@pytest.mark.parametrize("extended", [False, True])
def test_documents_that_order_the_models_are_kept(extended):
  method = preselect.make(share=0.3, extended=extended)
  assert set(KIND_N[measured.kept(method, FACTS)]) == {"proof"}
  measured.assert_budget(method, FACTS, 0.3)
  measured.assert_order_is_nothing(
    preselect.make(share=0.3, extended=False), FACTS
  )
  (told,) = method.history(measured.found(method, FACTS))
  assert 0.3 < told["strength"] < 0.7
  assert ("held_out_loss" in told) == extended


def test_a_classifier_knows_documents_by_their_words():
  """A proof whose losses are turned by chance is kept for its words."""
  one = int(np.flatnonzero(KIND_N == "proof")[0])
  loss_ON = POOL.loss_ON.copy()
  loss_ON[:, one] = loss_ON[::-1, one]
  facts = FACTS._replace(pool=POOL._replace(loss_ON=loss_ON))
  assert one in measured.kept(preselect.make(share=0.49), facts)
  bare = preselect.make(share=0.49, extended=False)
  assert one not in measured.kept(bare, facts)


def test_words_that_tell_nothing_show_in_the_held_out_loss():
  turned = POOL._replace(
    loss_ON=POOL.loss_ON[:, np.random.default_rng(5).permutation(len(KIND_N))]
  )
  losses = [
    preselect.fit(pool, preselect.strength(pool, GOAL), documents=1000).loss
    for pool in (POOL, turned)
  ]
  assert losses[0] < 0.5 < np.log(2) - 0.1 < losses[1]


def test_a_document_is_scored_by_the_fit_that_has_not_seen_it():
  strength_N = preselect.strength(POOL, GOAL)
  made = preselect.fit(POOL, strength_N, documents=1000)
  low_N = POOL.key_N <= made.middle
  # With other strengths in one half, only the other half's fit is another.
  turned_N = np.where(low_N, 1 - strength_N, strength_N)
  again = preselect.fit(POOL, turned_N, documents=1000)
  rows = classifier.word_rows(POOL, np.arange(len(KIND_N)))
  f_N = made.models[0].decision_function(rows)
  np.testing.assert_array_equal(
    made.score(POOL, classifier.word_rows)[low_N], f_N[low_N]
  )
  signs = [
    np.sign(m.decision_function(rows)[KIND_N == "proof"].mean())
    for m in again.models
  ]
  assert signs == [1, -1]


def test_extremes_are_as_many_and_apart():
  strength_N = np.array([1.0, 0.2, 1.0, 0.0, 0.5, 1.0, 0.1, 0.3])
  key_N = np.arange(8, dtype=np.uint64)
  every_N = np.ones(8, bool)
  high, low = preselect.extremes(strength_N, key_N, every_N, 100)
  assert high.tolist() == [0, 2, 5] and low.tolist() == [1, 3, 6]
  high, low = preselect.extremes(strength_N, key_N, every_N, 2)
  assert high.tolist() == [0, 2] and low.tolist() == [3, 6]
  # Where most are the highest, the others bound both.
  high, low = preselect.extremes(1 - (strength_N == 0.5), key_N, every_N, 100)
  assert high.tolist() == [0] and low.tolist() == [4]


def test_equal_strengths_can_be_ranked_but_not_learned():
  equal = POOL._replace(loss_ON=np.arange(6.0)[:, None] + np.zeros((1, 80)))
  facts = FACTS._replace(pool=equal)
  bare = preselect.make(share=0.3, extended=False)
  measured.assert_budget(bare, facts, 0.3)
  with pytest.raises(UserError, match="order the models alike"):
    measured.found(preselect.make(), facts)


@pytest.mark.parametrize(
  "options",
  [
    {"share": 0.0},
    {"documents": 1},
    {"checkpoints": 0},
    {"models": ("proxy",), "checkpoints": 1},
    {"models": ("gpt", "proxy")},
    {"models": ("proxy", "proxy")},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown|names one twice"):
    preselect.make(**options)
