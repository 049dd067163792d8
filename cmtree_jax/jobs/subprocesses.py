"""Commands in processes of their own, some at a time, and ended cleanly."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

INTERRUPTED = 143  # as of a job that was asked to stop
_SECONDS = 0.2  # between two looks at what is running


class Task(NamedTuple):
  """One command."""

  name: str
  command: tuple[str, ...]
  log: Path  # gets all that it says


class _Running(NamedTuple):
  """A command at work."""

  task: Task
  process: subprocess.Popen[bytes]
  begin: float


def run(tasks: Sequence[Task], *, parallel: int, done: int = 0) -> int:
  """Runs all commands; those that fail stop no other.

  SIGTERM or Ctrl-C asks those at work to end, once, and waits for them; a second
  one kills them.

  Args:
    tasks: in the order in which they begin.
    parallel: how many are at work at the same time.
    done: how many were done before, for what is told.
  Returns:
    0; the largest status of a command that failed; 143 if it was stopped.
  """
  told = _Progress(len(tasks), done, parallel)
  left, running, worst = list(tasks), [], 0
  with _stop() as signals:
    asked = 0
    while running or (left and not signals):
      while left and len(running) < parallel and not signals:
        running.append(_start(left.pop(0)))
      if len(signals) > asked:
        asked = len(signals)
        for one in running:
          one.process.terminate() if asked == 1 else one.process.kill()
      for one in running:
        if one.process.poll() is not None:
          worst = max(worst, told.ended(one))
      running = [one for one in running if one.process.returncode is None]
      time.sleep(_SECONDS if running else 0)
    if signals:
      print("Interrupted. Run the same command to go on.", file=sys.stderr)
      return INTERRUPTED
  return worst


def _start(task: Task) -> _Running:
  task.log.parent.mkdir(parents=True, exist_ok=True)
  with task.log.open("ab") as log:
    process = subprocess.Popen(
      task.command,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      start_new_session=True,  # Ctrl-C of a terminal comes through us alone
    )
  return _Running(task, process, time.monotonic())


@contextlib.contextmanager
def _stop() -> Iterator[list[int]]:
  """The signals that have come, a growing list."""
  came: list[int] = []
  previous = {
    number: signal.signal(number, lambda number, frame: came.append(number))
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield came
  finally:
    for number, handler in previous.items():
      signal.signal(number, handler)


class _Progress:
  """What a person is told, a line for every command that ends."""

  def __init__(self, left: int, done: int, parallel: int):
    self._left, self._done, self._parallel = left, done, parallel
    self._seconds: list[float] = []
    if done:
      self._say(f"{done} of {left + done} runs were done before.")

  def ended(self, one: _Running) -> int:
    """Tells how a command ended; returns its status, as a shell would."""
    code = one.process.returncode
    status = code if code >= 0 else 128 - code
    seconds = time.monotonic() - one.begin
    self._left, self._done = self._left - 1, self._done + 1
    self._seconds.append(seconds)
    line = f"{self._done} of {self._done + self._left}: {one.task.name}"
    if status:
      line += f" ended with status {status}, see {one.task.log}"
      line += _last_line(one.task.log)
    else:
      mean = sum(self._seconds) / len(self._seconds)
      rounds = -(-self._left // self._parallel)
      line += f", {seconds:.0f} s; about {mean * rounds:.0f} s left."
    self._say(line)
    return status

  def _say(self, line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _last_line(log: Path) -> str:
  lines = log.read_text(errors="replace").strip().splitlines()
  return f": {lines[-1]}" if lines else "."
