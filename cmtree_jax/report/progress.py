"""Progress of a long job with an estimate of the time left."""

import sys
import threading
import time
from types import TracebackType

from rich.progress import (
  BarColumn,
  Progress,
  TaskProgressColumn,
  TextColumn,
  TimeElapsedColumn,
  TimeRemainingColumn,
)

from cmtree_jax.report import screen
from cmtree_jax.report.screen import printable

_PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class Reporter:
  """A live bar on a terminal, a line now and then elsewhere; both on stderr."""

  def __init__(self, *, quiet: bool = False) -> None:
    """One of a job.

    Args:
      quiet: says nothing, for another process does.
    """
    self._total, self._done, self._text = 0.0, 0.0, ""
    self._begin = self._printed = time.monotonic()
    self._lock = threading.Lock()  # trainings side by side advance it together
    self._console = screen.console(stderr=True, quiet=quiet)
    self._bar = Progress(
      TextColumn("{task.description}", markup=False),
      BarColumn(),
      TaskProgressColumn(),
      TimeElapsedColumn(),
      TextColumn("left"),
      TimeRemainingColumn(),
      console=self._console,
      disable=quiet or not sys.stderr.isatty(),
    )
    self._task = self._bar.add_task("starting", total=None)

  def __enter__(self) -> "Reporter":
    self._bar.start()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    del kind, error, trace
    self._bar.stop()

  def expect(self, total: float) -> None:
    """Sets how much work there is."""
    self._total = total
    self._bar.update(self._task, total=total)

  def say(self, line: str) -> None:
    """A line that stays."""
    self._console.print(printable(line), soft_wrap=True)

  def advance(self, work: float, text: str) -> None:
    """Counts work done; `text` says what is being done, "" leaves it."""
    with self._lock:
      self._advance(work, text)

  def _advance(self, work: float, text: str) -> None:
    if not self._done:  # reading the corpus tells nothing of training's speed
      self._begin = self._printed = time.monotonic()
    self._done += work
    self._text = printable(text) or self._text
    self._bar.update(self._task, completed=self._done, description=self._text)
    now = time.monotonic()
    if self._bar.disable and now - self._printed > _PLAIN_SECONDS:
      self._printed = now
      self.say(self._plain(now))

  def _plain(self, now: float) -> str:
    share = min(self._done / self._total, 1.0) if self._total else 0.0
    elapsed = now - self._begin
    left = elapsed * (1 - share) / share if share else float("nan")
    return (
      f"{share:4.0%}  {elapsed:5.0f} s, about {left:.0f} s left: {self._text}"
    )
