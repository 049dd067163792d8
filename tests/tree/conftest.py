"""Random trees for the tests of this folder."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.tree import model


@pytest.fixture
def random_tree():
  """A function of a seed that makes trees of 2 x 3 leaves, P = 3, E = 5."""

  def make(seed, branching=(2, 3), *, oblivious=False, tilt=1.0):
    rng = np.random.default_rng(seed)
    levels = []
    for depth, children in enumerate(branching):
      nodes = math.prod(branching[:depth])
      levels.append(
        model.Level(
          angle_PE=jnp.asarray(rng.normal(size=(3, 5))),
          prototype_MCP=jnp.asarray(
            rng.normal(size=(1 if oblivious else nodes, children, 3))
          ),
          log_kappa=jnp.asarray(rng.normal(1.0, 0.3)),
          tilt_MC=jnp.asarray(rng.normal(0, tilt, (nodes, children))),
        )
      )
    return tuple(levels)

  return make


@pytest.fixture
def embedding_BE():
  return jnp.asarray(np.random.default_rng(99).normal(size=(7, 5)))
