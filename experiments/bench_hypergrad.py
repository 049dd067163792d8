"""What hypergradients cost and how exact they are, against the naive ways.

    python -m experiments.bench_hypergrad [--json F] [--figure F] [--quick]

For every optimizer, number of inner steps K and variant: matrix FLOPs and wall time
as multiples of the plain inner steps (interleaved in one process, median of the
ratios), compiled temporary memory and peak resident memory; for approximations the
cosine and relative error against the exact derivative with respect to every
document's weight, from a fresh and from a warm proxy. A variant that needs more than
`--memory-limit` is compiled and counted, not run. An hour or two on two CPU cores;
`--quick`, K = 4 and one optimizer, takes some minutes. On a GPU:
`--preset 125m --dtype bfloat16 --rows 64 --row-tokens 1024`.
"""

import argparse
import json
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console

from cmtree_jax.bilevel import HYPERGRADS, problem, training
from cmtree_jax.bilevel.problem import Hypergradient, Inner, InnerLoss, Problem
from cmtree_jax.data.build.tokenizer import ByteTokenizer
from cmtree_jax.data.corpora import stdlib_corpus
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model, optim
from experiments import hlo
from experiments.hypergrad_rows import WARM, Row, draw, table

FRESH = 30  # age of the proxy, steps

OPTIMIZERS: dict[str, Callable[[], optax.GradientTransformation]] = {
  "adamw": lambda: optim.adamw(
    3e-3, warmup_steps=20, total_steps=None, weight_decay=0.01, eps_root=1e-8
  ),
  "momentum": lambda: optax.sgd(0.1, momentum=0.9),
}

# Few terms: each is a Hessian product over all K batches.
APPROXIMATIONS: dict[str, dict[str, Any]] = {
  "difference": {},
  "first_order": {},
  "truncated": {"window": 4},
  "one_step": {},
  "neumann": {"terms": 4},
  "cg": {"iterations": 4},
}


# They cost a multiple of K gradients of the outer loss, or of K Hessian products.
_LARGEST_K = {"one_step": 16, "neumann": 4, "cg": 4}


class Case(NamedTuple):
  """What is differentiated; all variants get (weight_SB, phi, batches, outer)."""

  losses: Callable[[Any, Batch], jax.Array]
  outer_loss: Callable[[Any, Batch], jax.Array]
  optimizer: optax.GradientTransformation


def main() -> None:
  """Reads the flags, measures, and writes table, figure and JSON."""
  args = _flags()
  console = Console(width=150)
  rows: list[Row] = []
  for row in measure(args, console):
    rows.append(row)
    if args.json:
      Path(args.json).write_text(
        json.dumps([one._asdict() for one in rows], indent=1) + "\n"
      )
  console.print(table(rows))
  draw(rows, Path(args.figure))
  console.print(f"Figure: {args.figure}")


def _flags():
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )
  parser.add_argument("--json", help="file for the rows")
  parser.add_argument("--figure", default="bench_hypergrad.svg")
  parser.add_argument("--quick", action="store_true", help="K=4, AdamW")
  parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64])
  parser.add_argument(
    "--optimizers", nargs="+", default=list(OPTIMIZERS), choices=OPTIMIZERS
  )
  parser.add_argument("--variants", nargs="+", help="only these")
  parser.add_argument("--preset", default="prototype")
  parser.add_argument("--vocab", type=int, default=1024)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--rows", type=int, default=16)
  parser.add_argument("--row-tokens", type=int, default=128)
  parser.add_argument(
    "--outer-rows", type=int, default=2, help="few: inner steps are measured"
  )
  parser.add_argument("--repeats", type=int, default=5, help="at K=4")
  parser.add_argument(
    "--memory-limit", type=float, default=12e9, help="bytes of temporaries"
  )
  args = parser.parse_args()
  if args.quick:
    args.steps, args.optimizers = args.steps[:1], args.optimizers[:1]
  return args


def measure(args: argparse.Namespace, console: Console) -> Iterator[Row]:
  """Rows as they are measured."""
  if args.preset == "prototype":
    shape: dict[str, Any] = dict(width=128, layers=4, heads=4)
  else:
    shape = model.PRESETS[args.preset]
  config = model.ProxyConfig(vocab_size=args.vocab, dtype=args.dtype, **shape)
  proxy = model.Proxy(config)
  token_losses = proxy_loss.token_losses(proxy)
  losses = lambda params, batch: jnp.mean(  # noqa: E731
    token_losses(params, batch), axis=1
  )
  outer_loss = lambda params, batch: jnp.mean(  # noqa: E731
    losses(params, batch)
  )
  draw_rows, outer = text_rows(args)
  rate = matrix_rate(args.dtype)
  console.print(
    f"{config.num_parameters:,} parameters, {args.rows} rows of "
    f"{args.row_tokens} tokens; {_device()}: {rate / 1e12:.3f} TFLOP/s in "
    f"{args.dtype} matrix products"
  )
  for name in args.optimizers:
    optimizer = OPTIMIZERS[name]()
    case = Case(losses, outer_loss, optimizer)
    step = jax.jit(
      lambda phi, batch, case=case: training.train(
        case.losses,
        jnp.full((1, args.rows), 1 / args.rows),
        phi,
        batch,
        optimizer=case.optimizer,
      )[0]
    )
    phi = problem.init_inner(
      proxy_loss.init(proxy, jax.random.key(0)), optimizer
    )
    ages = {}
    for age in range(1, WARM + 1):
      phi = step(phi, draw_rows(1))
      if age in (FRESH, WARM):
        ages[age] = phi
    loss = float(outer_loss(phi.params, outer))
    console.print(f"{name}: {loss:.3f} nats after {WARM} steps")
    for steps in args.steps:
      batches = draw_rows(steps)
      yield from measure_case(
        case, name, args, ages=ages, batches=batches, outer=outer, rate=rate
      )
      console.print(f"{name}, K={steps}: measured")


def measure_case(
  case: Case,
  optimizer: str,
  args: argparse.Namespace,
  *,
  ages: dict[int, Inner],
  batches: Batch,
  outer: Batch,
  rate: float,
) -> Iterator[Row]:
  """All variants at one K; timed from the warm proxy."""
  steps = batches.tokens_BT.shape[0]
  weight_SB = jnp.full((steps, args.rows), 1 / args.rows)
  wanted = lambda name: not args.variants or name in args.variants  # noqa: E731
  programs = {
    name: run
    for name, run in variants(case, steps).items()
    if name in ("plain", "unrolled_tape") or wanted(name)
  }
  warm = weight_SB, ages[WARM], batches, outer
  compiled, seconds, work = {}, {}, {}
  for name, run in programs.items():
    begin = time.perf_counter()
    compiled[name] = jax.jit(run).lower(*warm).compile()
    seconds[name] = time.perf_counter() - begin
    work[name] = _flops(run, compiled[name], warm)
  size = {
    name: one.memory_analysis().temp_size_in_bytes
    for name, one in compiled.items()
  }
  runnable = {
    n: one for n, one in compiled.items() if size[n] < args.memory_limit
  }
  repeats = max(1, args.repeats * 4 // steps)
  timing = time_interleaved(runnable, warm, repeats)

  def derivative(name, age):
    if age == WARM:
      return timing.result[name].grad_theta
    return runnable[name](weight_SB, ages[age], batches, outer).grad_theta

  exact = {age: derivative("unrolled_tape", age) for age in ages}
  for name in programs:
    wall = timing.multiple.get(name)
    took = timing.plain_seconds * wall if wall else None
    row = Row(
      variant=name,
      optimizer=optimizer,
      K=steps,
      age=WARM,
      flops=work[name],
      flops_multiple=work[name] and work[name] / work["plain"],
      wall_multiple=wall,
      temp_bytes=size[name],
      peak_rss_bytes=timing.peak_bytes.get(name),
      compile_seconds=seconds[name],
      utilization=work[name] and took and work[name] / took / rate,
      cosine=None,
      relative_error=None,
      device=_device(),
    )
    if name in APPROXIMATIONS and name in runnable:
      for age in ages:
        cosine, error = closeness(derivative(name, age), exact[age])
        yield row._replace(age=age, cosine=cosine, relative_error=error)
    else:
      yield row


def variants(case: Case, steps: int) -> dict[str, Callable[..., Any]]:
  """Every program by name; all give a Hypergradient but `plain`."""

  def plain(weight_SB, phi, batches, outer):
    del outer
    return training.train(
      case.losses, weight_SB, phi, batches, optimizer=case.optimizer
    )[0]

  def reverse(wrap):
    """`jax.grad` of a scan over steps written with `jax.grad`."""

    def run(weight_SB, phi, batches, outer):
      def objective(weight_SB):
        @wrap
        def step(phi, xs):
          weight_B, batch = xs
          gradient = jax.grad(
            lambda params: jnp.sum(weight_B * case.losses(params, batch))
          )(phi.params)
          update, state = case.optimizer.update(
            gradient, phi.opt_state, phi.params
          )
          return Inner(optax.apply_updates(phi.params, update), state), None

        phi_next, _ = jax.lax.scan(step, phi, (weight_SB, batches))
        return case.outer_loss(phi_next.params, outer), phi_next

      (loss, phi_next), grad = jax.value_and_grad(objective, has_aux=True)(
        weight_SB
      )
      return Hypergradient(loss, grad, phi_next, None, None)

    return run

  def estimator(name, **options):
    def run(weight_SB, phi, batches, outer):
      inner_loss = InnerLoss(case.losses, lambda theta_SB, _: theta_SB)
      return HYPERGRADS[name].run(
        Problem(case.outer_loss, inner_loss, weight_SB, phi, batches, outer),
        optimizer=case.optimizer,
        **options,
      )

    return run

  found = {
    "plain": plain,
    "naive": reverse(lambda step: step),
    "checkpoint": reverse(jax.checkpoint),
  }
  for policy in ("none", "steps", "tape", "sqrt"):
    if steps <= 16 or policy in ("tape", "sqrt"):
      found[f"unrolled_{policy}"] = estimator("unrolled", policy=policy)
  for name, options in APPROXIMATIONS.items():
    if steps <= _LARGEST_K.get(name, steps):
      found[name] = estimator(name, **options)
  return found


class Timing(NamedTuple):
  """What running the programs of one case showed."""

  multiple: dict[str, float]  # of plain's time, median over repeats
  plain_seconds: float
  peak_bytes: dict[str, int]
  result: dict[str, Any]


def time_interleaved(
  compiled: dict[str, Any], args: tuple[Any, ...], repeats: int
) -> Timing:
  """Times every program between two runs of `plain`."""

  def seconds(name):
    begin = time.perf_counter()
    result = jax.block_until_ready(compiled[name](*args))
    return time.perf_counter() - begin, result

  ratios: dict[str, list[float]] = {name: [] for name in compiled}
  plains, peaks, results = [], {}, {}
  seconds("plain")  # the first run of a process pays for pages and threads
  for _ in range(repeats):
    before, _ = seconds("plain")
    for name in compiled:
      with PeakMemory() as peak:
        took, results[name] = seconds(name)
      after, _ = seconds("plain")
      ratios[name].append(2 * took / (before + after))
      plains.append(after)
      peaks[name] = max(peaks.get(name, 0), peak.bytes)
      before = after
  medians = {name: statistics.median(one) for name, one in ratios.items()}
  return Timing(medians, statistics.median(plains), peaks, results)


class PeakMemory:
  """The highest resident memory of this process while it is entered.

  On an accelerator, the highest of its allocator since the process began.
  """

  def __enter__(self):
    self.bytes, self._done = 0, threading.Event()
    self._thread = threading.Thread(target=self._watch, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *_):
    self._done.set()
    self._thread.join()
    stats = jax.devices()[0].memory_stats()
    if stats:
      self.bytes = stats["peak_bytes_in_use"]

  def _watch(self):
    page = os.sysconf("SC_PAGESIZE")
    while not self._done.wait(0.01):
      resident = int(Path("/proc/self/statm").read_text().split()[1])
      self.bytes = max(self.bytes, resident * page)


def closeness(found: jax.Array, exact: jax.Array) -> tuple[float, float]:
  """(cosine, relative error) of two derivatives."""
  found_N = np.asarray(found, np.float64).ravel()
  exact_N = np.asarray(exact, np.float64).ravel()
  size = np.linalg.norm(exact_N)
  cosine = found_N @ exact_N / (np.linalg.norm(found_N) * size)
  return float(cosine), float(np.linalg.norm(found_N - exact_N) / size)


def text_rows(
  args: argparse.Namespace,
) -> tuple[Callable[[int], Batch], Batch]:
  """Bytes of the standard library: (draw of K batches, outer batch of its manual)."""
  corpus, row_tokens = stdlib_corpus.read(), args.row_tokens
  rng = np.random.default_rng(0)

  def starts(texts):
    encoded = ByteTokenizer().encode_batch(texts)
    long = [ids[: row_tokens + 1] for ids in encoded if len(ids) > row_tokens]
    return np.stack(long).astype(np.int32)

  pool = starts([document.text for document in corpus.documents])
  target = starts(corpus.targets["python_topics"].train)

  def batch(tokens):
    zeros = np.zeros((*tokens.shape[:-1], row_tokens), np.int32)
    return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)

  def draw(steps):
    return batch(pool[rng.integers(0, len(pool), (steps, args.rows))])

  return draw, batch(target[rng.integers(0, len(target), args.outer_rows)])


def matrix_rate(dtype: str, size: int = 2048) -> float:
  """FLOP/s of the device in a large matrix product, the best of some."""
  x = jnp.ones((size, size), dtype)
  multiply = jax.jit(jnp.matmul)
  jax.block_until_ready(multiply(x, x))
  best = 0.0
  for _ in range(5):
    begin = time.perf_counter()
    y = x
    for _ in range(4):
      y = multiply(x, y)
    jax.block_until_ready(y)
    best = max(best, 8.0 * size**3 / (time.perf_counter() - begin))
  return best


def _flops(run, compiled, args) -> float | None:
  """From the program itself; off the CPU products hide in library calls."""
  if jax.default_backend() != "cpu":
    with jax.default_device(jax.devices("cpu")[0]):
      compiled = jax.jit(run).lower(*jax.device_get(args)).compile()
  try:
    return hlo.count(compiled).flops
  except ValueError:  # conjugate gradients stop when they have converged
    return None


def _device() -> str:
  device = jax.devices()[0]
  cores = f" x {os.cpu_count()}" if device.platform == "cpu" else ""
  return f"{device.device_kind}{cores}"


if __name__ == "__main__":
  main()
