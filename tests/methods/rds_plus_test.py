"""RDS+: turns of examples, and which documents they take."""

import numpy as np
import pytest

from cmtree_jax.methods import rds_plus
from tests.methods import measured

RNG = np.random.default_rng(0)
N, M, H = 80, 7, 6
STATE_NH = RNG.normal(size=(N, H))
GOAL_MH = RNG.normal(size=(M, H))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def pool(state_NH=STATE_NH, **options):
  return measured.documents(late_hidden_ONH=state_NH[None], **options)


def target(goal_MH=GOAL_MH, seed=1):
  return measured.documents(seed=seed, late_hidden_ONH=goal_MH[None])


def by_hand(state_NH, one, count) -> list[int]:
  """The paper's loop, on the whole matrix of similarities."""
  order_M = np.argsort(one.key_N)
  sim_MN = unit(one.late_hidden_ONH[0][order_M]) @ unit(state_NH).T
  taken: list[int] = []
  while len(taken) < count:
    for sim_N in sim_MN:
      best = max(set(range(len(sim_N))) - set(taken), key=lambda i: sim_N[i])
      taken.append(best)
  return taken[:count]


def order_of(score_N) -> list[int]:
  """Documents that were taken, in their turn."""
  order = np.argsort(-score_N, kind="stable")
  return order[np.isfinite(score_N[order])].tolist()


@pytest.mark.parametrize("depth", [None, 1])
def test_examples_take_turns(depth, monkeypatch):
  """Also where the lists of the nearest are short and must be made again."""
  if depth:
    first = rds_plus._first
    monkeypatch.setattr(rds_plus, "_first", lambda s, k, _: first(s, k, depth))
  some, goal = pool(length=10), target()
  order = order_of(rds_plus.scores(some, goal, share=0.5))
  assert order == by_hand(some.late_hidden_ONH[0], goal, N // 2)


def test_no_example_is_served_twice_before_all_are_served_once():
  """All but one of the examples are near to the same few documents."""
  goal_MH = np.tile(STATE_NH[0], (M, 1)) + RNG.normal(0, 0.01, (M, H))
  goal_MH[3] = -STATE_NH[0]
  order = order_of(rds_plus.scores(pool(length=10), target(goal_MH), share=0.2))
  near_N = unit(STATE_NH) @ unit(STATE_NH[0])
  assert (near_N[order[:M]] < 0).sum() == 1
  assert (near_N[order[: 2 * M]] < 0).sum() == 2


def test_each_target_keeps_its_share():
  goals = [target(), target(RNG.normal(size=(3, H)), seed=2)]
  some = pool()
  facts = measured.known(some, *goals)
  method = rds_plus.make(share=0.2)
  own = []
  q_N = some.tokens_N / some.tokens_N.sum()
  for one in goals:
    order = order_of(rds_plus.scores(some, one, share=0.2))
    held = q_N[order].sum()
    assert 0.2 <= held < 0.2 + q_N.max()
    own += order
  assert measured.kept(method, facts) == sorted(set(own))
  told = method.history(measured.found(method, facts))
  assert [row["target"] for row in told] == [0, 1]


def test_documents_like_the_target_are_found():
  kind_N = np.arange(N) % 4
  state_NH = 2 * np.eye(H)[kind_N] + RNG.normal(0, 0.2, (N, H))
  goal_MH = np.eye(H)[np.full(M, 2)] + RNG.normal(0, 0.2, (M, H))
  facts = measured.known(pool(state_NH), target(goal_MH))
  kept = measured.kept(rds_plus.make(share=0.15), facts)
  assert set(kind_N[kept]) == {2}


def test_only_directions_count():
  scaled = STATE_NH * RNG.uniform(0.1, 9, (N, 1))
  one, two = (
    rds_plus.scores(pool(x), target(), share=0.4) for x in (STATE_NH, scaled)
  )
  np.testing.assert_array_equal(one, two)


def test_the_cap_ranks_as_many_as_it_needs():
  facts = measured.known(pool(), target(), max_weight=2.0)
  w_N = measured.w_of(rds_plus.make(share=0.05), facts)
  assert w_N.max() <= 2.0 * (1 + 1e-6)
  taken = order_of(rds_plus.scores(facts.pool, facts.train[0], share=0.5))
  assert sorted(taken) == np.flatnonzero(w_N > 1e-4).tolist()


def test_order_and_chunks_change_nothing(monkeypatch):
  double = np.concatenate([STATE_NH[:40], STATE_NH[:40]])  # equal similarities
  facts = measured.known(pool(double), target())
  method = rds_plus.make(share=0.3)
  measured.assert_order_is_nothing(method, facts)
  moved = measured.shuffled(facts.train[0], RNG.permutation(M))
  np.testing.assert_array_equal(
    measured.w_of(method, facts._replace(train=(moved,))),
    measured.w_of(method, facts),
  )
  whole_N = measured.w_of(method, facts)
  monkeypatch.setattr(rds_plus.scoring, "CHUNK", 16)
  np.testing.assert_array_equal(measured.w_of(method, facts), whole_N)


def test_all_alike_are_told_apart_by_the_ids():
  facts = measured.known(pool(np.ones((N, H)), length=10), target())
  method = rds_plus.make(share=0.25)
  kept = measured.kept(method, facts)
  assert kept == sorted(np.argsort(facts.pool.key_N)[: N // 4].tolist())
  measured.assert_order_is_nothing(method, facts)


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share):
  with pytest.raises(ValueError, match="must be"):
    rds_plus.make(share=share)
