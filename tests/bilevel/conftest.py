"""A small problem with curvature, in float64, that all estimators are run on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.bilevel.problem import Hypergradient, Inner, InnerLoss, Problem

STEPS = 6


def _losses(params, batch):
  """A network with one hidden layer on documents of one point."""
  hidden_BH = jnp.tanh(batch["x_BD"] @ params["first"])
  return (hidden_BH @ params["second"] - batch["y_B"]) ** 2 / 2


def _weights(theta, batch):
  score_B = batch["x_BD"] @ theta["slope"] + theta["bias"]
  return jax.nn.softmax(jnp.tanh(score_B)) * jnp.exp(theta["bias"])


class Toy(NamedTuple):
  """One problem; `each` estimator runs on it from `params`."""

  theta: Any
  params: Any
  batches: Any  # [S, B, ...]
  outer_batch: Any
  inner_loss: InnerLoss = InnerLoss(_losses, _weights)

  @staticmethod
  def outer_loss(params, batch):
    return jnp.mean(_losses(params, batch))

  def each_batch(self) -> Iterator[Any]:
    for step in range(len(self.batches["y_B"])):
      yield jax.tree.map(lambda x, step=step: x[step], self.batches)

  def run(self, estimator, optimizer, **options) -> Hypergradient:
    """The estimator's result, compiled; options reach it."""

    @jax.jit
    def run(theta, params, batches, outer_batch):
      phi = Inner(params, optimizer.init(params))
      problem = Problem(
        self.outer_loss, self.inner_loss, theta, phi, batches, outer_batch
      )
      return estimator(problem, optimizer=optimizer, **options)

    return run(self.theta, self.params, self.batches, self.outer_batch)


@pytest.fixture
def toy(x64) -> Toy:
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
  return Toy(
    theta={"slope": draw(3), "bias": draw()},
    params={"first": draw(3, 4), "second": draw(4)},
    batches={"x_BD": draw(STEPS, 5, 3), "y_B": draw(STEPS, 5)},
    outer_batch={"x_BD": draw(8, 3), "y_B": draw(8)},
  )
