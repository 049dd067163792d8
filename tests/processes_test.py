"""Two processes of four simulated devices find what one process of eight does."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import ProxyConfig

ROOT = pathlib.Path(__file__).parents[1]
P, S, B, T, V = 2, 4, 4, 8, 32


def digest_of_an_unroll() -> dict[str, list[float]]:
  """Trains a population of two, then an unroll; numbers that all processes hold."""
  mesh = sharding.make_mesh(population=2, data=2, model=2)
  rng = np.random.default_rng(0)

  def rows(*shape):
    tokens = rng.integers(0, V, (*shape, T + 1)).astype(np.int32)
    zeros = np.zeros((*shape, T), np.int32)
    return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)

  def ones(*shape):
    return np.ones((*shape, T), np.float32)

  engine = engines.make(
    ProxyConfig(vocab_size=V, width=16, layers=1, heads=2),
    optim.adamw(
      1e-2, warmup_steps=2, total_steps=None, weight_decay=0.0, eps_root=1e-6
    ),
    mesh=mesh,
  )
  phi = engine.init(jax.random.split(jax.random.key(0), P))
  phi, loss_PS = engine.train(
    phi, rows(P, S, B), ones(P, S, B), np.array([True, True])
  )
  unroll = engine.unroll(
    phi, rows(P, S, B), ones(P, S, B), (rows(P, 2, B), ones(P, 2, B) / B / T)
  )
  return {
    "loss_PS": _whole(loss_PS),
    "outer_loss": _whole(unroll.outer_loss),
    "value": _whole(unroll.value),
  }


def _whole(x) -> list[float]:
  from jax.experimental import multihost_utils

  if jax.process_count() > 1:
    x = multihost_utils.process_allgather(x, tiled=True)
  return np.asarray(x, np.float64).ravel().tolist()


def main(number: int, port: int) -> None:
  """One of the two processes; the first prints."""
  jax.config.update("jax_num_cpu_devices", 4)
  jax.distributed.initialize(f"localhost:{port}", 2, number)
  assert jax.device_count() == 8 and jax.local_device_count() == 4
  found = digest_of_an_unroll()
  if number == 0:
    print(json.dumps(found))


@pytest.mark.slow
def test_two_processes_find_the_same():
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  processes = [
    subprocess.Popen(
      [sys.executable, __file__, str(number), str(port)],
      cwd=ROOT,
      env={
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        # Only the first process would find its programs there; the other compiles
        # for longer than the first waits for it.
        "JAX_ENABLE_COMPILATION_CACHE": "false",
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for number in range(2)
  ]
  results = [one.communicate(timeout=300) for one in processes]
  for one, (_, errors) in zip(processes, results, strict=True):
    assert one.returncode == 0, errors[-2000:]
  found = json.loads(results[0][0].splitlines()[-1])
  for name, expected in digest_of_an_unroll().items():
    np.testing.assert_allclose(
      found[name], expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5
    )


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]))
