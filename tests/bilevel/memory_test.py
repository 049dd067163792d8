"""What policies store: the formulas, and what the compiler makes of them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtree_jax.bilevel import memory, problem, unrolled
from cmtree_jax.bilevel.problem import InnerLoss, Problem

SIZE = 50_000  # parameters: 200 kB
ADAMW = optax.adamw(0.1, eps_root=1e-8)


def phi():
  return problem.init_inner(jnp.zeros(SIZE), ADAMW)


def temporary_bytes(policy: Any, num_steps: int) -> int:
  batches = jnp.ones((num_steps, 2))

  def run(phi, batches):
    case = Problem(
      lambda params, batch: jnp.sum(jnp.sin(params)) * batch,
      InnerLoss(
        lambda params, batch_B: jnp.sum(jnp.sin(params)) * batch_B,
        lambda theta, batch_B: theta * batch_B,
      ),
      1.0,
      phi,
      batches,
      1.0,
    )
    return unrolled(case, optimizer=ADAMW, policy=policy).grad_theta

  compiled: Any = jax.jit(run).lower(phi(), batches).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("policy", ["none", "steps", "tape", "sqrt"])
def test_the_compiled_program_stays_within_the_formula(policy):
  short, long = (temporary_bytes(policy, steps) for steps in (4, 64))
  at_4, at_64 = (
    memory.trajectory_bytes(phi(), ADAMW, num_steps=steps)[policy]
    for steps in (4, 64)
  )
  # The work of one step, a few times the parameters, is apart from the formula.
  assert long - short < 1.05 * (at_64 - at_4)


def test_a_tape_grows_by_the_parameters_per_step():
  # From 16 to 64 steps also the segments grow, from 4 of 4 to 8 of 8: phi at
  # their starts (3 P) and phi and gradient within (4 P).
  grown = temporary_bytes("tape", 64) - temporary_bytes("tape", 16)
  np.testing.assert_allclose(grown / 4 / SIZE, 48 + 4 * 3 + 4 * 4, rtol=0.03)


def test_the_fastest_policy_that_fits_is_chosen():
  needed = memory.trajectory_bytes(phi(), ADAMW, num_steps=64)
  assert needed["none"] > needed["steps"] > needed["tape"] > needed["sqrt"]
  for policy, size in needed.items():
    chosen = memory.choose(phi(), ADAMW, num_steps=64, budget_bytes=size)
    assert chosen == (policy, size)
  with pytest.raises(ValueError, match=r"needs .* bytes at the least"):
    memory.choose(phi(), ADAMW, num_steps=64, budget_bytes=needed["sqrt"] - 1)
