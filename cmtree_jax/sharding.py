"""The device mesh: one program for one device and for several.

Three axes: `population` holds proxies of different ages, `data` divides the
documents of every batch, `model` the matrices of a proxy. Population and data are
manual: under shard_map a gradient is summed over devices once, where the code says
so. The model axis is left to the compiler's partitioner, which follows
`param_specs`.

A mesh may span the devices of several processes. All of them run the same job on the
same host arrays; `put` and `gather` are the doors between host and mesh.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cmtree_jax import checks

POPULATION, DATA, MODEL = "population", "data", "model"


def make_mesh(*, population: int = 1, data: int = -1, model: int = 1) -> Mesh:
  """A mesh over the devices of all processes.

  Args:
    population: groups of devices that train different proxies.
    data: devices that share the documents of a batch; -1 takes what is left.
    model: devices that share one copy of the parameters.
  Raises:
    ValueError: an axis without devices, or more of them than there are.
  """
  return mesh_of(jax.devices(), population=population, data=data, model=model)


def mesh_of(
  devices: Sequence[Any], *, population: int = 1, data: int = -1, model: int = 1
) -> Mesh:
  """`make_mesh` over given devices, also such as are only compiled for."""
  checks.at_least(1, population=population, model=model)
  if data != -1:
    checks.at_least(1, data=data)
  if data == -1:
    data = max(len(devices) // (population * model), 1)
  size = population * data * model
  if size > len(devices):
    raise ValueError(
      f"A mesh of population {population} x data {data} x model {model} needs "
      f"{size} devices, there are {len(devices)}."
    )
  return jax.make_mesh(
    (population, data, model),
    (POPULATION, DATA, MODEL),
    axis_types=(AxisType.Auto,) * 3,
    devices=list(devices)[:size],
  )


def sharers() -> int:
  """How many devices share a copy of the parameters, where this is traced."""
  return jax.sharding.get_abstract_mesh().shape.get(MODEL, 1)


def shard_map(
  function: Callable[..., Any],
  mesh: Mesh,
  *,
  axis: str,
  in_specs: Any,
  out_specs: Any,
) -> Callable[..., Any]:
  """`function` on each device's part along one axis of the mesh.

  Calls for different axes may be nested. What leaves with an empty spec must be
  equal on all devices; nothing checks it.
  """
  inside = not jax.sharding.get_abstract_mesh().empty
  return jax.shard_map(
    function,
    mesh=None if inside else mesh,
    axis_names={axis},
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def by_hand(
  function: Callable[..., Any], *, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
  """`function` on each device's part along every axis of the mesh that is left.

  A kernel wants it, for the compiler's partitioner cannot divide one. Axes of the
  shard_maps around it are divided already, and without a mesh nothing is. Specs are
  of the axes that are left.
  """
  mesh = jax.sharding.get_abstract_mesh()
  left = set(mesh.axis_names) - set(mesh.manual_axes)
  if not left:
    return function
  return jax.shard_map(
    function,
    axis_names=left,
    in_specs=in_specs,
    out_specs=out_specs,
    check_vma=False,
  )


def put(tree: Any, mesh: Mesh, spec: PartitionSpec | Any) -> Any:
  """Host arrays as arrays of the mesh; every process passes the same whole ones.

  Args:
    tree: arrays.
    mesh: where they go.
    spec: one for all arrays, or a tree of specs.
  """
  if isinstance(spec, PartitionSpec):
    spec = jax.tree.map(lambda _: spec, tree)

  def one(x, spec):
    if isinstance(x, jax.Array) and jax.dtypes.issubdtype(
      x.dtype, jax.dtypes.prng_key
    ):
      data = one(jax.random.key_data(x), spec)
      return jax.random.wrap_key_data(data)
    x = np.asarray(x)
    return jax.make_array_from_callback(
      x.shape, NamedSharding(mesh, spec), lambda index: x[index]
    )

  return jax.tree.map(one, tree, spec)


def gather(tree: Any) -> Any:
  """Arrays of the mesh as host arrays, the same and whole ones on every process.

  All processes must call it, in the same order, for each has a part of the arrays.

  Args:
    tree: arrays; those of the host stay as they are.
  """

  def one(x):
    if spans_processes(x) and not x.is_fully_replicated:
      x = multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)

  return jax.tree.map(one, tree)


def put_like(tree: Any, like: Any) -> Any:
  """Host arrays where those of another tree are, if these span processes."""

  def one(x, like):
    if not spans_processes(like):
      return x
    return jax.make_array_from_callback(
      like.shape, like.sharding, lambda index: x[index]
    )

  return jax.tree.map(one, tree, like)


def spans_processes(x: Any) -> bool:
  """Whether a part of an array is on devices of another process."""
  return isinstance(x, jax.Array) and not x.is_fully_addressable
