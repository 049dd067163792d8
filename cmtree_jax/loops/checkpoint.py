"""Checkpoints: atomic, bit-exact, and saved when the job is asked to stop."""

import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp


class Interrupted(Exception):
  """The job was asked to stop (SIGTERM or Ctrl-C) and has saved its state."""


# Orbax numbers the saves of a process, not those of a manager: two at a time take each
# other's temporary folders for ready.
_SAVING = threading.Lock()


class Checkpointer:
  """Saves one pytree of arrays per step under a folder and finds the last one.

  A save goes to a temporary folder that is renamed when it is complete, so a kill
  at any moment leaves the last complete one.
  """

  def __init__(self, folder: Path, parent: "Checkpointer | None" = None):
    self._folder = folder.absolute()
    self.parent = parent or self

  def child(self, name: str) -> "Checkpointer":
    """One for a part of the work, whose states may be of another shape."""
    return Checkpointer(self._folder / name, self)

  def array(self, name: str, shape: tuple[int, ...] | None = None) -> np.memmap:
    """An array on disk, float32, for what is too large to be saved whole every time.

    Args:
      name: of the array; no step may be called so.
      shape: of an array that is not there yet; it begins as NaN.
    """
    path = self._folder / f"{name}.npy"
    if path.exists() or shape is None:
      return np.lib.format.open_memmap(path, mode="r+")
    path.parent.mkdir(parents=True, exist_ok=True)
    unready = path.with_suffix(".tmp")
    made = np.lib.format.open_memmap(unready, "w+", np.float32, shape)
    made[:] = np.nan
    made.flush()
    unready.rename(path)
    return made

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    # Made when first used: a loop that saves nothing leaves no folder behind.
    return ocp.CheckpointManager(
      self._folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=2, cleanup_tmp_directories=True
      ),
    )

  def save(self, step: int, state: Any) -> None:
    """Saves and waits until it is on disk."""
    state = jax.tree.map(np.asarray, state)
    with _SAVING:
      self._manager.save(step, args=ocp.args.StandardSave(state))
      self._manager.wait_until_finished()

  def restore(self, like: Any) -> Any | None:
    """The last state saved, with the structure of `like`; None if there is none."""
    if not self._folder.exists():
      return None
    step = self._manager.latest_step()
    if step is None:
      return None
    like = jax.tree.map(np.asarray, like)
    return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def close(self) -> None:
    """Ends the background threads, if any."""
    if "_manager" in vars(self):
      self._manager.close()


class StopFlag:
  """Set by a signal; the loops look at it where their state can be saved."""

  def __init__(self) -> None:
    self.raised = False

  def check(self) -> None:
    """Raises Interrupted if a signal has come; call it right after a save."""
    if self.raised:
      raise Interrupted


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
  """Turns the first SIGTERM or SIGINT into a flag; a second one kills as usual."""
  flag = StopFlag()
  previous = {}

  def handle(number, frame):
    del frame
    flag.raised = True
    signal.signal(number, previous[number])

  for number in (signal.SIGTERM, signal.SIGINT):
    previous[number] = signal.signal(number, handle)
  try:
    yield flag
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)
