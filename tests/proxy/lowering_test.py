"""Programs of which only shapes are known are those that the engine runs."""

import jax
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import lowering, optim
from cmtree_jax.proxy.model import ProxyConfig

P, S, C, B, T, V = 2, 3, 2, 4, 6, 16
SIZE = lowering.Size(members=P, steps=S, rows=B, row_tokens=T, chunks=C)


@pytest.fixture(scope="module")
def engine():
  """Divided in all three ways."""
  optimizer = optim.adamw(
    1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-6
  )
  return engines.make(
    ProxyConfig(vocab_size=V, width=8, layers=1, heads=2),
    optimizer,
    mesh=sharding.make_mesh(population=2, data=2, model=2),
    estimator="one_step",
  )


@pytest.mark.parametrize("name", lowering.PROGRAMS)
def test_every_function_is_lowered_for_shapes(engine, name):
  lowered = lowering.lower(engine, name, SIZE)
  assert f"@jit_{name}" in lowered.as_text()


def test_every_function_of_the_engine_has_its_arguments(engine):
  programs = {
    name
    for name, one in engine._asdict().items()
    if isinstance(one, engines.Program)
  }
  assert programs == set(lowering.PROGRAMS)


def test_the_lowered_program_is_the_one_that_runs(engine):
  tokens = np.random.default_rng(0).integers(0, V, (C, B, T + 1))
  tokens, zeros = tokens.astype(np.int32), np.zeros((C, B, T), np.int32)
  rows = Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)
  params = engine.init(jax.random.split(jax.random.key(0), P)).params
  compiled = lowering.lower(engine, "losses", SIZE).compile()
  placed = sharding.put(rows, engine.mesh, engines.CHUNKS)
  # It refuses arrays of other shapes or in other places than it was made for.
  found = compiled(params, placed)
  np.testing.assert_array_equal(found, engine.losses(params, rows))


def test_unknown_functions_are_told(engine):
  with pytest.raises(ValueError, match="'trains'.*init, reset, train"):
    lowering.lower(engine, "trains", SIZE)
