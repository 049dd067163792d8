"""Two processes of four simulated devices find what one process of eight does."""

import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax import processes, sharding
from cmtree_jax.data import lease, mirror
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.jobs import workdir as workdirs
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import optim
from cmtree_jax.proxy.model import ProxyConfig
from cmtree_jax.types import Interrupted, UserError

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
    name: sharding.gather(x).astype(np.float64).ravel().tolist()
    for name, x in (
      ("loss_PS", loss_PS),
      ("outer_loss", unroll.outer_loss),
      ("value", unroll.value),
    )
  }


def agree(number: int, folder: pathlib.Path) -> None:
  """What processes tell each other; every assertion holds on both."""
  file = folder / "by_first"
  assert processes.is_first() == (number == 0)
  found = processes.by_first(lambda: file.write_text(str(number)))
  assert found == (1 if number == 0 else None)
  time.sleep(
    number
  )  # the first would be ahead, and take away what is still read
  assert file.read_text() == "0"
  processes.by_first(file.unlink)
  # On its own the first asks nobody, or it would wait for ever.
  processes.by_first(lambda: processes.by_first(lambda: None))
  assert processes.any_of(number == 1) and not processes.any_of(False)
  assert processes.in_turn(lambda: _append(folder, number)) == number
  assert (folder / "turns").read_text() == "01"
  processes.require_same(lambda: {"a": "x"})
  for refuse, words in (
    (lambda: processes.by_first(_fail), "no space"),
    (lambda: processes.in_turn(lambda: number and _fail()), "no space"),
    (
      lambda: processes.require_same(lambda: {"corpus": f"{number}"}),
      "1, not 0",
    ),
    (lambda: processes.require_one("there are views"), "2 processes, but"),
  ):
    with pytest.raises(UserError, match=words):
      refuse()
  stop = StopFlag()
  stop.raised = number == 1
  with pytest.raises(Interrupted):
    stop.check()


def _append(folder: pathlib.Path, number: int) -> int:
  with (folder / "turns").open("a") as file:
    file.write(str(number))
  return number


def _fail() -> None:
  raise UserError("no space")


def save_and_restore(folder: pathlib.Path) -> None:
  """What is on the mesh of two processes, on the host, and on disk only."""
  mesh = sharding.make_mesh(data=8)
  host = np.arange(16.0, dtype=np.float32)
  state = {
    "mesh": sharding.put(host, mesh, jax.sharding.PartitionSpec(sharding.DATA)),
    "host": np.array(3),
    "local": jnp.ones(2),
  }
  blank = jax.tree.map(lambda x: 0 * x, state)
  with contextlib.closing(Checkpointer(folder / "saved")) as saved:
    assert saved.restore(blank) is None
    saved.array("big", (2,))[0] = 1.0
    saved.save(1, state)
    back = saved.restore(blank)
    assert back is not None
    assert back["mesh"].sharding == state["mesh"].sharding
    for name, x in sharding.gather(back).items():
      np.testing.assert_array_equal(x, sharding.gather(state)[name])


def share_an_address(number: int, folder: pathlib.Path) -> None:
  """Each process has a twin of its own, and the others follow that of the first."""
  os.environ["CMTREE_CACHE"] = str(folder / f"host{number}")
  bucket = folder / "bucket" / "run"
  twin = workdirs.folder(f"file://{bucket}")
  assert twin.is_relative_to(folder / f"host{number}")
  mesh = sharding.make_mesh(data=8)
  spec = jax.sharding.PartitionSpec(sharding.DATA)
  state = {
    "mesh": sharding.put(np.arange(16.0, dtype=np.float32), mesh, spec),
    "host": np.array(3),
  }
  blank = jax.tree.map(lambda x: 0 * x, state)
  with workdirs.held(twin):
    processes.by_first(lambda: (twin / workdirs.MARKER_FILE).write_text("1"))
    processes.by_first(lambda: (twin / "a").write_text("1"))
    assert (twin / "a").read_text() == "1"
    time.sleep(number)
    processes.by_first(lambda: (twin / "a").unlink())
    assert not (twin / "a").exists()
    saved = Checkpointer(twin / "deep" / "saved")
    assert saved.restore(blank) is None
    array = saved.array("big", (2,))
    array[0] = 1.0
    array.flush()
    for step in (1, 2, 3):
      saved.save(step, {**state, "host": np.array(step)})
    assert saved.array("big")[0] == 1.0
    back = saved.restore(blank)
    assert back is not None and int(back["host"]) == 3
    assert back["mesh"].sharding == state["mesh"].sharding
    np.testing.assert_array_equal(
      sharding.gather(back["mesh"]), np.arange(16.0)
    )
    saved.close()
    steps = {p.name for p in (twin / "deep" / "saved").iterdir() if p.is_dir()}
    assert steps == {"2", "3"}
  # As other hosts find it, of which none has been there.
  processes.by_first(mirror.close)
  mirror.close()
  os.environ["CMTREE_CACHE"] = str(folder / f"other{number}")
  twin = workdirs.folder(f"file://{bucket}")
  with workdirs.held(twin):
    with contextlib.closing(Checkpointer(twin / "deep" / "saved")) as saved:
      back = saved.restore(blank)
      lock = bucket / lease.FILE
      own = processes.by_first(lock.read_text)
      if processes.is_first():
        lock.write_text("{}")
      with pytest.raises(UserError, match="the lock of this job"):
        saved.save(4, state)  # what fails on the first is told to all
      if own:
        lock.write_text(own)
    assert back is not None and int(back["host"]) == 3
    np.testing.assert_array_equal(
      sharding.gather(back["mesh"]), np.arange(16.0)
    )
  processes.by_first(mirror.close)


def main(number: int, port: int, folder: pathlib.Path) -> None:
  """One of the two processes; the first prints."""
  jax.config.update("jax_num_cpu_devices", 4)
  jax.distributed.initialize(f"localhost:{port}", 2, number)
  assert jax.device_count() == 8 and jax.local_device_count() == 4
  agree(number, folder)
  save_and_restore(folder)
  share_an_address(number, folder)
  found = digest_of_an_unroll()
  if number == 0:
    print(json.dumps(found))


@pytest.mark.slow
def test_two_processes_find_the_same(tmp_path):
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, __file__, str(number), str(port), str(tmp_path)],
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
  results = [one.communicate(timeout=300) for one in started]
  for one, (_, errors) in zip(started, results, strict=True):
    assert one.returncode == 0, errors[-2000:]
  found = json.loads(results[0][0].splitlines()[-1])
  for name, expected in digest_of_an_unroll().items():
    np.testing.assert_allclose(
      found[name], expected, atol=1e-5 * np.abs(expected).max(), rtol=1e-5
    )


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), pathlib.Path(sys.argv[3]))
