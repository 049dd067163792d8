"""The engine's programs without arrays: for looking at what a compiler makes of them.

Nothing here runs, so the devices of the mesh need not be there: a machine without an
accelerator compiles for one (`experiments.tpu_compile`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy.engine import Engine


class Size(NamedTuple):
  """How much a program is given at once."""

  members: int = 1
  steps: int = 1  # of a call of `train`, or of an unroll
  rows: int = 16  # of a step, global
  row_tokens: int = 64
  chunks: int = 1  # of rows: of the outer loss, or to be looked at


def lower(engine: Engine, name: str, size: Size) -> jax.stages.Lowered:
  """A function of the engine as lowered for arguments of which only shapes are known.

  Args:
    engine: on any mesh.
    name: in `PROGRAMS`.
    size: of the arguments.
  Raises:
    ValueError: the engine has no such function.
  """
  if name not in PROGRAMS:
    raise ValueError(f"Unknown program {name!r}. Known: {', '.join(PROGRAMS)}.")
  program: Any = getattr(engine, name)
  return program.lower(*PROGRAMS[name](Arguments(engine, size)))


class Arguments(NamedTuple):
  """Shapes of everything that the engine's functions take."""

  engine: Engine
  size: Size

  @property
  def keys(self):
    """Random keys of all members."""
    return jax.eval_shape(
      lambda: jax.random.split(jax.random.key(0), self.size.members)
    )

  @property
  def phi(self):
    """Of all members, on the mesh."""
    init: Any = self.engine.init
    found = jax.eval_shape(init.compiled, self.keys)
    return engines.abstract(
      found, engines.phi_shardings(self.engine.mesh, found)
    )

  @property
  def params(self):
    """Those of `phi`."""
    return self.phi.params

  @property
  def which(self):
    """Which members are meant."""
    return jax.ShapeDtypeStruct((self.size.members,), jnp.bool)

  @property
  def steps(self):
    """Batches of all steps and their weights, of each member."""
    return self._weighted(self.size.members, self.size.steps)

  @property
  def outer(self):
    """Chunks of rows and their weights, of each member."""
    return self._weighted(self.size.members, self.size.chunks)

  @property
  def shared(self):
    """The same, for all members alike."""
    return self._weighted(self.size.chunks)

  def _weighted(self, *leading):
    """(rows, their weights)."""
    shape = (*leading, self.size.rows, self.size.row_tokens)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
    weight = jax.ShapeDtypeStruct(shape, jnp.float32)
    return Batch(tokens, tokens, tokens, tokens), weight


# What each function of the engine takes.
PROGRAMS: dict[str, Callable[[Arguments], tuple[Any, ...]]] = {
  "init": lambda x: (x.keys,),
  "reset": lambda x: (x.phi, x.keys, x.which),
  "train": lambda x: (x.phi, *x.steps, x.which),
  "unroll": lambda x: (x.phi, *x.steps, x.outer),
  "valued": lambda x: (x.phi, *x.steps, x.outer),
  "cooled": lambda x: (x.phi, *x.steps),
  "probe": lambda x: (x.params, x.params, x.outer[0]),
  "weighted_nats": lambda x: (x.params, x.shared),
  "losses": lambda x: (x.params, x.shared[0]),
  "statistics": lambda x: (x.params, x.shared[0]),
  "hidden": lambda x: (x.params, x.shared[0]),
}
