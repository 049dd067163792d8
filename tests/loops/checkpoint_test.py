"""A state that is saved comes back as it was, or is refused."""

import contextlib
import os
import random
import shutil
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import processes
from cmtree_jax.loops.checkpoint import Checkpointer, stop_on_signal
from cmtree_jax.types import UserError

STATE = {
  "a": np.linspace(0, 1, 99, dtype=np.float32),
  "b": np.arange(9, dtype=jnp.bfloat16),
}
LIKE = {name: np.zeros_like(x) for name, x in STATE.items()}


def _saved(folder, steps):
  with contextlib.closing(Checkpointer(folder)) as one:
    for step in steps:
      one.save(step, {name: x + step for name, x in STATE.items()})


def _restored(folder):
  with contextlib.closing(Checkpointer(folder)) as one:
    return one.restore(LIKE)


def test_the_last_state_comes_back_with_as_many_sums_as_states(tmp_path):
  _saved(tmp_path, range(4))
  found = _restored(tmp_path)
  assert found is not None
  for name, x in STATE.items():
    np.testing.assert_array_equal(found[name], x + 3)
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    *("2", "2.sum", "3", "3.sum"),
  ]
  (tmp_path / "3.sum").unlink()  # as earlier versions left it
  assert _restored(tmp_path) is not None


def test_a_damaged_state_is_refused_or_the_same(tmp_path):
  _saved(tmp_path / "whole", [3])
  files = [x for x in (tmp_path / "whole").rglob("*") if x.is_file()]
  rng, refused = random.Random(0), 0
  for number in range(40):
    folder = shutil.copytree(tmp_path / "whole", tmp_path / f"{number}")
    file = folder / rng.choice(sorted(files)).relative_to(tmp_path / "whole")
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    try:
      found = _restored(folder)
    except UserError as error:
      refused += 1
      assert f"{folder}/3: wanted the state" in str(error)
      assert "\n" not in str(error)
    else:
      assert found is not None
      for name, x in STATE.items():
        np.testing.assert_array_equal(found[name], x + 3)
  assert refused > 9


def test_a_disk_without_space_is_told_before_anything_is_written(
  tmp_path, monkeypatch
):
  usage = shutil.disk_usage(tmp_path)._replace(free=1 << 20)
  monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
  with pytest.raises(OSError, match="No space left"):
    _saved(tmp_path, [0])
  assert list(tmp_path.iterdir()) == []


def test_a_signal_that_comes_while_the_others_are_asked_is_not_lost(
  monkeypatch,
):
  any_of = processes.any_of

  def interrupted(told):
    os.kill(os.getpid(), signal.SIGTERM)
    return any_of(told)

  with stop_on_signal() as stop:
    assert not stop.raised
    with monkeypatch.context() as patch:
      patch.setattr(processes, "any_of", interrupted)
      assert not stop.raised  # what all saw, before it came
    assert stop.raised
