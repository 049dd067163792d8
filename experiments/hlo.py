"""Counts what a compiled program does: matrix FLOPs and collectives, loops unrolled.

`compiled.cost_analysis()` counts the body of a loop once; this follows the trip
counts that the compiler wrote into the program.
"""

import json
import math
import re
from collections import Counter
from typing import NamedTuple

import jax

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


class Instruction(NamedTuple):
  """One line of a computation."""

  type: str
  op: str
  rest: str  # operands and attributes


class Work(NamedTuple):
  """What running a program once does."""

  flops: float  # in matrix products
  collectives: Counter  # kind -> how often it runs
  gathered: list[tuple[int, ...]]  # shapes of the results of all-gathers


def count(compiled: jax.stages.Compiled) -> Work:
  """The work of one call of a compiled program, on one device."""
  return count_text(compiled.as_text() or "")


def count_text(text: str) -> Work:
  """The work of a program in HLO text.

  Raises:
    ValueError: a loop without a known trip count.
  """
  entry, computations = _parse(text)
  flops, collectives, gathered = 0.0, Counter(), []
  todo = [(entry, 1)]
  while todo:
    name, times = todo.pop()
    body = computations[name]
    for line in body.values():
      kind = line.op.removesuffix("-start")
      if line.op == "dot":
        flops += times * _dot_flops(line, body)
      elif kind in _COLLECTIVES:
        collectives[kind] += times
        if kind == "all-gather":
          gathered.extend(dims for _, dims in _shapes(line.type))
      elif line.op == "while":
        inner = times * _trips(line)
        todo += [(called, inner) for called in _called(line, "body")]
      elif line.op in ("fusion", "call", "conditional"):
        names = _called(line, "calls", "to_apply", "branch_computations")
        todo += [(called, times) for called in names]
  return Work(flops, collectives, gathered)


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


def _dot_flops(line, body):
  left = re.findall(r"%([\w.-]+)", line.rest)[0]
  shape = _shapes(body[left].type)[0][1]
  contracting = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)
  axes = [int(d) for d in contracting[1].split(",") if d] if contracting else []
  outputs = math.prod(_shapes(line.type)[0][1])
  return 2.0 * outputs * math.prod(shape[axis] for axis in axes)


def _trips(line):
  found = re.search(r'"known_trip_count":(\{[^}]*\})', line.rest)
  if found is None:
    raise ValueError(f"A loop without a known trip count: {line.rest[:200]}")
  return int(json.loads(found[1])["n"])


def _called(line, *attributes):
  names = []
  for attribute in attributes:
    found = re.search(rf"{attribute}=(\{{[^}}]*\}}|%[\w.-]+)", line.rest)
    if found:
      names += re.findall(r"%([\w.-]+)", found[1])
  return names
