"""One program on eight simulated devices: its numbers, and what it sends around."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from cmtree_jax import sharding
from cmtree_jax.bilevel import (
  HYPERGRADS,
  population,
  problem,
  training,
  unrolled,
)
from cmtree_jax.bilevel.problem import Inner, InnerLoss, Problem
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy import model, optim
from experiments import hlo

S, B, T, V = 8, 16, 8, 64
PROXY = model.Proxy(
  model.ProxyConfig(vocab_size=V, width=32, layers=2, heads=4)
)
LOSSES = proxy_loss.token_losses(PROXY)
OPTIMIZER = optim.adamw(
  1e-2, warmup_steps=2, total_steps=None, weight_decay=0.01, eps_root=1e-6
)
INNER = InnerLoss(
  lambda params, batch: jnp.mean(LOSSES(params, batch), axis=1),
  lambda theta_SB, _: theta_SB,
)
STEPS = PartitionSpec(None, sharding.DATA)
MEMBERS = PartitionSpec(sharding.POPULATION)


def outer_loss(params, batch):
  """A sum over documents, as division among devices asks for."""
  return jnp.sum(LOSSES(params, batch)) / B / T


def rows(rng, *shape):
  tokens = rng.integers(0, V, (*shape, T + 1)).astype(np.int32)
  zeros = np.zeros((*shape, T), np.int32)
  return Batch(tokens[..., :-1], tokens[..., 1:], zeros, zeros)


@pytest.fixture(scope="module")
def arguments() -> tuple[Any, ...]:
  """(theta_SB, phi, inner batches, outer batch) on the host."""
  rng = np.random.default_rng(0)
  phi = problem.init_inner(proxy_loss.init(PROXY, jax.random.key(0)), OPTIMIZER)
  theta_SB = rng.uniform(0.5, 1.5, (S, B)).astype(np.float32) / B
  # Warm, so that float32 is not at the mercy of Adam's first steps.
  warm = rows(rng, S, B)
  phi, _ = jax.jit(
    lambda phi: training.train(
      INNER.losses, theta_SB, phi, warm, optimizer=OPTIMIZER
    )
  )(phi)
  return jax.device_get((theta_SB, phi, rows(rng, S, B), rows(rng, B)))


def hypergradient(mesh):
  def run(theta, phi, batches, outer_batch):
    case = Problem(outer_loss, INNER, theta, phi, batches, outer_batch)
    return unrolled(case, optimizer=OPTIMIZER, mesh=mesh)

  return run


def phi_specs(phi: Inner) -> Inner:
  """Specs of the parameters, and of the states that look like them."""
  return Inner(model.param_specs(phi.params), model.param_specs(phi.opt_state))


def put_all(arguments, mesh):
  theta_SB, phi, batches, outer_batch = arguments
  return (
    sharding.put(theta_SB, mesh, STEPS),
    sharding.put(phi, mesh, phi_specs(phi)),
    sharding.put(batches, mesh, STEPS),
    sharding.put(outer_batch, mesh, PartitionSpec(sharding.DATA)),
  )


def assert_same(found, expected):
  """Float32: to 1e-5 of the largest entry of each array."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      a, b, atol=1e-5 * (1e-30 + np.abs(b).max()), rtol=1e-5
    ),
    jax.device_get(found),
    jax.device_get(expected),
  )


def compile_on(mesh, run, args):
  return jax.jit(run).lower(*args).compile()


@pytest.mark.slow
def test_data_parallel_sums_once_per_gradient(arguments):
  mesh = sharding.make_mesh(data=8)
  args = put_all(arguments, mesh)
  exact = compile_on(mesh, hypergradient(mesh), args)
  found = exact(*args)
  assert_same(found, jax.jit(hypergradient(None))(*arguments))
  # No quantity of a document leaves the device that holds the document.
  assert found.grad_theta.sharding.spec == STEPS
  work = hlo.count(exact)
  assert set(work.collectives) == {"all-reduce"}
  assert work.collectives["all-reduce"] / S <= 2.7

  plain = compile_on(
    mesh,
    lambda theta_SB, phi, batches, _: training.train(
      INNER.losses, theta_SB, phi, batches, optimizer=OPTIMIZER, mesh=mesh
    ),
    args,
  )
  work = hlo.count(plain)
  assert set(work.collectives) == {"all-reduce"}
  assert work.collectives["all-reduce"] / S <= 1.2
  assert_same(plain(*args)[0], found.phi_next)


@pytest.mark.parametrize("name", HYPERGRADS)
def test_every_estimator_is_the_same_on_a_mesh(x64, name):
  # In float64, so that also a difference must agree; a small network compiles fast.
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape)  # noqa: E731

  def losses(params, batch):
    hidden_BH = jnp.tanh(batch[0] @ params["first"])
    return (hidden_BH @ params["second"] - batch[1]) ** 2

  options = {
    "truncated": {"window": 2},
    "neumann": {"terms": 3},
    "cg": {"iterations": 2},
  }
  optimizer = optax.adamw(0.05, eps_root=1e-6)
  phi = problem.init_inner({"first": draw(3, 4), "second": draw(4)}, optimizer)
  theta_B, batches, outer_batch = (
    draw(8),
    (draw(4, 8, 3), draw(4, 8)),
    (draw(16, 3), draw(16)),
  )

  def run(mesh):
    return jax.jit(
      lambda *args: HYPERGRADS[name].run(
        Problem(
          lambda params, batch: jnp.sum(losses(params, batch)),
          InnerLoss(losses, lambda theta_B, _: jnp.tile(theta_B, (4, 1))),
          *args,
        ),
        optimizer=optimizer,
        mesh=mesh,
        **options.get(name, {}),
      )
    )

  mesh = sharding.make_mesh(data=8)
  found = run(mesh)(
    sharding.put(theta_B, mesh, PartitionSpec()),
    sharding.put(phi, mesh, PartitionSpec()),
    sharding.put(batches, mesh, STEPS),
    sharding.put(outer_batch, mesh, PartitionSpec(sharding.DATA)),
  )
  expected = run(None)(theta_B, phi, batches, outer_batch)
  # Rounding over the step of a difference, times the condition of a system.
  tolerance = {"difference": 1e-8, "cg": 1e-10}.get(name, 1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-12),
    jax.device_get(found),
    jax.device_get(expected),
  )


@pytest.mark.slow
def test_a_population_of_divided_models(arguments):
  theta_SB, phi, batches, outer_batch = arguments
  # Members differ in what they are and in what they see; theta is common.
  two = (
    np.stack([theta_SB, theta_SB]),
    jax.tree.map(lambda x: np.stack([x, x * np.asarray(0.9, x.dtype)]), phi),
    jax.tree.map(lambda x: np.stack([x, x[::-1]]), batches),
    jax.tree.map(lambda x: np.stack([x, x]), outer_batch),
  )
  one_device = jax.jit(population.each(hypergradient(None)))(*two)

  mesh = sharding.make_mesh(population=2, data=2, model=2)
  specs = jax.tree.map(
    lambda spec: PartitionSpec(sharding.POPULATION, *spec),
    phi_specs(phi),
    is_leaf=lambda x: isinstance(x, PartitionSpec),
  )
  steps = PartitionSpec(sharding.POPULATION, *STEPS)
  documents = PartitionSpec(sharding.POPULATION, sharding.DATA)
  args = (
    sharding.put(two[0], mesh, steps),
    sharding.put(two[1], mesh, specs),
    sharding.put(two[2], mesh, steps),
    sharding.put(two[3], mesh, documents),
  )
  compiled = compile_on(mesh, population.each(hypergradient(mesh), mesh), args)
  found = compiled(*args)
  assert_same(found, one_device)
  assert found.loss.sharding.is_equivalent_to(NamedSharding(mesh, MEMBERS), 1)
  # The parameters stay divided along the model axis from end to end.
  jax.tree.map(
    lambda x, y: _assert_divided_alike(x, y), found.phi_next, args[1]
  )
  whole = {x.shape[1:] for x in jax.tree.leaves(two[1]) if x.ndim > 1}
  gathered = {dims[1:] for dims in hlo.count(compiled).gathered}
  assert not gathered & whole


def _assert_divided_alike(found, put):
  assert found.sharding.is_equivalent_to(put.sharding, found.ndim)


def test_first_ages_are_staggered_over_a_life():
  ages = population.first_ages(4, max_age=300, min_age=60)
  np.testing.assert_array_equal(ages, [60, 120, 180, 240])


def test_a_mesh_asks_for_no_more_devices_than_there_are():
  with pytest.raises(ValueError, match="needs 9 devices, there are 8"):
    sharding.make_mesh(population=3, data=3)
  assert sharding.make_mesh(model=4).shape["data"] == 2
