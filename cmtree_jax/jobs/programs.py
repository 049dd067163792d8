"""Compiled programs of a long job: how many a process holds, and their memory."""

import ctypes
import gc
from pathlib import Path

import jax

_MOST_MAPS = 30_000  # less than half of Linux's usual limit
_MAPS = Path("/proc/self/maps")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt


def let_go() -> None:
  """Lets go of compiled programs before they fill the process's memory maps.

  Each takes a dozen, searches of all methods together more than the 65,530 that Linux
  allows by default, and XLA crashes at the limit. What is needed again is read from
  the cache of compiled programs.
  """
  if _MAPS.exists() and len(_MAPS.read_bytes().splitlines()) > _MOST_MAPS:
    jax.clear_caches()
    gc.collect()


def keep_freed_memory() -> None:
  """Lets a program on CPUs work in the memory that its last call has freed.

  XLA allocates a program's buffers at every call. By default glibc hands those above
  32 MiB back to the system at once, and to map their pages anew takes longer than a
  small model's training step has work. Where another library allocates, nothing
  changes.
  """
  libc = ctypes.CDLL(None)
  if jax.default_backend() == "cpu" and hasattr(libc, "mallopt"):
    libc.mallopt(_MMAP_THRESHOLD, 2**30)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
