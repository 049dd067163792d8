"""The formulas of cost, against the products in the compiled programs."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import HYPERGRADS, problem
from cmtree_jax.bilevel.problem import InnerLoss, Problem
from experiments import hlo

S, B, D, LAYERS = 4, 8, 32, 12
OPTIMIZER = optax.adamw(0.01, eps_root=1e-6)


def losses(params, x_BD):
  """Square layers behind a scale, in a scan like those of the proxy.

  The scale gives the first layer's input a gradient too, as within a large model;
  only that of the primal is not needed in a product with the Hessian.
  """
  x_BD = x_BD * params["scale"]

  def layer(x_BD, w_DD):
    return jnp.tanh(x_BD @ w_DD), None

  x_BD, _ = jax.lax.scan(layer, x_BD, params["w"])
  return jnp.sum(x_BD**2, axis=1)


@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("unrolled", {}),
    ("unrolled", {"policy": "sqrt"}),
    ("difference", {}),
    ("first_order", {}),
    ("truncated", {"window": 2}),
    ("one_step", {}),
    ("neumann", {"terms": 3}),
  ],
)
def test_the_formula_counts_the_products(name, options):
  phi = problem.init_inner(
    {"w": jnp.ones((LAYERS, D, D)), "scale": jnp.ones(D)}, OPTIMIZER
  )
  batches, outer = jnp.ones((S, B, D)), jnp.ones((B, D))

  def run(phi, batches, outer):
    case = Problem(
      lambda params, batch: jnp.sum(losses(params, batch)),
      InnerLoss(losses, lambda theta, _: theta),
      jnp.ones((S, B)),
      phi,
      batches,
      outer,
    )
    return HYPERGRADS[name].run(case, optimizer=OPTIMIZER, **options)

  compiled = jax.jit(run).lower(phi, batches, outer).compile()
  one_pass = LAYERS * 2 * B * D * D
  told = HYPERGRADS[name].cost(S, **options)
  expected = S * told.inner_passes + 3 * told.outer_gradients
  np.testing.assert_allclose(
    hlo.count(compiled).flops / one_pass, expected, rtol=0.02
  )


def test_conjugate_gradients_cost_a_product_an_iteration():
  less, more = (
    HYPERGRADS["cg"].cost(S, iterations=n).inner_passes for n in (3, 4)
  )
  assert more - less == 8


def options_of(function):
  """Defaults of what may be chosen, by name."""
  return {
    name: one.default
    for name, one in inspect.signature(function).parameters.items()
    if name not in ("problem", "optimizer", "mesh", "num_steps")
  }


@pytest.mark.parametrize("name", HYPERGRADS)
def test_a_cost_knows_the_options_of_its_estimator(name):
  estimator = HYPERGRADS[name]
  assert options_of(estimator.cost) == options_of(estimator.run)
  assert estimator.stores == ("policy" in options_of(estimator.run))


def test_a_cost_refuses_what_its_estimator_refuses():
  with pytest.raises(ValueError, match="6 inner steps .* window = 4"):
    HYPERGRADS["truncated"].cost(6)
