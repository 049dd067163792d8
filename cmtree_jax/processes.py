"""Several processes on one job: the first one writes, and all agree.

Each process runs the whole job and comes to the same results; what they do to files
and what they are told from outside is what may differ. So the first process alone
writes, the others wait for what came of it, and what one was told all are told. None
of this goes by devices, which give up on a process that is late.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from cmtree_jax.types import Fault, Interrupted, UserError

T = TypeVar("T")

# What may be told of an error to other processes, and what they raise of it.
_TOLD: Mapping[str, type[Exception]] = {
  one.__name__: one for one in (UserError, Fault, Interrupted)
}
_NEWS = "+"  # begins what is told of a work that went well
_PATIENCE_MS = 5000  # of one question; Python looks after signals in between


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return jax.process_index() == 0


def by_first(work: Callable[[], T]) -> T | None:
  """Lets the first process do what only one may; the others wait, and get None.

  All processes must call it, in the same order, and the work begins when all have:
  so it may take away what they have read before. Inside of `work` the first process
  is on its own: it must not use what spans processes.

  Args:
    work: writes files, or takes a lock.
  Raises:
    Exception: on every process, what `work` raised on the first.
  """
  if not _together():
    return work()
  _exchanged("")
  name = _next_name()
  if not is_first():
    came = _wait(name)
    if not came.startswith(_NEWS):
      _raise(came)
    _State.hear(came.removeprefix(_NEWS))
    return None
  try:
    with _alone():
      found = work()
      news = _State.tell()
  except Exception as error:
    _client().key_value_set(name, _told(error))
    raise
  _client().key_value_set(name, _NEWS + news)
  return found


def follow(tell: Callable[[], str], hear: Callable[[str], None]) -> None:
  """Lets the folders of other processes follow that of the first, where all have own.

  Args:
    tell: says what the first has written, after each work that it did for all.
    hear: gets that on each of the others, before they go on.
  """
  _State.tell, _State.hear = tell, hear


def in_turn(work: Callable[[], T]) -> T:
  """What `work` returns on each process: on the first one first, then on the others.

  So processes that share a folder find there what the first one made, and those that
  have one of their own make it, too.

  Args:
    work: reads or makes files; it is on its own, as in `by_first`.
  Raises:
    Exception: on every process, what `work` raised on one of them.
  """
  found: list[T] = []
  if not _together():
    return work()
  by_first(lambda: found.append(work()))
  told, failure = "", None
  if not is_first():
    try:
      with _alone():
        found.append(work())
    except Exception as error:  # raised below, when the others know of it
      told, failure = _told(error), error
  others = _exchanged(told)
  if failure is not None:
    raise failure
  for one in others:
    _raise(one)
  return found[0]


def any_of(flag: bool) -> bool:
  """Whether a flag is set on one of the processes; all must ask together."""
  if not _together():
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))


def require_same(facts: Callable[[], Mapping[str, str]]) -> None:
  """Refuses processes that are not at the same job.

  Args:
    facts: tells those of this process, by what a person calls them; called only
      where there are several.
  Raises:
    UserError: on every process, for the first fact that differs.
  """
  if not _together():
    return
  found = [json.loads(one) for one in _exchanged(json.dumps(dict(facts())))]
  for number, one in enumerate(found):
    for what, first in found[0].items():
      if one[what] != first:
        raise UserError(
          f"Process {number} has another {what} than process 0: {one[what]}, not "
          f"{first}. Start all processes with the same."
        )


def require_one(what: str) -> None:
  """Refuses several processes.

  Args:
    what: is the reason.
  Raises:
    UserError: on every process.
  """
  if _together():
    raise UserError(
      f"{jax.process_count()} processes, but {what}. Run the same command once "
      "without --distributed and stop it when they are made, or leave them out."
    )


class _State:
  """What this process is at."""

  alone = False  # others do not wait for it, or wait for its end
  numbers = itertools.count()  # of what processes told each other
  tell: Callable[[], str] = staticmethod(lambda: "")  # see `follow`
  hear: Callable[[str], None] = staticmethod(lambda news: None)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
  _State.alone = True
  try:
    yield
  finally:
    _State.alone = False


def _together() -> bool:
  return not _State.alone and jax.process_count() > 1


def _client() -> Any:
  # The coordination service is public only by barriers of devices, whose time is
  # bounded, and a corpus may take hours.
  from jax._src import distributed

  return distributed.global_state.client


def _next_name() -> str:
  return f"cmtree_jax/{next(_State.numbers)}"


def _wait(name: str) -> str:
  """What another process has said under a name, or says in the end."""
  while True:
    try:
      return _client().blocking_key_value_get(name, _PATIENCE_MS)
    except jax.errors.JaxRuntimeError as error:
      if "DEADLINE_EXCEEDED" not in str(error):
        raise


def _exchanged(mine: str) -> list[str]:
  """What every process says."""
  name = _next_name()
  _client().key_value_set(f"{name}/{jax.process_index()}", mine)
  return [_wait(f"{name}/{one}") for one in range(jax.process_count())]


def _told(error: Exception) -> str:
  kind = type(error).__name__
  if kind not in _TOLD:
    kind, error = "Fault", Fault(f"Another process failed: {kind}: {error}")
  return json.dumps([kind, str(error)])


def _raise(told: str) -> None:
  """Raises what another process has told, if it is an error."""
  if told:
    kind, message = json.loads(told)
    raise _TOLD[kind](message)
