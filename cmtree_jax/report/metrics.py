"""What loops measure while they run: metrics.jsonl, and TensorBoard beside it.

Every loop tells by its session, so there is one writer, one file and one name for a
number. A line is one step of one run of a loop:
`{"loop": "final", "run": "cmtree.news.0.x1", "step": 25, "loss": 5.1}`.
"""

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from cmtree_jax.types import UserError

FILE = "metrics.jsonl"
FOLDER = "tensorboard"  # where tensorboardX is installed


class Metrics:
  """Writes a job's numbers, each step of a run once.

  A job that is continued does steps again that it had done since its last checkpoint;
  they come out as before, and what stands in the file already is not written again.
  """

  def __init__(self, folder: Path | None) -> None:
    """One of a job; nothing is made before there is something to tell.

    Args:
      folder: gets the files; None: nothing is written, as in all processes of a job
        but the first.
    """
    self._folder = folder
    self._lock = threading.Lock()  # trainings side by side tell together
    self._file: TextIO | None = None
    self._board: Any = None
    self._last: dict[tuple[str, str], int] = {}

  def __enter__(self) -> "Metrics":
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    del kind, error, trace
    for one in (self._file, self._board):
      if one is not None:
        one.close()

  def write(
    self, loop: str, run: str, step: int, values: Mapping[str, float]
  ) -> None:
    """Writes a step, unless it or a later one of this run is written.

    Args:
      loop: which of the loops it is of.
      run: of that loop.
      step: a number that grows.
      values: by their names; one that is not finite becomes null.
    """
    if self._folder is None:
      return
    with self._lock:
      file = self._file = self._file or self._open(self._folder)
      if step <= self._last.get((loop, run), -1):
        return
      self._last[loop, run] = step
      told = {
        name: float(value) if math.isfinite(value) else None
        for name, value in values.items()
      }
      line = {**told, "loop": loop, "run": run, "step": step}
      file.write(json.dumps(line) + "\n")
      file.flush()
      if self._board is not None:
        for name, value in told.items():
          if value is not None:
            self._board.add_scalar(f"{loop}/{run}/{name}", value, step)
        self._board.flush()

  def _open(self, folder: Path) -> TextIO:
    """The file, to go on behind its last whole line."""
    path, whole = folder / FILE, 0
    if path.exists():
      for line in path.read_bytes().splitlines(keepends=True):
        if not line.endswith(b"\n"):  # the job was killed while it wrote
          break
        whole += len(line)
        try:
          one = json.loads(line)
          self._last[one["loop"], one["run"]] = int(one["step"])
        except (ValueError, KeyError, TypeError) as error:
          raise UserError(
            f"{path}: wanted lines of JSON with loop, run and step, came damage at "
            f"byte {whole - len(line)}. Remove the file: a job goes on without it."
          ) from error
    file = path.open("a")
    file.truncate(whole)
    try:
      from tensorboardX import SummaryWriter
    except ImportError:
      return file
    board = folder / FOLDER
    # Files are named by the second, and one of the same name would be lost.
    number = len(list(board.iterdir())) if board.exists() else 0
    self._board = SummaryWriter(str(board), filename_suffix=f".{number}")
    return file
