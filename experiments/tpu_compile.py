"""What the TPU's compiler makes of a job's programs; no TPU is needed.

    pip install libtpu
    python -m experiments.tpu_compile [--topology v5e:2x4 v5p:4x4x4]
        [--preset 25m] [--mesh P,D,M] [--programs train window:unrolled] [--json F]

Compiles the programs of a search for devices that are not there and tells, for each
device: memory of arguments, temporaries and results; matrix FLOPs; what devices
exchange, in loops and outside; how long the compiler took; whether the program fits.
Rows are written as they come, and those that the file has are not compiled again.
A small program takes seconds, one of 125M parameters minutes.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from rich.console import Console
from rich.table import Table

from cmtree_jax import sharding
from cmtree_jax.bilevel import HYPERGRADS
from cmtree_jax.methods import cmtree
from cmtree_jax.methods.base import Facts, Signals
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import lowering, model, optim
from cmtree_jax.signals import gradients
from cmtree_jax.tree.starts import Start
from experiments import hlo

_DOMAINS, _DOMAIN_ROWS = 16, 2  # of the gradient products
# Of the tree: documents of a round and of the corpus sample, features of each.
_SAMPLE, _FEATURES, _TARGETS, _PROXIES = 4096, 64, 3, 4
_PROBED = 4  # chunks of rows that are probed in one call
_MEGA, _GIGA = 1e6, 1e9


class Case(NamedTuple):
  """What is compiled; with its program the key of a row."""

  topology: str
  preset: str
  vocab: int
  dtype: str
  mesh: tuple[int, int, int]  # population, data, model
  rows: int  # for each chip and step
  row_tokens: int
  steps: int
  policy: str
  attention: str = "einsum"  # files of before do not tell


class Row(NamedTuple):
  """One line of the table and of the JSON file; sizes are those of one device."""

  case: Case
  program: str
  fits: bool
  told: str  # why not
  argument_bytes: int | None = None
  temp_bytes: int | None = None
  output_bytes: int | None = None  # less what arguments gave their memory for
  flops: float | None = None  # in matrix products of one call
  # Kind, and whether in a loop -> [times, bytes] of one call.
  exchanged: dict[str, list[int]] | None = None
  gathered_params: int | None = None  # all-gathers of whole parameters
  seconds: float | None = None  # to compile
  largest_rows: int | None = None  # for each chip, where it was looked for

  @property
  def total_bytes(self) -> int | None:
    """Of all that a device holds."""
    if self.argument_bytes is None:
      return None
    return (
      self.argument_bytes + (self.temp_bytes or 0) + (self.output_bytes or 0)
    )


def main(arguments: Sequence[str] | None = None) -> int:
  """Reads the flags, compiles, and writes table and JSON; the exit status."""
  args = _flags(arguments)
  if importlib.util.find_spec("libtpu") is None:
    print(
      "The TPU's compiler is in libtpu, which is not installed; "
      "pip install libtpu (no TPU is needed).",
      file=sys.stderr,
    )
    return 1
  rows = _read(args.json)
  for row in measure(args, {(row.case, row.program) for row in rows}):
    rows.append(row)
    if args.json:
      told = json.dumps([one._asdict() | _named(one) for one in rows], indent=1)
      Path(args.json).write_text(told + "\n")
  Console(width=170).print(table(rows))
  return 0


def _flags(arguments):
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  add = parser.add_argument
  add("--topology", nargs="+", default=["v5e:2x4"], help="KIND:AxB[xC]")
  add("--preset", nargs="+", default=["25m"], choices=model.PRESETS)
  add("--mesh", type=_mesh, default=(1, -1, 1), help="P,D,M; -1: the others")
  add("--programs", nargs="+", default=list(PROGRAMS), choices=PROGRAMS)
  add("--vocab", type=int, default=32768)
  add("--dtype", default="bfloat16", choices=model.DTYPES)
  add("--rows", type=int, default=8, help="of a step, for each chip")
  add("--row-tokens", type=int, default=1024)
  add("--steps", type=int, default=16, help="of a call, and of a window")
  add("--policy", default="tape", help="what a window stores")
  add("--attention", default="einsum", choices=model.ATTENTIONS)
  add("--largest", action="store_true", help="look for the most rows that fit")
  add("--json", help="file for the rows")
  return parser.parse_args(arguments)


def _mesh(text: str) -> tuple[int, ...]:
  axes = tuple(map(int, text.split(",")))
  if len(axes) != 3:
    raise argparse.ArgumentTypeError("three numbers, as 1,8,1")
  return axes


def measure(
  args: argparse.Namespace, done: set[tuple[Case, str]]
) -> Iterator[Row]:
  """Rows as they are compiled, less those that are done."""
  for topology in args.topology:
    devices = devices_of(topology)
    mesh = sharding.mesh_of(devices, **dict(zip(_AXES, args.mesh, strict=True)))
    axes = tuple(mesh.shape[axis] for axis in mesh.axis_names)
    for preset in args.preset:
      case = Case(
        topology,
        preset,
        args.vocab,
        args.dtype,
        axes,
        args.rows,
        args.row_tokens,
        args.steps,
        args.policy,
        args.attention,
      )
      for name in args.programs:
        if (case, name) not in done:
          row = compiled(case, name, mesh)
          if args.largest:
            most = largest(
              lambda rows, case=case, name=name, mesh=mesh: (
                compiled(case._replace(rows=rows), name, mesh).fits
              ),
              start=args.rows if row.fits else 1,
            )
            row = row._replace(largest_rows=most)
          yield row


_AXES = ("population", "data", "model")


def devices_of(topology: str) -> list[Any]:
  """Devices to compile for, as `v5e:2x4`; none of them need be there."""
  from jax.experimental import topologies

  # They are asked for nothing, neither by name nor by a lock.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
  found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  return list(found.devices)


def largest(fits: Callable[[int], bool], *, start: int) -> int:
  """The largest number that fits, all smaller ones then taken to fit; 0: none.

  Args:
    fits: tries a number.
    start: the first one that is tried.
  """
  least, most = 0, start
  while fits(most):
    least, most = most, 2 * most
  while most - least > 1:
    middle = (least + most) // 2
    least, most = (middle, most) if fits(middle) else (least, middle)
  return least


def compiled(case: Case, name: str, mesh: Mesh) -> Row:
  """One program through the compiler."""
  lowered = PROGRAMS[name](case, mesh)
  begin = time.perf_counter()
  try:
    program = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    return refused(case, name, str(error))
  seconds = time.perf_counter() - begin
  memory: Any = program.memory_analysis()
  row = Row(
    case,
    name,
    True,
    "",
    argument_bytes=memory.argument_size_in_bytes,
    temp_bytes=memory.temp_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    seconds=round(seconds, 1),
  )
  try:
    work = hlo.count(program)
  # Conjugate gradients stop when they have converged; and a compiler newer than jaxlib
  # may write instructions that jaxlib cannot print.
  except (ValueError, jax.errors.JaxRuntimeError):
    return row
  return row._replace(
    flops=work.flops,
    exchanged=_exchanged(work),
    gathered_params=_gathered_params(work, case, mesh),
  )


def refused(case: Case, name: str, error: str) -> Row:
  """The row of a program that does not fit; other errors are raised again."""
  used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", error)
  if used is None:
    raise RuntimeError(f"{name} of {case} does not compile: {error}")
  return Row(case, name, False, f"{used[1]} of {used[2]}")


def _exchanged(work: hlo.Work) -> dict[str, list[int]]:
  times, sizes = Counter(), Counter()
  for one in work.exchanges:
    key = f"{one.kind}, {'in loops' if one.in_loop else 'outside'}"
    times[key] += one.times
    sizes[key] += one.times * one.size
  return {key: [times[key], sizes[key]] for key in sorted(times)}


def _gathered_params(work: hlo.Work, case: Case, mesh: Mesh) -> int:
  """How many all-gathers make a whole parameter, or that of a layer, anew."""
  engine, size = _engine(case, mesh), lowering.Size(mesh.shape["population"])
  params = lowering.Arguments(engine, size).params
  whole = set()
  for x in jax.tree.leaves(params):
    shape = tuple(n for n in x.shape[1:] if n > 1)
    whole |= {shape, shape[1:]}
  whole = {shape for shape in whole if len(shape) > 1}
  found = [tuple(n for n in shape if n > 1) for shape in work.gathered]
  return sum(shape in whole for shape in found)


def _engine(
  case: Case, mesh: Mesh, estimator: str = "unrolled"
) -> engines.Engine:
  size = model.from_preset(
    case.preset,
    vocab_size=case.vocab,
    dtype=case.dtype,
    attention=case.attention,
  )
  stores = HYPERGRADS[estimator].stores
  optimizer = optim.adamw(
    1e-3, warmup_steps=30, total_steps=None, weight_decay=0.01, eps_root=1e-8
  )
  return engines.make(
    size,
    optimizer,
    mesh=mesh,
    estimator=estimator,
    options={"policy": case.policy} if stores else {},
    at_once=1,
  )


def _size(case: Case, mesh: Mesh, *, chunks: int) -> lowering.Size:
  population = mesh.shape["population"]
  return lowering.Size(
    members=population,
    steps=case.steps,
    rows=case.rows * mesh.size // population,
    row_tokens=case.row_tokens,
    chunks=chunks,
  )


def _of_engine(name: str, *, chunks: int = 1, estimator: str = "unrolled"):
  """A function of the engine."""

  def lower(case: Case, mesh: Mesh) -> jax.stages.Lowered:
    engine = _engine(case, mesh, estimator)
    return lowering.lower(engine, name, _size(case, mesh, chunks=chunks))

  return lower


def _products(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """Products of the gradients of domains."""
  engine = _engine(case, mesh)
  size = _size(case, mesh, chunks=_DOMAINS)._replace(rows=_DOMAIN_ROWS)
  args = lowering.Arguments(engine, size)
  program: Any = gradients.compiled(engine).products
  return program.lower(args.params, args.shared, args.shared)


def _tree_step(case: Case, mesh: Mesh) -> jax.stages.Lowered:
  """A round of the tree with the method's defaults; the proxy is not in it."""
  del case
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  mass_N = np.full(_SAMPLE, 1 / _SAMPLE, np.float32)
  of_N = np.arange(_SAMPLE) % _TARGETS
  facts = Facts(
    max_weight=4.0,
    epochs=1.0,
    r_star=15.0,
    horizon=1.0,
    sample_NE=draw(_SAMPLE, _FEATURES),
    sample_mass_N=mass_N,
    target_NE=draw(_SAMPLE, _FEATURES),
    target_mass_N=mass_N,
    target_of_N=of_N,
    held_out_NE=draw(_SAMPLE, _FEATURES),
    held_out_mass_N=mass_N,
    held_out_of_N=of_N,
    domain_mass_K=np.ones(1),
    target_domain_TK=np.ones((_TARGETS, 1)),
    num_proxies=_PROXIES,
  )
  method = cmtree.make(start=Start(kind="random"))
  state = method.init(jax.random.key(0), facts)
  signals = Signals(
    mass_B=mass_N,
    embedding_BE=facts.sample_NE,
    value_BT=draw(_SAMPLE, _TARGETS),
    proxy_B=np.zeros(_SAMPLE, np.int32),
    log_proposal_B=mass_N,
    target_weight_T=np.ones(_TARGETS, np.float32),
    sample_NE=facts.sample_NE,
    sample_mass_N=mass_N,
  )
  whole = NamedSharding(mesh, engines.WHOLE)
  shapes = jax.eval_shape(lambda *args: args, state, signals)
  return jax.jit(method.step).lower(*engines.abstract(shapes, whole))


PROGRAMS: dict[str, Callable[[Case, Mesh], jax.stages.Lowered]] = {
  "train": _of_engine("train"),
  **{
    f"window:{name}": _of_engine("unroll", estimator=name)
    for name in HYPERGRADS
  },
  "probe": _of_engine("probe", chunks=_PROBED),
  "losses": _of_engine("losses", chunks=_PROBED),
  "products": _products,
  "tree_step": _tree_step,
}


def table(rows: Sequence[Row]) -> Table:
  """The rows for a terminal."""
  found = Table(title="Programs as compiled, for each device")
  columns = {
    "case": lambda row: _told(row.case),
    "program": lambda row: row.program,
    "arguments": lambda row: _giga(row.argument_bytes),
    "temporary": lambda row: _giga(row.temp_bytes),
    "results": lambda row: _giga(row.output_bytes),
    "all": lambda row: _giga(row.total_bytes) if row.fits else row.told,
    "TFLOPs": lambda row: (
      "-" if row.flops is None else f"{row.flops / 1e12:.3g}"
    ),
    "exchanges": lambda row: "\n".join(
      f"{key}: {times} x, {size / _MEGA:,.0f} MB"
      for key, (times, size) in (row.exchanged or {}).items()
    ),
    "gathers": lambda row: (
      "-" if row.gathered_params is None else str(row.gathered_params)
    ),
    "compile": lambda row: (
      "-" if row.seconds is None else f"{row.seconds:.0f} s"
    ),
    "fits": lambda row: (
      ("yes" if row.fits else "no")
      + (
        f", to {row.largest_rows} rows" if row.largest_rows is not None else ""
      )
    ),
  }
  for name in columns:
    found.add_column(name)
  for row in rows:
    found.add_row(*(cell(row) for cell in columns.values()))
  return found


def _told(case: Case) -> str:
  mesh = "x".join(map(str, case.mesh))
  return (
    f"{case.topology} {mesh}, {case.preset} with {case.vocab:,} words, "
    f"{case.rows} x {case.row_tokens}, {case.steps} steps, {case.policy}, "
    f"{case.attention}"
  )


def _giga(size: int | None) -> str:
  return "-" if size is None else f"{size / _GIGA:.2f} GB"


def _named(row: Row) -> dict[str, Any]:
  return {"case": row.case._asdict()}


def _read(path: str | None) -> list[Row]:
  """Rows of an earlier call."""
  if not path or not Path(path).exists():
    return []
  return [
    Row(**(one | {"case": _case(one["case"])}))
    for one in json.loads(Path(path).read_text())
  ]


def _case(told: dict[str, Any]) -> Case:
  return Case(**(told | {"mesh": tuple(told["mesh"])}))


if __name__ == "__main__":
  sys.exit(main())
