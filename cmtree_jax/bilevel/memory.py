r"""What is stored of an unrolled trajectory, and how to choose it by a budget.

With P the bytes of the parameters, s those of the optimizer's states, K steps, and
sqrt(K) segments:

========  ============================================  ==================  =====
policy    stored                                        bytes               FLOPs
========  ============================================  ==================  =====
`none`    all that the optimizer's derivative reads     K (P + s + ...)     11/3
`steps`   phi and the gradient of every step            K (2 P + s)         11/3
`tape`    the gradient of every step, phi per segment   K P + sqrt(K) r     11/3
`sqrt`    phi per segment                               sqrt(K) r           14/3
========  ============================================  ==================  =====

where r = 3 P + 2 s: phi at the start of every segment, and phi and gradient of every
step of the one being replayed. None stores activations of more than one step. `tape`
replays the optimizer, a few operations per parameter, from the gradients.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax

from cmtree_jax import shapes
from cmtree_jax.bilevel.problem import Inner
from cmtree_jax.bilevel.weighted_gradient import SAVED_NAME

Policy = Literal["none", "steps", "tape", "sqrt"]


class Save(NamedTuple):
  """A policy: what wraps a step and a segment of steps."""

  step: Callable[[Any], Any]
  segment: Callable[[Any], Any]
  in_segments: bool


def _whole(function):
  return function


_nothing = functools.partial(
  jax.checkpoint,
  prevent_cse=False,  # scan already keeps the passes apart
)
_gradients = functools.partial(
  _nothing, policy=jax.checkpoint_policies.save_only_these_names(SAVED_NAME)
)

SAVE: dict[str, Save] = {
  "none": Save(_whole, _whole, in_segments=False),
  "steps": Save(_gradients, _whole, in_segments=False),
  "tape": Save(_gradients, _gradients, in_segments=True),
  "sqrt": Save(_gradients, _nothing, in_segments=True),
}


def trajectory_bytes(
  phi: Inner, optimizer: optax.GradientTransformation, *, num_steps: int
) -> dict[str, int]:
  """Bytes that each policy stores of a trajectory, the work of a step apart.

  An upper bound: the compiler drops what a derivative turns out not to read.

  Args:
    phi: of the proxy; shapes suffice.
    optimizer: the inner one.
    num_steps: S.
  """
  params, state = _bytes(phi.params), _bytes(phi)
  segments = segment_count(num_steps)
  length = num_steps // segments
  replayed = segments * state + length * (state + params)
  return {
    "none": num_steps * (state + _optimizer_residuals(phi, optimizer)),
    "steps": num_steps * (state + params),
    "tape": num_steps * params + replayed,
    "sqrt": replayed,
  }


def choose(
  phi: Inner,
  optimizer: optax.GradientTransformation,
  *,
  num_steps: int,
  budget_bytes: float,
) -> tuple[Policy, int]:
  """The fastest policy whose trajectory fits the budget, and its bytes.

  Raises:
    ValueError: none fits.

  >>> adam = optax.adam(0.1, eps_root=1e-8)
  >>> params = jax.numpy.zeros(1000)
  >>> phi = Inner(params, adam.init(params))
  >>> choose(phi, adam, num_steps=64, budget_bytes=1.1e6)
  ('steps', 1024256)
  >>> choose(phi, adam, num_steps=64, budget_bytes=1e6)
  ('tape', 480064)
  """
  needed = trajectory_bytes(phi, optimizer, num_steps=num_steps)
  for policy in ("none", "steps", "tape", "sqrt"):
    if needed[policy] <= budget_bytes:
      return policy, needed[policy]
  raise ValueError(
    f"A trajectory of {num_steps} steps needs {needed['sqrt']:,} bytes at the "
    f"least; the budget is {budget_bytes:,.0f}. Raise it, or take fewer steps."
  )


def segment_count(num_steps: int) -> int:
  """The divisor of `num_steps` nearest to its square root.

  >>> segment_count(16), segment_count(12), segment_count(7)
  (4, 3, 1)
  """
  divisors = [d for d in range(1, num_steps + 1) if num_steps % d == 0]
  return min(divisors, key=lambda d: (max(d, num_steps // d), d))


def _optimizer_residuals(phi, optimizer):
  """Bytes that reverse mode keeps of one update."""

  def pullback(gradient, phi):
    def update(gradient, phi):
      found, state = optimizer.update(gradient, phi.opt_state, phi.params)
      return optax.apply_updates(phi.params, found), state

    return jax.vjp(update, gradient, phi)[1]

  return _bytes(jax.eval_shape(pullback, phi.params, phi))


def _bytes(tree: shapes.Tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
