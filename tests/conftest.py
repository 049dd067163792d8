"""Set-up of every test: compiled programs are kept, shapes and types checked."""

import os
import pathlib
import sys

# Compilation is most of a test run's time. In the environment rather than in
# jax.config, so that processes started by a test have them too; jax reads them
# when it is first imported, which must not be before here.
_CACHE = pathlib.Path.home() / ".cache" / "cmtree_jax" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Compiled in half the time; what tests run is too small to notice slower programs. At
# level 0 some are wrong.
_FLAGS = [
  "--xla_backend_optimization_level=1",
  "--xla_llvm_disable_expensive_passes=true",
]
if sys.version_info < (3, 12):  # the JAX of later Pythons knows no other way
  _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, os.environ.get("XLA_FLAGS", "")])
# For the tests of sharding; everything else stays on the first. Jobs that a test starts
# have as many, or their last bits would not be those of its own.
os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import jax  # noqa: E402

# As every job sets it, or what is compiled before the first job of a run would be
# compiled again after it.
jax.config.update("jax_default_matmul_precision", "float32")

import jaxtyping  # noqa: E402
import pytest  # noqa: E402

# Checks the annotations of every function of the mathematics while it is called
# (under jit: while it is traced); must come before the package is imported. An
# int may stand for a float. Not typeguard: beneath this hook its fourth version
# finds no function and checks nothing.
jaxtyping.install_import_hook(
  [
    "cmtree_jax.bilevel",
    "cmtree_jax.embed",
    "cmtree_jax.evaluate",
    "cmtree_jax.methods",
    "cmtree_jax.proxy",
    "cmtree_jax.sharding",
    "cmtree_jax.tree",
  ],
  "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)


@pytest.fixture
def x64():
  """Float64 inside the test that asks for it; float32 everywhere else."""
  with jax.enable_x64(True):
    yield


@pytest.fixture(autouse=True, scope="module")
def few_programs():
  """Keeps compiled programs below what Linux allows; all tests have too many."""
  yield
  from cmtree_jax.jobs import programs

  programs.let_go()
