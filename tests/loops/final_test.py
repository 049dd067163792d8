"""The final training: what is saved of it, and how its model is scored."""

import contextlib

import jax
import numpy as np
import pytest

from cmtree_jax.evaluate import perplexity
from cmtree_jax.loops import final, fleet
from cmtree_jax.loops.checkpoint import Checkpointer, Interrupted, StopFlag
from cmtree_jax.types import Fault
from tests import toy

WORLD = toy.corpus().world
PLAN = final.Plan(steps=toy.STEPS, steps_per_call=2, calls_per_save=2)
WEIGHT_N = np.ones(len(WORLD.domain_N))


def eval_set(max_tokens):
  goal = toy.corpus().goal
  key_N = np.arange(len(goal.tokens.start_N1) - 1, dtype=np.uint64)
  return perplexity.eval_set(
    goal.tokens, key_N, max_tokens=max_tokens, rows=2, row_tokens=toy.T
  )


SETS = [eval_set(60), eval_set(30)]


def model(seed=0):
  return final.Model("x", seed, WORLD.pool._replace(seed=seed), WEIGHT_N)


def trained(folder, stop_after=None, *, seeds=(0,), places=1):
  stop, calls = StopFlag(), []

  def advance(work, text):
    del work, text
    calls.append(1)
    stop.raised = stop.raised or len(calls) == stop_after

  with contextlib.closing(Checkpointer(folder)) as checkpointer:
    session = fleet.Session(0, checkpointer, stop, advance)
    models = [model(seed) for seed in seeds]
    return final.run(models, SETS, WORLD, PLAN, session, places=places)


def bpb(scores):
  return [[one.bpb for one in of_model] for of_model in scores]


def test_sets_are_scored_together_as_each_alone():
  assert len({len(one.batches.tokens_BT) for one in SETS}) == 2
  engine = WORLD.model.engine
  params = fleet.start(WORLD, jax.random.key(0)[None]).phi.params
  (scores,) = final.scores(engine, params, SETS)
  for found, one in zip(scores, SETS, strict=True):
    nats_P = engine.weighted_nats(params, (one.batches, one.weight_CBT))
    expected = perplexity.bits_per_byte(float(nats_P[0]), one.num_bytes)
    assert found.bpb == pytest.approx(expected, rel=1e-6)


def test_a_training_that_ends_at_once_leaves_no_checkpoint(tmp_path):
  plan = PLAN._replace(calls_per_save=3)
  with contextlib.closing(Checkpointer(tmp_path / "x")) as checkpointer:
    session = fleet.Session(0, checkpointer, StopFlag(), lambda *_: None)
    final.run([model()], SETS, WORLD, plan, session)
  assert not (tmp_path / "x").exists()


def test_a_training_that_is_stopped_goes_on_bit_for_bit(tmp_path):
  alone = trained(tmp_path / "alone")
  with pytest.raises(Interrupted):
    trained(tmp_path / "stopped", stop_after=1)
  assert any((tmp_path / "stopped").iterdir())
  assert bpb(trained(tmp_path / "stopped")) == bpb(alone)


def test_a_model_that_broke_in_its_last_step_is_no_result(
  tmp_path, monkeypatch
):
  """Not when its training goes on, either: nothing is saved past the fault."""
  train, calls = fleet.train, []

  def breaks(*args, **kwargs):
    trained_fleet, loss_PS = train(*args, **kwargs)
    calls.append(None)
    if len(calls) == last:
      phi = trained_fleet.phi._replace(
        params=jax.tree.map(lambda x: x * np.nan, trained_fleet.phi.params)
      )
      trained_fleet = trained_fleet._replace(phi=phi)
      loss_PS = loss_PS * (np.nan if told else 1.0)
    return trained_fleet, loss_PS

  monkeypatch.setattr(fleet, "train", breaks)
  last = toy.STEPS // PLAN.steps_per_call
  for told, match in (
    (True, "The loss of x, seed 0, at step 6 is"),
    (False, "A score of x, seed 0, is not finite"),
  ):
    calls.clear()
    with pytest.raises(Fault, match=match):
      trained(tmp_path / f"{told}")
    # It goes on from the save before, and breaks again in the last call.
    calls[:] = [None] * (last - 1)
    with pytest.raises(Fault, match=match):
      trained(tmp_path / f"{told}")
    assert len(calls) == last


def test_models_at_once_are_trained_as_each_alone(tmp_path):
  alone = [bpb(trained(tmp_path / f"{seed}", seeds=[seed])) for seed in (0, 1)]
  with pytest.raises(Interrupted):
    trained(tmp_path / "both", stop_after=1, seeds=(0, 1), places=3)
  together = trained(tmp_path / "both", seeds=(0, 1), places=3)
  np.testing.assert_allclose(bpb(together), np.concatenate(alone), rtol=1e-5)
  assert bpb(together)[0] != bpb(together)[1]
