"""How fast this machine trains a model, and what its compiler says of memory."""

import time
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax.data.build.prepare import Prepared
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.jobs import build
from cmtree_jax.jobs.job import Job
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import lowering
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import GRADIENT

_SECONDS, _FEWEST = 1.0, 3  # of steps that are timed, after one that compiles


def rate(job: Job, data: Prepared, preset: str) -> float:
  """FLOPs per second of training one model of a size, step by step."""
  config = job.config
  proxy = build.proxy_of(preset, config, data.vocab_size)
  made = engines.make(
    proxy,
    build.optimizer_of(config, total_steps=None),
    mesh=build.final_mesh(config),
  )
  rows, tokens = config.batch.rows, config.batch.row_tokens
  phi = made.init(jax.random.split(jax.random.key(0), 1))
  zeros = np.zeros((1, 1, rows, tokens), np.int32)
  weight = np.ones(zeros.shape, np.float32)
  times: list[float] = []
  while len(times) <= _FEWEST or sum(times[1:]) < _SECONDS:
    begin = time.perf_counter()
    phi, loss = made.train(phi, Batch(*[zeros] * 4), weight, np.ones(1, bool))
    jax.block_until_ready(loss)
    times.append(time.perf_counter() - begin)
  work = rows * tokens * GRADIENT * proxy.flops_per_token(tokens)
  return work / float(np.median(times[1:]))


class Program(NamedTuple):
  """One of the programs of a job."""

  what: str  # for a person
  engine: Engine
  name: str  # in `lowering.PROGRAMS`
  size: lowering.Size


def device_bytes(program: Program) -> int:
  """What it holds on each device, as the compiler has planned it."""
  lowered = lowering.lower(program.engine, program.name, program.size)
  memory: Any = lowered.compile().memory_analysis()
  given = memory.alias_size_in_bytes  # results that take over an argument's
  return (
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    + memory.temp_size_in_bytes
    - given
  )
