"""Memory that is freed is at hand for the next call of a program."""

import ctypes
import resource

import pytest

from cmtree_jax.jobs import programs

SIZE = 2**26  # bytes; glibc maps each so large block anew, as it comes


def test_a_large_block_is_not_mapped_twice():
  libc = ctypes.CDLL(None)
  if not hasattr(libc, "mallopt"):
    pytest.skip("the C library here is not glibc")
  libc.malloc.restype = ctypes.c_void_p
  libc.malloc.argtypes = [ctypes.c_size_t]
  libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
  libc.free.argtypes = [ctypes.c_void_p]

  def mapped() -> int:
    """Pages that filling a block asks the system for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(SIZE)
    libc.memset(block, 1, SIZE)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

  programs.keep_freed_memory()
  mapped()
  assert mapped() < SIZE / resource.getpagesize() / 10
