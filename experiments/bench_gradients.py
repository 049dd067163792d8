"""What gradients of single documents cost, against a batch's of the same documents.

    python -m experiments.bench_gradients [--json F] [--documents N] [--preset NAME]

The batch's gradient reads the documents packed as in training, one gradient in all; the
others read them one by one, and take the norm, or a sketch in Adam's form. Of each:
wall time (interleaved in one process, median of the ratios), matrix FLOPs counted in
the compiled programs, compiled temporary memory, and how many of the tokens that are
computed are padding. A minute on two CPU cores; on a GPU:
`--preset 60m --dtype bfloat16 --vocab 4096 --row-tokens 512 --lanes 16 --size 8192`.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from cmtree_jax.data.build.tokenizer import ByteTokenizer
from cmtree_jax.data.corpora import stdlib_corpus
from cmtree_jax.data.draw import packing
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model, optim
from cmtree_jax.signals import single
from experiments import hlo

_KEY = 0  # of the signs


class Row(NamedTuple):
  """One line of the table and of the JSON file."""

  what: str
  seconds: float
  wall_multiple: float  # of the batch's
  flops: float
  flops_multiple: float
  temp_bytes: int
  padding: float  # share of the tokens that are computed
  device: str


class Way(NamedTuple):
  """One way to read the documents."""

  run: Callable[[], Any]
  flops: float
  temp_bytes: int
  tokens: float  # that are computed


def main(argv: list[str] | None = None) -> list[Row]:
  """Reads the flags, measures, and writes the table and JSON."""
  args = _flags(argv)
  rows = measure(args)
  if args.json:
    Path(args.json).write_text(
      json.dumps([one._asdict() for one in rows], indent=1) + "\n"
    )
  Console(width=120).print(table(rows))
  return rows


def _flags(argv):
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--json", help="file for the rows")
  parser.add_argument("--preset", default="0.4m")
  parser.add_argument("--vocab", type=int, default=2048)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--documents", type=int, default=512)
  parser.add_argument("--longest", type=int, default=600, help="tokens")
  parser.add_argument("--row-tokens", type=int, default=64)
  parser.add_argument(
    "--lanes", type=int, default=16, help="and rows of a batch"
  )
  parser.add_argument("--size", type=int, default=256, help="of a sketch")
  parser.add_argument("--repeats", type=int, default=5)
  return parser.parse_args(argv)


def measure(args: argparse.Namespace) -> list[Row]:
  """All ways, the batch's first."""
  config = model.from_preset(
    args.preset, vocab_size=args.vocab, dtype=args.dtype
  )
  engine = engines.make(
    config,
    optim.adamw(
      1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-8
    ),
  )
  phi = engine.init(jax.random.key(0)[None])
  tokens = documents(args.documents, args.longest)
  source = single.Source(
    engine,
    phi,
    tokens,
    args.row_tokens,
    args.lanes,
    config.flops_per_token(args.row_tokens),
  )
  ways = {
    "one batch": _batch(source),
    "each: norm": _each(source, single.Norm()),
    "each: sketch": _each(source, single.Sketch("adam", args.size)),
  }
  seconds = time_interleaved([way.run for way in ways.values()], args.repeats)
  first = next(iter(ways.values()))
  return [
    Row(
      name,
      statistics.median(mine),
      statistics.median(a / b for a, b in zip(mine, seconds[0], strict=True)),
      way.flops,
      way.flops / first.flops,
      way.temp_bytes,
      1 - float(tokens.pairs_N.sum()) / way.tokens,
      jax.devices()[0].device_kind,
    )
    for (name, way), mine in zip(ways.items(), seconds, strict=True)
  ]


def documents(count: int, longest: int) -> packing.TokenStore:
  """Modules of the standard library as bytes; lengths as good as uniform."""
  texts = [one.text for one in stdlib_corpus.read().documents]
  rng = np.random.default_rng(0)
  encoded = [
    ids[: int(rng.integers(16, longest))]
    for ids in ByteTokenizer().encode_batch(texts[:count])
  ]
  encoded = [np.asarray(ids) for ids in encoded]
  return packing.store(encoded, [len(ids) for ids in encoded], end_of_text=0)


def _batch(source: single.Source) -> Way:
  """The gradient of the mean loss of all documents, packed as in training."""
  tokens = source.tokens
  pieces = packing.pieces(tokens, source.row_tokens)
  rows = -(-int(tokens.pairs_N.sum()) // source.row_tokens)
  rows += -rows % source.lanes
  packed = packing.pack(
    tokens, pieces, np.arange(len(pieces.document)), num_rows=rows
  )
  batches = Batch(
    *(x.reshape(-1, source.lanes, source.row_tokens) for x in packed)
  )
  weight = np.float32(batches.document_BT >= 0) / tokens.pairs_N.sum()
  total = proxy_loss.sum_over_chunks(
    proxy_loss.token_losses(source.engine.proxy)
  )
  params = jax.tree.map(lambda x: x[0], source.phi.params)
  compiled = jax.jit(jax.grad(total)).lower(params, (batches, weight)).compile()
  return Way(
    lambda: jax.block_until_ready(compiled(params, (batches, weight))),
    hlo.count(compiled).flops,
    compiled.memory_analysis().temp_size_in_bytes,
    weight.size,
  )


def _each(source: single.Source, reads: Any) -> Way:
  """Documents one by one."""
  number = np.arange(len(source.tokens.pairs_N))
  more = [jax.random.key(_KEY)] * reads.more
  losses = proxy_loss.token_losses(source.engine.proxy)
  phi = jax.tree.map(lambda x: x[0], source.phi)
  lanes = jax.tree.map(
    lambda x: np.zeros((source.lanes, *x.shape), x.dtype), phi.params
  )
  flops, tokens, temp, known = 0.0, 0, 0, {}
  for call in single.calls(source, number):
    width = call.weight_SDW.shape[2]
    if width not in known:
      known[width] = [
        jax.jit(functools.partial(single.steps, losses, one))
        .lower(phi, lanes, call.batch, call.weight_SDW, call.stage_S, *given)
        .compile()
        for one, given in ((single.Norm(), []), (reads, more))
      ]
    gradients, whole = (hlo.count(one).flops for one in known[width])
    # Gradients are taken while there are pieces, and read where they are whole.
    busy, read = (call.stage_S > 0).mean(), (call.stage_S == 2).mean()
    flops += gradients * busy + (whole - gradients) * read
    tokens += call.weight_SDW.size * busy
    temp = max(temp, known[width][1].memory_analysis().temp_size_in_bytes)

  def run():
    if isinstance(reads, single.Norm):
      return single.norms(source, number)
    return single.sketched(
      source, number, form=reads.form, size=reads.size, key=more[0]
    )

  return Way(run, flops, temp, tokens)


def time_interleaved(
  runs: list[Callable[[], Any]], repeats: int
) -> list[list[float]]:
  """Seconds of every run, in turns; the first turn compiles and is not counted."""
  found: list[list[float]] = [[] for _ in runs]
  for turn in range(repeats + 1):
    for mine, run in zip(found, runs, strict=True):
      begin = time.perf_counter()
      run()
      if turn:
        mine.append(time.perf_counter() - begin)
  return found


def table(rows: list[Row]) -> Table:
  """The rows for a terminal."""
  found = Table(title=f"Gradients of the same documents, {rows[0].device}")
  for name in ("", "seconds", "time", "FLOPs", "temporary", "padding"):
    found.add_column(name, justify="right" if name else "left")
  for row in rows:
    found.add_row(
      row.what,
      f"{row.seconds:.2f}",
      f"{row.wall_multiple:.2f}",
      f"{row.flops_multiple:.2f}",
      f"{row.temp_bytes / 1e6:,.0f} MB",
      f"{row.padding:.0%}",
    )
  return found


if __name__ == "__main__":
  main()
