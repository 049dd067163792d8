"""One function over many items: on this machine's cores, or on Apache Beam.

An item names the file that its function writes last. A finished item is not done
again, so stopping anywhere loses at most the items in flight, and both ways leave
the same bytes: they share every function, and no item sees another.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import process
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from cmtree_jax.data import store
from cmtree_jax.types import Fault, UserError

START_SECONDS = 5.0  # that two processes take to import what they need


def num_cores() -> int:
  """How many cores this process may run on: schedulers and `taskset` say which."""
  if sys.platform == "linux":
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class Item(Protocol):
  """What a function is told; picklable."""

  @property
  def done(self) -> Path:
    """The file that the function writes last, whole or not at all."""
    ...


Function = Callable[[Any], None]


class Plan(NamedTuple):
  """The config's block `workers`, with its defaults."""

  name: str = "local"  # a name in WORKERS: all cores of this process, or Beam
  flags: tuple[
    str, ...
  ] = ()  # for Beam's pipeline, such as --runner=FlinkRunner


class Workers(NamedTuple):
  """Where items are worked on, and who is told of it."""

  plan: Plan = Plan()
  check: Callable[[], None] = lambda: None  # raises when the job is to stop
  advance: Callable[[float, str], None] = lambda work, text: None

  def run(
    self,
    function: Function,
    items: Sequence[Any],
    *,
    text: str = "",
    is_whole: Callable[[Any], bool] | None = None,
    name_of: Callable[[Any], str] = lambda item: item.done.name,
  ) -> None:
    """Calls `function(item)` for every item whose file is not there yet.

    Args:
      function: stands at the top level of a module and writes `item.done`.
      items: independent of each other; see `Item`.
      text: what is being done, for the progress bar.
      is_whole: whether a finished item still is what was written; if not, or if
        this raises, it is done again. By default it is taken for whole.
      name_of: what a person is told of items on which a process ended.
    Raises:
      UserError: the first one, in the order of the items, that a function raised.
      Fault: a worker process was killed, or was ended by what it worked on.
    """
    if self.plan.name not in WORKERS:
      raise UserError(
        f"Unknown config.workers.name {self.plan.name!r}. Known: "
        f"{', '.join(sorted(WORKERS))}."
      )
    if is_whole:
      _drop_damaged(items, is_whole)
    pending = [item for item in items if not item.done.exists()]
    for item in items:
      if item.done.exists():  # its process ended right after it
        _begun_file(item).unlink(missing_ok=True)
    _mistakes(pending)  # removes those of an earlier run
    if pending:
      self.advance(0.0, text)
      try:
        WORKERS[self.plan.name](_Guarded(function), pending, self)
      except process.BrokenProcessPool as error:
        self.check()  # a signal to the whole group stops the workers at once
        raise Fault(_ended(pending, name_of)) from error
      except OSError as error:  # not even its message could be written
        folder = pending[0].done.parent
        raise UserError(store.unwritable(folder, error)) from error
    for message in _mistakes(pending):
      raise UserError(message)


def _drop_damaged(
  items: Sequence[Any], is_whole: Callable[[Any], bool]
) -> None:
  for item in items:
    if not item.done.exists():
      continue
    try:
      whole = is_whole(item)
    except Exception:  # what readers of damaged files raise has no end
      whole = False
    if not whole:
      item.done.unlink()


class _Guarded(NamedTuple):
  """Leaves a caller's mistake in a file, since pools and Beam wrap exceptions."""

  function: Function

  def __call__(self, item: Item) -> None:
    # What a process that ends can tell no more: what it worked on.
    _begun_file(item).touch()
    try:
      self.function(item)
    except UserError as error:
      store.write_atomically(_error_file(item), str(error))
    except OSError as error:
      message = store.unwritable(item.done.parent, error)
      store.write_atomically(_error_file(item), message)
    finally:
      _begun_file(item).unlink(missing_ok=True)


def _mistakes(items: Sequence[Item]) -> list[str]:
  """What was left in files, which are removed."""
  found = []
  for file in map(_error_file, items):
    if file.exists():
      found.append(file.read_text())
      file.unlink()
  return found


def _error_file(item: Item) -> Path:
  return item.done.with_name(f"{item.done.name}.error")


def _begun_file(item: Item) -> Path:
  return item.done.with_name(f"{item.done.name}.begun")


def _ended(items: Sequence[Item], name_of: Callable[[Any], str]) -> str:
  """What to tell of a process that ended: its items, and those of its neighbors."""
  begun = [item for item in items if _begun_file(item).exists()]
  names = " or ".join(map(name_of, begun[:_TOLD]))
  more = " or others" * (len(begun) > _TOLD)
  return (
    f"A worker process was killed while it was at work on {names}{more}, "
    "probably for lack of memory; run the same command again to go on, with "
    "config.data.shard_documents lower. If it ends there again, that file may be "
    "damaged so that its reader breaks: leave it out, or make it again."
  )


_TOLD = 5  # items


def _on_cores(function: Function, items: Sequence[Any], workers: Workers):
  """Here, as long as that takes less time than starting processes.

  What an earlier job ended on is done in processes: should one end again, this one is
  there to tell of it.
  """
  if any(_begun_file(item).exists() for item in items):
    return _on_all_cores(function, items, workers)
  for number, item in enumerate(items, 1):
    begin = time.monotonic()
    function(item)
    workers.check()
    left = (time.monotonic() - begin) * (len(items) - number)
    if left > START_SECONDS:
      return _on_all_cores(function, items[number:], workers)


def _on_all_cores(function, items, workers) -> None:
  with futures.ProcessPoolExecutor(
    min(num_cores(), len(items)),
    mp_context=multiprocessing.get_context("spawn"),  # jax has threads
    initializer=_start_worker,
  ) as pool:
    submitted = [pool.submit(function, item) for item in items]
    try:
      for one in futures.as_completed(submitted):
        one.result()
        workers.check()
    finally:
      pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
  """Signals are the parent's business, and so are accelerators."""
  # Not so SIGTERM, by which the pool ends the others when one was killed.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  os.environ["JAX_PLATFORMS"] = "cpu"
  threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
  """Or a worker would wait for items forever once its parent has been killed."""
  parent = multiprocessing.parent_process()
  assert parent
  parent.join()
  os._exit(1)


def _on_beam(function: Function, items: Sequence[Any], workers: Workers):
  try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
  except ImportError as error:
    raise UserError(
      "config.workers.name=beam needs Apache Beam: pip install "
      "'cmtree_jax[beam]', or take config.workers.name=local."
    ) from error
  with beam.Pipeline(
    options=PipelineOptions(list(workers.plan.flags))
  ) as pipeline:
    made = pipeline | beam.Create(items).with_output_types(Any)
    _ = made | beam.Reshuffle() | beam.Map(function)
  workers.check()


WORKERS: dict[str, Callable[[Function, Sequence[Any], Workers], None]] = {
  "beam": _on_beam,
  "local": _on_cores,
}
