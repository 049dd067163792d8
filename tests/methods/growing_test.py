"""A tree that grows in a search: one event after a round's step, undone with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import cmtree
from cmtree_jax.tree import growth, model, room
from tests.methods.world import (
  POOL,
  PROXIES,
  SIGNALS,
  assert_equal,
  facts,
  features,
  make,
  take,
)

SIZE = 400  # documents of a round
START = dict(kind="kmeans", kappa=64.0)


def new_round(number):
  """Documents of equal mass, worth more on one side of their fifth feature.

  They are worth more by chance alone where the tree's first level cuts them.
  """
  rng = np.random.default_rng(number)
  embedding_BE = features(SIZE, 100 + number)
  value_B = np.sign(embedding_BE[:, 4]) + 0.3 * rng.normal(size=SIZE)
  rows = np.arange(SIZE) % POOL
  return take(make("cmtree"), rows)._replace(
    mass_B=jnp.full(SIZE, 1 / SIZE),
    embedding_BE=jnp.asarray(embedding_BE),
    value_BT=jnp.asarray(np.stack([value_B, value_B], 1), jnp.float32),
    proxy_B=jnp.arange(SIZE) % PROXIES,
    log_proposal_B=jnp.zeros(SIZE),
  )


@functools.cache
def rounds():
  """(method, states before and after each of two rounds, infos, traces)."""
  method = make(
    "cmtree",
    branching=(2,),
    grow=True,
    max_leaves=4,
    start=START,
    step=dict(trust=0.05, solver_steps=10),
    replay=dict(size=2 * SIZE),
  )
  states, infos = [method.init(jax.random.key(0), facts(4.0))], []
  traces = []

  def traced(state, signals):
    traces.append(signals)
    return method.step(state, signals)

  step = jax.jit(traced)
  for number in range(2):
    state, info = step(states[-1], new_round(number))
    states.append(state)
    infos.append(info)
  return method, states, infos, traces


@pytest.mark.slow
def test_a_round_splits_a_leaf_and_is_measured_in_the_next():
  method, states, infos, traces = rounds()
  event = infos[0].event
  assert int(event["kind"]) == growth.SPLIT and int(event["leaves"]) == 3
  assert int(room.num_open(states[0].learner.theta)) == 2
  assert float(event["promised"]) > 0
  first, *_ = method.history(states[2])
  assert (first["event"], first["step"], first["rounds"]) == ("split", 1, 1)
  assert first["measured"] > 0.5 * first["promised"]
  assert len(traces) == 1


def test_weights_have_mean_one_after_an_event():
  method, states, *_ = rounds()
  for state in states:
    weights = method.finalize(state)
    assert isinstance(weights, cmtree.TreeWeights)
    log_w_N = np.asarray(weights.log_w(take(method, np.arange(POOL))))
    mean = SIGNALS.mass_B[:POOL] @ np.exp(log_w_N) / SIGNALS.mass_B[:POOL].sum()
    assert mean == pytest.approx(1.0, rel=0.02)  # by a sample of the pool


def test_an_event_is_taken_back_with_its_step():
  method, states, *_ = rounds()
  undone = method.undo(states[1])
  assert_equal(undone.learner.theta, states[0].learner.theta)
  assert_equal(method.finalize(undone), method.finalize(states[0]))
  (only,) = method.history(undone)
  assert only["undone"] and not method.history(states[1])[0]["undone"]


@pytest.mark.slow
def test_a_full_record_ends_the_growth():
  method, (state, *_), *_ = rounds()
  size = len(state.log.step_A)
  full = state._replace(log=state.log._replace(count=jnp.int32(size)))
  after, info = jax.jit(method.step)(full, new_round(0))
  assert int(info.event["kind"]) == 0 and int(info.event["leaves"]) == 2
  assert len(method.history(after)) == size


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(branching=(4, 4)), "max_leaves = 16 .* 16 leaves"),
    (dict(branching=(2,), max_leaves=10**9), "at most 4,096"),
    (dict(branching=(2,), scores=True), "leave scores"),
    (dict(branching=(2,), oblivious=True), "leave oblivious"),
    (dict(branching=(2,), projection="shared"), "leave projection"),
    (dict(branching=(2,), mode="frozen"), "leave mode"),
  ],
)
def test_what_cannot_grow_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    cmtree.make(**options, grow=True)


def test_closed_nodes_do_not_move():
  _, states, *_ = rounds()
  before, after = (state.learner.theta[-1] for state in states[:2])
  assert model.num_leaves(states[0].learner.theta) == 8
  assert not np.any(after.open_M)
  np.testing.assert_array_equal(after.angle_PE, before.angle_PE)
  np.testing.assert_array_equal(after.prototype_MCP, before.prototype_MCP)
