"""Keeps two jobs from one address: a file there with a holder that gives signs of life.

A storage has no locks that end with their process. So the holder writes its file anew
again and again; who finds one that does not change takes it over. A host that was taken
away holds an address for a minute, then the same command goes on elsewhere. A holder
that was only asleep is told at its next push that it has lost the address.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from cmtree_jax.data.remote import Remote
from cmtree_jax.types import UserError

FILE = ".lock"
BEAT_SECONDS = 15.0  # between two signs of life
DEAD_SECONDS = 60.0  # without one


class Lease:
  """The right to write below an address, from `take` to `release`."""

  def __init__(
    self, remote: Remote, token: str, is_dead: Callable[[str], bool]
  ):
    """One that is not taken yet.

    Args:
      remote: what it is about.
      token: of this holder, of no other.
      is_dead: whether the holder of a token was a process of this machine and has
        ended; False where nobody can tell.
    """
    self._remote, self._is_dead = remote, is_dead
    self._held = {
      "token": token,
      "host": socket.gethostname(),
      "process": os.getpid(),
      "since": datetime.now(UTC).isoformat(timespec="seconds"),
      "beat": 0,
    }
    self._ended = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def take(self) -> None:
    """Becomes the holder, once an earlier one has ended.

    Raises:
      UserError: another one is alive.
    """
    # Asked for first, for not every storage refuses to create what is there.
    if _read(self._remote) or not self._remote.create(FILE, self._content()):
      self._wait()
      self._remote.write(FILE, self._content())
    self._thread.start()

  def check(self) -> None:
    """Raises UserError where another holder has come, or the file is gone."""
    found = _read(self._remote)
    if found.get("token") != self._held["token"]:
      self._ended.set()
      raise UserError(
        f"{self._remote.address}: wanted the lock of this job there, came "
        f"{_told(found)}. It was taken over or removed; nothing more is written "
        "there. Run the same command to go on."
      )

  def release(self) -> None:
    """Ends the signs of life and removes the file, if it is still this one's."""
    self._ended.set()
    self._thread.join()
    if _read(self._remote).get("token") == self._held["token"]:
      self._remote.remove(FILE)

  def _content(self) -> bytes:
    return json.dumps(self._held).encode()

  def _beat(self) -> None:
    while not self._ended.wait(BEAT_SECONDS):
      self._held["beat"] += 1
      try:
        self.check()  # or it would take back what it has lost
        self._remote.write(FILE, self._content())
      except UserError:  # the next push tells; the network may be back by then
        continue

  def _wait(self) -> None:
    """Returns when the holder that is there has ended."""
    first = _read(self._remote)
    if not first or self._is_dead(first.get("token", "")):
      return
    print(
      f"{self._remote.address} is locked by {_told(first)}. Waiting up to "
      f"{DEAD_SECONDS:.0f} s for a sign of life.",
      file=sys.stderr,
    )
    end = time.monotonic() + DEAD_SECONDS
    while time.monotonic() < end:
      time.sleep(min(1.0, DEAD_SECONDS / 8))
      found = _read(self._remote)
      if not found:
        return
      if found != first:
        raise UserError(
          f"Another job is running in {self._remote.address}: {_told(found)}. Wait "
          "for its end, stop it, or choose another address. Its lock "
          f"{self._remote.address}/{FILE} counts for dead {DEAD_SECONDS:.0f} s after "
          "its last sign of life, and may be removed by hand."
        )


def _read(remote: Remote) -> dict:
  """What the file says; nothing where it is not there or damaged."""
  try:
    found = json.loads(remote.read(FILE) or b"{}")
  except ValueError:
    return {}
  return found if isinstance(found, dict) else {}


def _told(found: dict) -> str:
  """A holder, as a person is told."""
  if not found:
    return "none"
  return (
    f"process {found.get('process')} on {found.get('host')} since "
    f"{found.get('since')}"
  )
