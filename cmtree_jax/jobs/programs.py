"""Compiled programs of a long job: as many as Linux lets a process hold."""

import gc
from pathlib import Path

import jax

_MOST_MAPS = 30_000  # less than half of Linux's usual limit
_MAPS = Path("/proc/self/maps")


def let_go() -> None:
  """Lets go of compiled programs before they fill the process's memory maps.

  Each takes a dozen, searches of all methods together more than the 65,530 that Linux
  allows by default, and XLA crashes at the limit. What is needed again is read from
  the cache of compiled programs.
  """
  if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()
