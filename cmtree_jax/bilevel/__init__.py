"""The derivative of a target loss through K training steps, as a small engine.

Everything here takes pure functions and arrays; it knows of no tree, no text and
no language model. `HYPERGRADS` are interchangeable: `estimator(outer_loss,
inner_loss, theta, phi, inner_batches, outer_batch, *, optimizer, mesh=None, ...)`
returns a `problem.Hypergradient`.
"""

from collections.abc import Callable

from cmtree_jax.bilevel.implicit import cg, neumann
from cmtree_jax.bilevel.one_step import one_step
from cmtree_jax.bilevel.problem import Hypergradient
from cmtree_jax.bilevel.unrolled import (
  difference,
  first_order,
  truncated,
  unrolled,
)

HYPERGRADS: dict[str, Callable[..., Hypergradient]] = {
  "unrolled": unrolled,
  "difference": difference,
  "first_order": first_order,
  "truncated": truncated,
  "one_step": one_step,
  "neumann": neumann,
  "cg": cg,
}

# Those that store a trajectory, and so take a policy (`memory`).
UNROLLING = ("unrolled", "difference", "first_order", "truncated")
