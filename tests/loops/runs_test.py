"""Whole runs on the mixtures that a method asks for."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.loops import fleet, runs
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods.base import DomainWeights, Method
from cmtree_jax.methods.searching import Trials
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT
from cmtree_jax.signals import domains as signals
from tests import toy
from tests.toy import FLOPS, ROWS, STEPS, K, T

MIXTURES = np.array(
  [[0.9, 0.05, 0.05, 0], [0.0, 1.0, 0.0, 0], [0.2, 0.2, 0.6, 0]]
)


class State(NamedTuple):
  trials: Trials
  curve_RCT: np.ndarray
  loss_RK: np.ndarray
  nats_RM: np.ndarray


def asking(mixture_RK=MIXTURES, sizes=None) -> Method:
  """A method that keeps what the runs show."""
  count = len(mixture_RK)
  documents = len(toy.corpus().facts.document_tokens_M)

  def init(key, facts):
    del key
    trials = Trials.plan(mixture_RK, num_targets=facts.num_targets)
    if sizes:
      trials = trials._replace(size_R=np.array(sizes))
    blank = np.zeros
    return State(
      trials, blank((count, 2, 1)), blank((count, K)), blank((count, documents))
    )

  def step(state, signals):
    row = int(state.trials.count)
    arrays = [x.copy() for x in state[1:]]
    for array, value in zip(
      arrays,
      (signals.curve_CT, signals.loss_K, signals.document_nats_M),
      strict=True,
    ):
      array[row] = value
    return State(state.trials.add(signals), *arrays), None

  return Method(
    init,
    step,
    finalize=lambda state: (state, DomainWeights(jnp.zeros(K)))[1],
    signals=frozenset(
      {"target_loss_T", "curve_CT", "loss_K", "document_nats_M"}
    ),
    loop="runs",
    ask=lambda state: state.trials.pending(),
  )


def run(method, folder, *, population=1, stop=None, sizes=None):
  """(result, the method's last state)."""
  corpus, last = toy.corpus(), []
  finalize = method.finalize
  sizes = sizes or [lambda: fleet.Model(toy.engine(), FLOPS)]
  with toy.session(folder, stop) as session:
    result = runs.run(
      method._replace(finalize=lambda s: last.append(s) or finalize(s)),
      corpus.facts,
      corpus.world,
      runs.Plan(steps=STEPS, curve_points=2, population=population),
      session,
      sizes,
    )
  return result, last[-1]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  return run(asking(), tmp_path_factory.getbasetemp() / "whole_runs")


def test_the_mixture_of_the_target_is_the_best(whole, tmp_path_factory):
  result, state = whole
  loss_R = state.trials.loss_RT[:, 0]
  assert loss_R.argmin() == 0  # trained on the target's words
  assert loss_R.argmax() == 1  # trained on none of them
  assert [row["mixture"] for row in result.history] == MIXTURES.tolist()
  assert [row["bpb"] for row in result.history] == loss_R[:, None].tolist()
  told = toy.told(tmp_path_factory.getbasetemp() / "whole_runs")
  (name,) = toy.corpus().world.target_names
  assert [*told] == [1 + row for row in range(len(loss_R))]
  assert [values[f"bpb.{name}"] for values in told.values()] == loss_R.tolist()


def test_what_a_method_tells_stands_beside_its_last_run(tmp_path):
  method = asking(MIXTURES[:2])._replace(
    tell=lambda state: {"runs": int(state.trials.count)}
  )
  first, last = run(method, tmp_path)[0].history
  assert last["runs"] == 2 and "runs" not in first


def test_all_that_is_shown_agrees(whole):
  _, state = whole
  facts = toy.corpus().facts
  np.testing.assert_array_equal(state.curve_RCT[:, -1], state.trials.loss_RT)
  assert (state.curve_RCT[0, 0] > state.curve_RCT[0, 1]).all()  # it learns
  # The nats of the documents are those of the target.
  frozen = toy.corpus().view.eval_sets[0]
  bpb_R = state.nats_RM.sum(axis=1) / np.log(2) / frozen.num_bytes
  np.testing.assert_allclose(bpb_R, state.trials.loss_RT[:, 0], rtol=1e-5)
  assert facts.document_tokens_M.sum() == frozen.num_tokens
  assert (state.loss_RK[:, 3] == 0).all()
  # Each run has the least loss on what it was trained on.
  assert state.loss_RK[0, 0] == state.loss_RK[:, 0].min()
  assert state.loss_RK[1, 1] == state.loss_RK[:, 1].min()


def flops_of_a_run(flops_per_token):
  view = toy.corpus().view
  trained = STEPS * ROWS * GRADIENT
  # Two points of the curve, the documents, and two rows of every domain.
  scored = (3 * signals.eval_rows(view) + K * 2) * FORWARD
  return (trained + scored) * T * flops_per_token


def test_the_ledger_counts_training_and_scoring(whole):
  result, _ = whole
  assert result.cost.flops == pytest.approx(3 * flops_of_a_run(FLOPS))


@pytest.mark.slow
def test_runs_that_are_trained_together_are_the_same(whole, tmp_path):
  # Three in groups of two: the second group is not full.
  result, state = run(asking(), tmp_path, population=2)
  np.testing.assert_allclose(
    state.trials.loss_RT, whole[1].trials.loss_RT, rtol=1e-5
  )
  assert result.cost == pytest.approx(whole[0].cost)


def test_runs_have_the_size_that_was_asked_for(whole, tmp_path):
  """In groups of one size, in their order; each costs what its size does."""
  made = []

  def size(number):
    # The second is twice as wide.
    made.append(number)
    engine = [toy.engine(), toy.engine(width=2 * toy.CONFIG.width)][number]
    return fleet.Model(engine, [FLOPS, 3 * FLOPS][number])

  sizes = [lambda: size(0), lambda: size(1)]
  method = asking(MIXTURES[[0, 0, 1]], sizes=[1, 0, 0])
  result, state = run(method, tmp_path, population=2, sizes=sizes)
  assert made == [1, 0]  # when first asked for, and once
  loss_R, small_R = state.trials.loss_RT[:, 0], whole[1].trials.loss_RT[:, 0]
  np.testing.assert_allclose(loss_R[1:], small_R[:2], rtol=1e-5)
  assert loss_R[0] < 0.99 * loss_R[1]  # the wider one learns more of the target
  expected = 2 * flops_of_a_run(FLOPS) + flops_of_a_run(3 * FLOPS)
  assert result.cost.flops == pytest.approx(expected)


def test_a_search_that_was_stopped_ends_as_if_it_had_not_been(whole, tmp_path):
  stop = StopFlag()
  stops = 0
  while True:
    stop.raised = True  # after every group
    try:
      result, state = run(asking(), tmp_path, stop=stop)
      break
    except Interrupted:
      stops += 1
  assert stops == 3
  np.testing.assert_array_equal(state.trials.loss_RT, whole[1].trials.loss_RT)
  assert result.cost == whole[0].cost
