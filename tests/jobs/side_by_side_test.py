"""Trainings side by side: at the same time, alike, and stopped together."""

import contextlib
import os
import signal
import threading
import time

import jax
import numpy as np
import pytest

from cmtree_jax.jobs import side_by_side
from cmtree_jax.loops import final, fleet
from cmtree_jax.loops.checkpoint import (
  Checkpointer,
  Interrupted,
  StopFlag,
  stop_on_signal,
)
from cmtree_jax.types import Fault
from tests import toy

_SECONDS = 60.0  # after which what waits for another has waited in vain


def run(items, work, *, at_once=2, stop=None):
  side_by_side.run(items, work, at_once=at_once, stop=stop or StopFlag())


def test_items_are_at_work_at_the_same_time_and_begin_in_order():
  together, begun = threading.Barrier(2), []

  def work(item):
    begun.append(item)
    together.wait(_SECONDS)

  run(range(6), work)
  assert sorted(begun) == list(range(6))
  assert max(abs(item - place) for place, item in enumerate(begun)) < 2


def test_one_at_a_time_is_done_in_this_thread():
  threads = []
  run(range(3), lambda _: threads.append(threading.get_ident()), at_once=1)
  assert set(threads) == {threading.get_ident()}


def test_a_failure_stops_the_others_and_is_what_is_told():
  stop, together, begun = StopFlag(), threading.Barrier(2), []

  def work(item):
    begun.append(item)
    together.wait(_SECONDS)
    if item == 1:
      raise Fault("a loss")
    while not stop.raised:
      time.sleep(0.001)
    stop.check()

  with pytest.raises(Fault, match="a loss"):
    run(range(6), work, stop=stop)
  assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_signal_stops_all_of_them_after_saving(at_once):
  saved = []
  with stop_on_signal() as stop:

    def work(item):
      if item == 1:
        os.kill(os.getpid(), signal.SIGTERM)
      until = time.monotonic() + _SECONDS
      while item and not stop.raised and time.monotonic() < until:
        time.sleep(0.001)
      saved.append(item)
      stop.check()

    with pytest.raises(Interrupted):
      run(range(6), work, at_once=at_once, stop=stop)
  assert sorted(saved) in ([0, 1], [0, 1, 2])


def test_nothing_is_made_twice():
  made = []

  @side_by_side.once
  def make(key):
    made.append(key)
    time.sleep(0.05)
    return key

  run("aabbab", make, at_once=6)
  assert sorted(made) == ["a", "b"]


def test_only_small_models_on_one_cpu_share_its_cores():
  assert side_by_side.at_once(side_by_side.SMALL + 1, devices=1) == 1
  assert side_by_side.at_once(1, devices=2) == 1
  assert side_by_side.at_once(1, devices=1) >= 1


def test_what_is_trained_does_not_depend_on_how_many_are_at_once(tmp_path):
  world, held = toy.corpus().world, toy.corpus().view.eval_sets
  plan = final.Plan(steps=toy.STEPS, steps_per_call=2, calls_per_save=2)

  def trained(at_once):
    found = {}

    def work(seed):
      folder = tmp_path / f"{at_once}.{seed}"
      with contextlib.closing(Checkpointer(folder)) as checkpointer:
        session = fleet.Session(
          seed, checkpointer, StopFlag(), lambda work, text: None
        )
        log_w_N = np.where(world.domain_N == seed % 3, 1.0, 0.0)
        model = final.Model("x", seed, world.pool, log_w_N)
        (found[seed],) = final.run([model], held, world, plan, session)

    run(range(6), work, at_once=at_once)
    return found

  alone, together = trained(1), trained(3)
  assert alone == together or jax.tree.all(
    jax.tree.map(np.array_equal, alone, together)
  )
  assert len({scores[0].bpb for scores in alone.values()}) == 6
