"""`python -m tests.kept MODULE ...`: `python -m MODULE`, by one that keeps programs.

Of several processes JAX lets only the first write to its cache, and on CPUs the programs
of the others are none of the first's: they would be compiled anew in every run.
"""

import runpy
import sys
import types
from unittest import mock

from jax._src import compiler

if __name__ == "__main__":
  first = types.SimpleNamespace(process_id=0, client=None)
  is_first = types.SimpleNamespace(global_state=first)
  _, module, *sys.argv[1:] = sys.argv
  with mock.patch.object(compiler, "distributed", is_first):
    runpy.run_module(module, run_name="__main__", alter_sys=True)
