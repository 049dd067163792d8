"""Forgetting: events as the authors count them, and what is kept for them."""

import pathlib

import numpy as np
import pytest

from cmtree_jax.methods import forgetting, scoring
from tests.methods import measured

CASE = np.load(pathlib.Path(__file__).parent / "cases/svp_uncertainty.npz")
RNG = np.random.default_rng(0)
CHECKPOINTS, N = 6, 40
POOL = measured.documents(correct_ON=RNG.uniform(0, 1, (CHECKPOINTS, N)))
FACTS = measured.known(POOL)


def by_the_authors(correct_ON):
  """data_diet's bookkeeping: a counter that a first success starts."""
  count_N, last_N = np.full(correct_ON.shape[1], np.inf), 0
  for now_N in correct_ON.astype(int):
    count_N[(now_N > last_N) & np.isinf(count_N)] = 0
    count_N[now_N < last_N] += 1
    last_N = now_N
  return count_N


def test_events_are_counted_as_in_the_authors_code():
  learned_ON = RNG.random((9, 200)) < 0.3
  event_N = forgetting.events(learned_ON)
  assert np.isinf(event_N).any() and event_N[np.isfinite(event_N)].max() >= 3
  np.testing.assert_array_equal(event_N, by_the_authors(learned_ON))


def test_the_authors_ranking_is_ours():
  """selection-via-proxy at 348f90a; it breaks the tie of its first two at random."""
  pool = measured.documents(
    length=10, correct_ON=np.zeros((1, len(CASE["nevents"])))
  )
  first_N = scoring.first(CASE["nevents"], pool, share=0.5)
  assert set(np.flatnonzero(first_N)) == set(CASE["forgetting_top5"])


def test_what_is_learned_is_told_by_the_end_of_training():
  """Most are learned late, and so by no level of an earlier checkpoint."""
  rising = np.linspace(0.2, 1, CHECKPOINTS)[:, None] * POOL.correct_ON
  event_N = forgetting.scores(POOL._replace(correct_ON=rising), learned=0.5)
  level = forgetting.reached_by(rising[-1], POOL.tokens_N, 0.5)
  np.testing.assert_array_equal(event_N, by_the_authors(rising >= level))
  assert np.isinf(event_N).sum() > N / 8


def test_the_level_is_reached_by_the_share():
  x_N = POOL.correct_ON[-1]
  q_N = POOL.tokens_N / POOL.tokens_N.sum()
  for share in (0.01, 0.3, 0.7, 1.0):
    level = forgetting.reached_by(x_N, POOL.tokens_N, share)
    assert q_N[x_N >= level].sum() >= share - 1e-9
    assert q_N[x_N > level].sum() < share


def test_what_is_never_learned_comes_first_and_what_stays_comes_last():
  correct_ON = np.full((4, 6), 0.9)
  correct_ON[:, 0] = 0.0  # never
  correct_ON[1, 1] = correct_ON[2, 2] = 0.1  # forgotten once
  correct_ON[0, 3] = 0.1  # learned late, and kept
  facts = measured.known(measured.documents(length=10, correct_ON=correct_ON))
  method = forgetting.make(share=0.5, checkpoints=4, learned=0.5)
  assert measured.kept(method, facts) == [0, 1, 2]
  (told,) = method.history(measured.found(method, facts))
  assert told == {"tokens": 30, "never": 1}


def test_budget_order_and_equal_counts():
  method = forgetting.make(share=0.4)
  measured.assert_budget(method, FACTS, 0.4)
  measured.assert_order_is_nothing(method, FACTS)
  equal = POOL._replace(correct_ON=np.ones((CHECKPOINTS, N), np.float32))
  measured.assert_budget(method, measured.known(equal), 0.4)
  measured.assert_order_is_nothing(method, measured.known(equal))


@pytest.mark.parametrize(
  "options", [{"share": 0.0}, {"learned": 0.0}, {"checkpoints": 1}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    forgetting.make(**options)


def test_no_right_token_is_nothing_learned():
  """Though so many have none that the share would call them learned."""
  correct_ON = np.array([[0.5, 0.0, 0.0, 0.0], [0.4, 0.2, 0.0, 0.0]])
  pool = measured.documents(correct_ON=correct_ON)
  score_N = forgetting.scores(pool, learned=1.0)
  np.testing.assert_array_equal(score_N, [0, 0, np.inf, np.inf])
