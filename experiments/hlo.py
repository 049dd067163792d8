"""Counts what a compiled program does: matrix FLOPs and collectives, loops unrolled.

`compiled.cost_analysis()` counts the body of a loop once; this follows the trip
counts. The CPU's compiler writes them into the program, the TPU's leaves them in the
condition of the loop, and writes matrix products as convolutions.
"""

import json
import math
import re
from collections import Counter
from typing import NamedTuple

import jax
import numpy as np

_COLLECTIVES = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "collective-permute",
)
_INSTRUCTION = re.compile(
  r"^\s*(?:ROOT )?%(?P<name>[\w.-]+) = (?P<type>.*?) (?P<op>[a-z][\w-]*)\((?P<rest>.*)$"
)
_SHAPE = re.compile(r"(pred|[a-z]+\d+)\[([\d,]*)\]")


_BYTES = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1}


class Instruction(NamedTuple):
  """One line of a computation."""

  type: str
  op: str
  rest: str  # operands and attributes


class Collective(NamedTuple):
  """One place of a program where devices exchange arrays."""

  kind: str
  times: int  # that it runs
  in_loop: bool
  size: int  # bytes of its results, in one run
  shapes: tuple[tuple[int, ...], ...]  # of its results


class Work(NamedTuple):
  """What running a program once does."""

  flops: float  # in matrix products
  exchanges: tuple[Collective, ...]

  @property
  def collectives(self) -> Counter:
    """How often each kind of collective runs."""
    found = Counter()
    for one in self.exchanges:
      found[one.kind] += one.times
    return found

  @property
  def gathered(self) -> list[tuple[int, ...]]:
    """Shapes of the results of all-gathers."""
    return [
      shape
      for one in self.exchanges
      if one.kind == "all-gather"
      for shape in one.shapes
    ]


def count(compiled: jax.stages.Compiled) -> Work:
  """The work of one call of a compiled program, on one device."""
  return count_text(compiled.as_text() or "")


def count_text(text: str) -> Work:
  """The work of a program in HLO text.

  Raises:
    ValueError: a loop without a known trip count.
  """
  entry, computations = _parse(text)
  flops, exchanges = 0.0, []
  todo = [(entry, 1, False)]
  while todo:
    name, times, in_loop = todo.pop()
    body = computations[name]
    for line in body.values():
      # What is started is done once, and only then has the type of its result.
      kind = line.op.removesuffix("-done")
      if line.op == "dot":
        flops += times * _dot_flops(line, body)
      elif line.op == "convolution":
        flops += times * _convolution_flops(line, body)
      elif kind in _COLLECTIVES:
        found = _shapes(line.type)
        size = sum(_width(dtype) * math.prod(dims) for dtype, dims in found)
        dims = tuple(dims for _, dims in found)
        exchanges.append(Collective(kind, times, in_loop, size, dims))
      elif line.op == "while":
        inner = times * _trips(line, computations)
        todo += [(called, inner, True) for called in _called(line, "body")]
      elif line.op in ("fusion", "call", "conditional", "async-start"):
        names = _called(line, "calls", "to_apply", "branch_computations")
        todo += [(called, times, in_loop) for called in names]
  return Work(flops, tuple(exchanges))


def _parse(text):
  """(name of the entry, computation -> name -> Instruction)."""
  entry, computations, current = "", {}, {}
  for line in text.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      name = re.search(r"%([\w.-]+)", line)
      if name is None:
        continue
      current = computations.setdefault(name[1], {})
      if line.startswith("ENTRY"):
        entry = name[1]
    elif found := _INSTRUCTION.match(line):
      current[found["name"]] = Instruction(
        found["type"], found["op"], found["rest"]
      )
  return entry, computations


def _shapes(text):
  return [
    (dtype, tuple(int(d) for d in dims.split(",") if d))
    for dtype, dims in _SHAPE.findall(text)
  ]


def _width(dtype):
  """Bytes of a number."""
  return _BYTES.get(dtype) or int(re.sub(r"\D", "", dtype)) // 8


def _operands(line):
  """Names of what an instruction reads, in order."""
  return re.findall(r"%([\w.-]+)", line.rest.split("), ")[0])


def _dot_flops(line, body):
  left = _operands(line)[0]
  shape = _shapes(body[left].type)[0][1]
  contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
  axes = [int(d) for d in contracting[1].split(",") if d] if contracting else []
  outputs = math.prod(_shapes(line.type)[0][1])
  return 2.0 * outputs * math.prod(shape[axis] for axis in axes)


def _convolution_flops(line, body):
  """Of a product written as a convolution; batches are spatial axes there.

  Such an axis is dilated and padded so that each of its outputs meets one entry of
  the input: only pairs inside the input count.
  """
  left, right = (_shapes(body[x].type)[0][1] for x in _operands(line)[:2])
  out = _shapes(line.type)[0][1]
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.rest)
  assert labels is not None, line.rest
  of_left, of_right, of_out = labels.groups()
  found = 2.0 * out[of_out.index("b")] * out[of_out.index("f")]
  found *= right[of_right.index("i")]
  window = _window(line)
  for axis in filter(str.isdigit, of_out):
    found *= _meetings(
      left[of_left.index(axis)],
      out[of_out.index(axis)],
      {name: sizes[int(axis)] for name, sizes in window.items()},
    )
  return found


def _window(line):
  """Attribute -> its value on each spatial axis, of a convolution."""
  found = re.search(r"window=\{([^}]*)\}", line.rest)
  pairs = [one.split("=") for one in found[1].split()] if found else []
  return {
    name: [int(x.split("_")[0]) for x in values.split("x")]
    for name, values in pairs
  }


def _meetings(entries, outputs, window):
  """Pairs (output, place in the window) on one axis that lie on an input's entry."""
  at_O1 = np.arange(outputs)[:, None] * window.get("stride", 1)
  at_OW = (
    at_O1
    - window.get("pad", 0)
    + (np.arange(window["size"]) * window.get("rhs_dilate", 1))
  )
  spread = window.get("lhs_dilate", 1)
  inside = (at_OW >= 0) & (at_OW <= (entries - 1) * spread)
  return int((inside & (at_OW % spread == 0)).sum())


def _trips(line, computations):
  """How often a loop runs: told, or the bound of its condition, `i < bound`."""
  found = re.search(r'"known_trip_count":(\{[^}]*\})', line.rest)
  if found is not None:
    return int(json.loads(found[1])["n"])
  inside, todo = [], _called(line, "condition")
  while todo:
    for one in computations[todo.pop()].values():
      inside.append(one)
      todo += _called(one, "calls")
  compared = [one for one in inside if one.op == "compare"]
  bounds = {
    int(one.rest.split(")")[0])
    for one in inside
    if one.op == "constant" and one.type.startswith("s32[]")
  }
  counts_up = all("direction=LT" in one.rest for one in compared)
  if len(compared) != 1 or len(bounds) != 1 or not counts_up:
    raise ValueError(f"A loop without a known trip count: {line.rest[:200]}")
  return bounds.pop()


def _called(line, *attributes):
  names = []
  for attribute in attributes:
    found = re.search(rf"\b{attribute}=(\{{[^}}]*\}}|%[\w.-]+)", line.rest)
    if found:
      names += re.findall(r"%([\w.-]+)", found[1])
  return names
