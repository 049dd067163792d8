"""Checkpoints: atomic, bit-exact, and saved when the job is asked to stop."""

import functools
import hashlib
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cmtree_jax import processes, sharding
from cmtree_jax.data import mirror, store
from cmtree_jax.types import Interrupted, UserError

# Orbax numbers the saves of a process, not those of a manager: two at a time take each
# other's temporary folders for ready.
_SAVING = threading.Lock()
_BESIDE = 1 << 20  # bytes of a checkpoint beside its arrays, or fewer


class Checkpointer:
  """Saves one pytree of arrays per step under a folder and finds the last one.

  A save goes to a temporary folder that is renamed when it is complete, so a kill
  at any moment leaves the last complete one. Where there are several processes all
  save together, each its part of what is on the mesh, in a folder that they share.
  Where each has a twin of an address, the first saves all of it and the others follow.
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
    if shape is not None:
      processes.by_first(lambda: _make_array(path, shape))
    elif self._is_apart:
      processes.by_first(lambda: None)  # brings what the first wrote into it
    # What others write into it is for themselves: it equals what the first writes.
    mode = "r+" if processes.is_first() else "c"
    return np.lib.format.open_memmap(path, mode=mode)

  @property
  def _is_apart(self) -> bool:
    """Whether each of several processes has a folder of its own."""
    return jax.process_count() > 1 and mirror.of(self._folder) is not None

  @functools.cached_property
  def _manager(self) -> ocp.CheckpointManager:
    # Made when first used: a loop that saves nothing leaves no folder behind.
    options = ocp.CheckpointManagerOptions(
      max_to_keep=2, cleanup_tmp_directories=True
    )
    if self._is_apart:
      own = jax.process_index()
      options.multiprocessing_options = ocp.options.MultiprocessingOptions(
        primary_host=own,
        active_processes={own},
        barrier_sync_key_prefix=str(own),
      )
      options.create = False  # Orbax makes no folder where not all are at work
    return ocp.CheckpointManager(self._folder, options=options)

  def save(self, step: int, state: Any) -> None:
    """Saves and waits until it is on disk.

    Raises:
      OSError: there is no space for it. Orbax's threads, which would find that out
        while they write, tell it in a hundred lines.
    """
    if self._is_apart:
      whole = sharding.gather(state)
      processes.by_first(lambda: self._write(step, whole))
    else:
      self._write(step, jax.tree.map(_kept, state))

  def _write(self, step: int, state: Any) -> None:
    with _SAVING:
      self._folder.mkdir(parents=True, exist_ok=True)
      size = sum(x.nbytes for x in jax.tree.leaves(state))
      store.require_space(self._folder, size + _BESIDE)
      self._manager.save(step, args=ocp.args.StandardSave(state))
      self._manager.wait_until_finished()
      if processes.is_first():
        store.settle(self._folder / str(step))
        store.write_atomically(self._sum_file(step), _sum(state))
        for file in self._folder.glob(f"*{_SUM}"):
          if not file.with_suffix("").exists():  # one that orbax keeps no more
            file.unlink()
        mirror.push(self._folder)

  def restore(self, like: Any) -> Any | None:
    """The last state saved, with the structure of `like`; None if there is none.

    Raises:
      UserError: it is not what was saved.
    """
    # As one, or a process would find what another has begun to make.
    if not processes.any_of(processes.is_first() and self._folder.exists()):
      return None
    if self._is_apart:
      self._manager.reload()  # the first may have saved since it last looked
    step = self._manager.latest_step()
    if step is None:
      return None
    like = jax.tree.map(_kept, like)
    wanted = jax.tree.map(_blank, like) if self._is_apart else like
    try:
      found = self._manager.restore(step, args=ocp.args.StandardRestore(wanted))
    except Exception as error:  # what damaged files raise has no end
      raise self._damaged(step, repr(error)) from error
    # Bits of an array that changed on the disk raise nothing.
    file = self._sum_file(step)
    if file.exists() and file.read_bytes() != _sum(found).encode():
      raise self._damaged(step, "other numbers")
    return sharding.put_like(found, like) if self._is_apart else found

  def _sum_file(self, step: int) -> Path:
    return self._folder / f"{step}{_SUM}"

  def _damaged(self, step: int, came: str) -> UserError:
    came = " ".join(came.split())[:200]
    return UserError(
      f"{self._folder / str(step)}: wanted the state that was saved there, came "
      f"{came}. Delete {self._folder}, and what it is of is done again."
    )

  def close(self) -> None:
    """Ends the background threads, if any."""
    if "_manager" in vars(self):
      self._manager.close()


_SUM = ".sum"  # ends the name of a file with the digest of a step's arrays


def _sum(state: Any) -> str:
  """A hash of the arrays of the host; no process has all of the others."""
  found = hashlib.blake2b(digest_size=16)
  for x in jax.tree.leaves(state):
    if not sharding.spans_processes(x):
      found.update(np.ascontiguousarray(x).tobytes())
  return found.hexdigest()


def _make_array(path: Path, shape: tuple[int, ...]) -> None:
  """Makes the file of an array that is not there yet."""
  if path.exists():
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  with store.replacing(path) as unready:
    made = store.create_array(unready, np.float32, shape)
    made[:] = np.nan
    made.flush()


def _kept(x: Any) -> Any:
  """As it is saved: Orbax takes arrays of the host, or such that all processes share."""
  return x if sharding.spans_processes(x) else np.asarray(x)


def _blank(x: Any) -> np.ndarray:
  """A host array of the same form."""
  return np.empty(x.shape, x.dtype)


class StopFlag:
  """Set by a signal; the loops look at it where their state can be saved.

  A signal to one process is a signal to all: they look at the flag together.
  """

  def __init__(self) -> None:
    self._raised = False

  @property
  def raised(self) -> bool:
    """Whether the job is to stop, as all processes see it."""
    told = processes.any_of(self._raised)
    # A signal that came in between is kept: the others hear of it next time.
    if told:
      self._raised = True
    return told

  @raised.setter
  def raised(self, raised: bool) -> None:
    self._raised = raised

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
