"""The derivative of a target loss through K training steps, as a small library.

Everything here takes pure functions and arrays; it knows of no tree, no text and
no language model. `HYPERGRADS` are interchangeable: `HYPERGRADS[name].run(problem,
*, optimizer, mesh=None, ...)` returns a `problem.Hypergradient` of a
`problem.Problem`. A new estimator is a function and its cost in one file, and a
line here.
"""

from cmtree_jax.bilevel.implicit import cg, cg_cost, neumann, neumann_cost
from cmtree_jax.bilevel.one_step import one_step, one_step_cost
from cmtree_jax.bilevel.problem import Estimator
from cmtree_jax.bilevel.unrolled import (
  difference,
  difference_cost,
  first_order,
  first_order_cost,
  truncated,
  truncated_cost,
  unrolled,
  unrolled_cost,
)

HYPERGRADS: dict[str, Estimator] = {
  "unrolled": Estimator(unrolled, unrolled_cost, stores=True, follows=True),
  "difference": Estimator(
    difference, difference_cost, stores=True, follows=True, reverse_only=True
  ),
  "first_order": Estimator(
    first_order, first_order_cost, stores=True, follows=True
  ),
  "truncated": Estimator(truncated, truncated_cost, stores=True),
  "one_step": Estimator(one_step, one_step_cost, stores=False),
  "neumann": Estimator(neumann, neumann_cost, stores=False),
  "cg": Estimator(cg, cg_cost, stores=False),
}
