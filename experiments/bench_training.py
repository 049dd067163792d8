"""How fast a model trains beside other people's, on one core.

    python -m experiments.bench_training [--sizes 0.3m 4m 25m] [--json F] [--figure F]

Tokens per second of processor time, in float32, of the package's own training step
and of two small code bases of the same depth, width, heads and vocabulary
(`training_rivals`), beside the rate of plain matrix products in the library of each:
where these differ, that and not the model's code is what a machine is faster by. Every
form is a process of its own on the same core, and they take turns, so that ratios hold
where the machine is noisy. PyTorch's forms need `pip install torch`, and
`torch.compile` a C++ compiler; without them they are left out, and said to be. Ten
minutes.
"""

import argparse
import functools
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import model, optim
from cmtree_jax.proxy.model import ProxyConfig
from experiments import training_rivals

VOCABULARY = 4096
# Rows and tokens of a row, by size.
SHAPES = {"0.3m": (16, 64), "1m": (16, 128), "4m": (16, 256), "25m": (8, 256)}
_STEPS = 8  # of one call of ours, as the loops make them
_TURN = 2.0  # seconds of processor time, at least, that a form has in its turn


class Row(NamedTuple):
  """One form at one size."""

  size: str
  form: str
  tokens_per_second: float  # of processor time, median over turns
  relative: float  # to ours, median over turns
  share: float  # of its library's rate of plain matrix products


def main() -> None:
  """Reads the flags, measures, and writes table, figure and JSON."""
  args = _flags()
  console = Console(width=110)
  rows: list[Row] = []
  for size in args.sizes:
    rows += measure(size, args.turns, args.core, console.print)
  console.print(table(rows))
  if args.json:
    told = [one._asdict() for one in rows]
    Path(args.json).write_text(json.dumps(told, indent=1) + "\n")
  draw(rows, Path(args.figure))
  console.print(f"Figure: {args.figure}")


def _flags():
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--sizes", nargs="+", default=["0.3m", "4m", "25m"])
  parser.add_argument("--turns", type=int, default=7)
  parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
  parser.add_argument("--json", help="file for the rows")
  parser.add_argument("--figure", default="bench_training.svg")
  args = parser.parse_args()
  for size in args.sizes:
    if size not in SHAPES:
      parser.error(f"--sizes: wanted of {', '.join(SHAPES)}, came {size!r}.")
  return args


def config_of(size: str) -> ProxyConfig:
  """The model of a size."""
  return model.from_preset(size, vocab_size=VOCABULARY)


def flops_per_token(size: str) -> float:
  """Matrix FLOPs of a training step per token: three forward passes.

  Attention counts the earlier tokens only, which are half of a row.
  """
  _, length = SHAPES[size]
  return 3 * config_of(size).flops_per_token(length // 2)


def measure(
  size: str, turns: int, core: int, say: Callable[[str], None]
) -> list[Row]:
  """The rows of a size."""
  context = multiprocessing.get_context("spawn")
  waiting: dict[str, Connection] = {}
  for name in [OURS, *RIVALS, *PRODUCTS]:
    mine, its = context.Pipe()
    context.Process(
      target=_serve, args=(name, size, core, its), daemon=True
    ).start()
    its.close()
    problem = mine.recv()  # compiled, one at a time
    if problem:
      say(f"{size}: no {name}: {problem}")
    else:
      waiting[name] = mine
  rates: dict[str, list[float]] = {name: [] for name in waiting}
  for _ in range(turns):
    for name, pipe in waiting.items():
      pipe.send(True)
      rates[name].append(pipe.recv())
  for pipe in waiting.values():
    pipe.send(False)
  work = flops_per_token(size)
  return [
    Row(
      size,
      name,
      statistics.median(found),
      _ratio(found, rates[OURS]),
      work * _ratio(found, rates[_products_of(name)]),
    )
    for name, found in rates.items()
    if name not in PRODUCTS
  ]


def _ratio(one: list[float], other: list[float]) -> float:
  return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _products_of(name: str) -> str:
  return TORCH if "nanoGPT" in name else XLA


def _serve(name: str, size: str, core: int, pipe: Connection) -> None:
  """A process: makes a form, then measures it whenever it is asked."""
  os.sched_setaffinity(0, {core})
  try:
    if name in PRODUCTS:
      work, amount = PRODUCTS[name]()
    elif name == OURS:
      work, amount = ours(size)
    else:
      work, amount = rival(size, RIVALS[name])
    work()
  except Exception as error:  # told where it can be seen
    pipe.send(f"{type(error).__name__}: {str(error).splitlines()[0]}")
    return
  pipe.send("")
  while pipe.recv():
    done, begin = 0, time.process_time()
    while time.process_time() - begin < _TURN:
      work()
      done += amount
    pipe.send(done / (time.process_time() - begin))


def ours(size: str):
  """Steps of the package's own engine."""
  rows, length = SHAPES[size]
  optimizer = optim.adamw(
    3e-3, warmup_steps=20, total_steps=None, weight_decay=0.01, eps_root=1e-8
  )
  engine = engines.make(config_of(size), optimizer)
  phi = engine.init(jax.random.split(jax.random.key(0), 1))
  tokens_SBT = _tokens(size).reshape(1, _STEPS, rows, length + 1)
  tokens, labels = tokens_SBT[..., :-1], tokens_SBT[..., 1:]
  zeros = np.zeros_like(tokens)
  batches = Batch(tokens, labels, zeros, zeros)
  weight = np.ones(tokens.shape, np.float32)

  def work():
    nonlocal phi
    phi, loss = engine.train(phi, batches, weight, np.array([True]))
    jax.block_until_ready(loss)

  return work, tokens.size


def rival(size: str, make: Callable[..., training_rivals.Step]):
  """Steps of somebody else's decoder."""
  rows, length = SHAPES[size]
  step = make(config_of(size), length)
  tokens_SBT = _tokens(size)

  def work():
    for tokens_BT in tokens_SBT:
      step(tokens_BT)

  return work, _STEPS * rows * length


def _tokens(size: str) -> np.ndarray:
  rows, length = SHAPES[size]
  rng = np.random.default_rng(0)
  return rng.integers(0, VOCABULARY, (_STEPS, rows, length + 1), np.int32)


_SIDE = 1024


def xla_products():
  """Products of square matrices by XLA."""
  x = jax.random.normal(jax.random.key(0), (_SIDE, _SIDE))
  multiply = jax.jit(jnp.matmul)
  return lambda: jax.block_until_ready(multiply(x, x)), 2 * _SIDE**3


def torch_products():
  """The same by PyTorch."""
  import torch

  torch.set_num_threads(1)
  x = torch.randn(_SIDE, _SIDE)
  return lambda: x @ x, 2 * _SIDE**3


OURS, XLA, TORCH = "cmtree_jax", "XLA", "PyTorch"
PRODUCTS = {XLA: xla_products, TORCH: torch_products}
RIVALS: dict[str, Callable[..., training_rivals.Step]] = {
  "nanoGPT, eager": functools.partial(
    training_rivals.torch_gpt, compiled=False
  ),
  "nanoGPT, compiled": functools.partial(
    training_rivals.torch_gpt, compiled=True
  ),
  "nanodo": training_rivals.flax_decoder,
}


def table(rows: list[Row]) -> Table:
  """For people."""
  found = Table("size", "form", "tokens / s", "of ours", "of products")
  for one in rows:
    found.add_row(
      one.size,
      one.form,
      f"{one.tokens_per_second:,.0f}",
      f"{one.relative:.2f}",
      f"{one.share:.0%}",
    )
  return found


def draw(rows: list[Row], path: Path) -> None:
  """Share of the rate of matrix products by size, a line for every form."""
  import matplotlib

  matplotlib.use("agg")
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
  for form in dict.fromkeys(one.form for one in rows):
    found = [one for one in rows if one.form == form]
    sizes = [config_of(one.size).num_parameters for one in found]
    axes.plot(sizes, [one.share for one in found], "o-", label=form)
  axes.set(
    xscale="log",
    ylim=(0, 1),
    xlabel="parameters",
    ylabel="share of its library's rate of matrix products",
  )
  axes.legend()
  figure.savefig(path)
  pyplot.close(figure)


if __name__ == "__main__":
  main()
