"""Several proxies at once: a hypergradient of every member, on its own devices.

The members differ in age, so their hypergradients are not those of one moment of
training. On a mesh each group of devices along the axis `population` holds its own.
Members on one device take turns, so memory is that of one, unless several are asked
for at once: an accelerator that one small model leaves idle takes many in its time.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from cmtree_jax import sharding


def each(
  function: Callable[..., Any], mesh: Mesh | None = None, *, at_once: int = 1
) -> Callable[..., Any]:
  """`function` of every member: all arguments and results get a leading axis.

  Args:
    function: of one member; may itself use the mesh's other axes.
    mesh: its axis `population` divides the members (their number must be a
      multiple of its size). None: all on one device.
    at_once: members that a device works on at the same time, in as much memory.
  """

  def mapped(*args):
    if jax.tree.leaves(args)[0].shape[0] == 1:
      found = function(*jax.tree.map(lambda x: x[0], args))
      return jax.tree.map(lambda x: x[None], found)
    batch_size = at_once if at_once > 1 else None
    return jax.lax.map(lambda x: function(*x), args, batch_size=batch_size)

  if mesh is None:
    return mapped
  spec = PartitionSpec(sharding.POPULATION)
  return sharding.shard_map(
    mapped, mesh, axis=sharding.POPULATION, in_specs=spec, out_specs=spec
  )


def first_ages(members: int, *, max_age: int, min_age: int) -> np.ndarray:
  """Ages at the first asking, in steps, spread evenly from `min_age` to `max_age`.

  >>> first_ages(4, max_age=300, min_age=60)
  array([ 60, 120, 180, 240])
  """
  return min_age + np.arange(members) * (max_age - min_age) // members
