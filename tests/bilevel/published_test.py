"""Published algorithms come out of the same estimator: PDS's co-states, DataRater."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import problem, unrolled
from cmtree_jax.bilevel.problem import InnerLoss, Problem

CASES = pathlib.Path(__file__).parent / "cases"


@pytest.fixture
def pds(x64):
  """Learning law of a perceptron (Gu et al., 2024; microsoft/LMOps 4f2a9deb)."""
  return dict(np.load(CASES / "pds_learning_law_perceptron.npz"))


def test_pds_co_states_and_gradient(pds):
  eta, steps = float(pds["eta"]), int(pds["T"])
  optimizer = optax.sgd(eta)

  def losses(params, batch):
    x_BD, y_B = batch
    return optax.sigmoid_binary_cross_entropy(x_BD @ params, y_B)

  def area(params, start):
    """From step `start` on; gamma weighs every example at every step."""
    x_BD, y_B = jnp.asarray(pds["train_x"]), jnp.asarray(pds["train_y"])
    left = steps - start
    gamma_SB = jnp.full((left, len(y_B)), 1 / len(y_B))
    case = Problem(
      lambda params, batch: jnp.mean(losses(params, batch)) / steps,
      InnerLoss(losses, lambda gamma_SB, _: gamma_SB),
      gamma_SB,
      problem.init_inner(params, optimizer),
      (jnp.tile(x_BD, (left, 1, 1)), jnp.tile(y_B, (left, 1))),
      (jnp.asarray(pds["dev_x"]), jnp.asarray(pds["dev_y"])),
    )
    return unrolled(case, optimizer=optimizer, along_path=True)

  found = area(jnp.asarray(pds["theta0"]), 0)
  np.testing.assert_allclose(
    found.phi_next.params, pds["theta_traj"][-1], rtol=1e-9
  )
  # The reference's area also counts the loss before the first step.
  np.testing.assert_allclose(
    found.loss + pds["dev_losses"][0] / steps, pds["area_loss"], rtol=1e-9
  )
  np.testing.assert_allclose(
    found.grad_theta, pds["grad_gamma_per_step"], rtol=1e-9
  )
  # A co-state is the slope of the sum that is left along the parameters; an offset
  # of a gradient moves the next ones by -eta, so adjoints differ by -eta times it.
  adjoints = [
    area(jnp.asarray(pds["theta_traj"][t]), t).adjoint for t in range(steps)
  ]
  adjoints.append(jnp.zeros_like(adjoints[0]))
  costates = [
    (later - earlier) * steps / eta
    for earlier, later in itertools.pairwise(adjoints)
  ]
  np.testing.assert_allclose(costates, pds["costates"][1:], rtol=1e-9)


def test_datarater_meta_gradient(x64):
  """Two steps of SGD, a linear rater (from Calian et al., 2025, section 3)."""
  case = dict(np.load(CASES / "derived_datarater.npz"))
  optimizer = optax.sgd(float(case["lr"]))

  def losses(params, batch):
    return (batch["x"] @ params - batch["y"]) ** 2 / 2

  meta = Problem(
    lambda params, batch: jnp.mean(losses(params, batch)),
    InnerLoss(
      losses, lambda eta, batch: jax.nn.softmax(batch["features"] @ eta)
    ),
    jnp.asarray(case["eta"]),
    problem.init_inner(jnp.asarray(case["theta0"]), optimizer),
    {
      "x": case["inner_x"],
      "y": case["inner_y"],
      "features": case["features"],
    },
    {"x": case["outer_x"], "y": case["outer_y"]},
  )
  found = unrolled(meta, optimizer=optimizer)
  np.testing.assert_allclose(found.loss, case["outer_loss"], rtol=1e-8)
  np.testing.assert_allclose(found.grad_theta, case["meta_grad"], rtol=1e-8)
