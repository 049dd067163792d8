"""Memory that is freed is at hand for the next call of a program."""

import ctypes
import subprocess
import sys

import pytest

# A program in a process of its own, whose threads have no heaps yet. Prints how many
# pages each of its calls asks the system for, and in how many its array lies.
PROGRAM = """
import resource

import jax
import jax.numpy as jnp
from cmtree_jax.jobs import programs

programs.keep_freed_memory()
size = 2**24 + 2**20  # too large for a thread's own heap


@jax.jit
def work(seed):
  kept = jax.lax.optimization_barrier(jnp.cos(seed + jnp.arange(size)))
  return jnp.sum(kept), jnp.max(kept)


def faults():
  before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
  jax.block_until_ready(work(1.0))
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


print(*(faults() for _ in range(24)), 4 * size // resource.getpagesize())
"""


def test_a_program_maps_no_pages_anew():
  if not hasattr(ctypes.CDLL(None), "mallopt"):
    pytest.skip("the C library here is not glibc")
  printed = subprocess.run(
    [sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True
  ).stdout
  *asked, pages = map(int, printed.split())
  # The first calls may find no room for their alignment. By default all of them ask.
  assert sum(x < pages / 10 for x in asked) > len(asked) / 4
