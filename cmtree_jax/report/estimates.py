"""What a job will take, as a person reads it before the start."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cmtree_jax.report import screen, tables


class Part(NamedTuple):
  """One kind of work of a job."""

  name: str  # a method, "trials" or "final"
  what: str
  preset: str  # the model's size
  times: int
  flops: float  # of one
  at_most: bool = False  # what is found on the way may make it less

  @property
  def total(self) -> float:
    """FLOPs of all."""
    return self.times * self.flops


class Estimate(NamedTuple):
  """What a job will take."""

  parts: Sequence[Part]
  rate: Mapping[str, float]  # preset -> FLOPs per second, measured
  device_bytes: Sequence[tuple[str, int]]  # program, what it holds
  host_bytes: int  # that this process has held so far
  device: str

  def seconds(self, part: Part) -> float:
    """Of one part."""
    return part.total / self.rate[part.preset]


_COLUMNS = ("model", "times", "FLOPs", "time")


def show(found: Estimate) -> None:
  """Prints it."""
  console = screen.console()
  rows = [
    [
      f"{one.name}: {one.what}",
      one.preset,
      f"{one.times}",
      f"{'≤ ' * one.at_most}{one.total:.2e}",
      duration(found.seconds(one)),
    ]
    for one in found.parts
  ]
  console.print(
    tables.table("What this job will take", _COLUMNS, rows, first="work")
  )
  for line in lines(found):
    console.print(line, soft_wrap=True)


def lines(found: Estimate) -> list[str]:
  """Sums, and how they were obtained."""
  flops = sum(one.total for one in found.parts)
  seconds = sum(map(found.seconds, found.parts))
  least = "At most " * any(one.at_most for one in found.parts)
  told = [
    f"{least}{flops:.2e} FLOPs and about {duration(seconds)} on this machine "
    f"({found.device}), besides compiling, drawing rows and the methods' own steps."
  ]
  if found.rate:
    rates = ", ".join(f"{k} {v:.2e}" for k, v in sorted(found.rate.items()))
    told.append(
      f"FLOPs per second, measured on training steps here one after another: {rates}. "
      "Several small models at once take less time than that; a busy machine more."
    )
  if found.device_bytes:
    what, most = max(found.device_bytes, key=lambda one: one[1])
    told.append(
      f"Memory of a device at the peak: {most / 2**20:,.1f} MiB, in {what}, as its "
      "compiler has planned it."
    )
  told.append(
    f"Memory of the host: this process has held {found.host_bytes / 2**30:.2f} GiB "
    "with the corpus; a job holds its models beside it where there is no accelerator."
  )
  return told


def duration(seconds: float) -> str:
  """As a person says it.

  >>> duration(42), duration(600), duration(9000)
  ('42 s', '10 min', '2.5 h')
  """
  if seconds < 120:
    return f"{seconds:.0f} s"
  if seconds < 7200:
    return f"{seconds / 60:.0f} min"
  return f"{seconds / 3600:.1f} h"
