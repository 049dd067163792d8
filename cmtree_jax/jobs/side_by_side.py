"""Several trainings at once on a CPU, each as if it were alone.

A small model leaves cores idle: its step is many short operations, of which few are
worth dividing among threads. Trainings that do not need each other fill them. They
share every compiled program, and nothing of one is read by another, so that what
each finds does not depend on how many there are at once.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import jax

from cmtree_jax.data.build import workers
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.proxy.engine import SMALL

_MOST = 8  # trainings at once; bounds memory
_LOOK_UP = 0.2  # seconds until a signal is noticed


def at_once(parameters: int, *, devices: int) -> int:
  """How many trainings of one kind run side by side.

  One, where there is an accelerator, on which one program trains several models, or
  where several devices train one model: their collectives would wait for each other.

  Args:
    parameters: of the model.
    devices: that train it.
  """
  if jax.default_backend() != "cpu" or devices > 1 or parameters > SMALL:
    return 1
  return min(workers.num_cores(), _MOST)


def groups(
  items: Iterable[Any], key_of: Callable[[Any], Any], *, most: int
) -> list[list[Any]]:
  """Items that one program can do at once, in their order: at most so many each.

  >>> groups("aabcaba", str, most=2)
  [['a', 'a'], ['b', 'b'], ['c'], ['a', 'a']]
  """
  found: dict[Any, list[list[Any]]] = {}
  ordered: list[list[Any]] = []
  for item in items:
    alike = found.setdefault(key_of(item), [])
    if not alike or len(alike[-1]) == most:
      alike.append([])
      ordered.append(alike[-1])
    alike[-1].append(item)
  return ordered


def once(make: Callable[..., Any]) -> Callable[..., Any]:
  """`functools.cache` for several threads: nothing is made twice."""
  made, lock = functools.cache(make), threading.RLock()

  @functools.wraps(make)
  def locked(*args):
    with lock:
      return made(*args)

  return locked


def run(
  items: Iterable[Any],
  work: Callable[[Any], None],
  *,
  at_once: int,
  stop: StopFlag,
) -> None:
  """Calls `work(item)` for every item, up to `at_once` of them at a time.

  Items begin in their order. Where one fails, no other begins, and those in progress
  are asked to stop where their state can be saved.

  Args:
    items: independent of each other.
    work: saves what it makes; looks at `stop` now and then.
    at_once: items in progress; 1 does them in this thread.
    stop: raised by a signal, or by the first failure.
  Raises:
    Interrupted: `stop` was raised from outside; what was in progress is saved.
    Exception: the first failure, in the order of the items.
  """
  if at_once == 1:
    for item in items:
      stop.check()
      work(item)
    return

  def one(item):
    stop.check()
    try:
      work(item)
    except BaseException:
      stop.raised = True
      raise

  with futures.ThreadPoolExecutor(at_once) as pool:
    done = [pool.submit(one, item) for item in items]
    # A thread that only waits may sleep through a signal that another one was given:
    # Python runs the handler when this thread next does something.
    while futures.wait(done, timeout=_LOOK_UP).not_done:
      pass
  errors = [error for one in done if (error := one.exception())]
  # Those that stopped for another's failure say nothing of it.
  errors.sort(key=lambda error: isinstance(error, Interrupted))
  if errors:
    raise errors[0]
