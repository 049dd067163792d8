"""Numbers of documents that have no common scale, brought to unit rows.

The view of form and those of a model are made of such numbers: shares, lengths, nats,
hidden states.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from cmtree_jax.shapes import FloatNE


class Whitening(NamedTuple):
  r"""F numbers x of a document become a unit row h of G + 1.

  .. math:: y = \mathrm{clip}\big(W (x - \mu) / \sigma, \pm 3\big), \quad
            h = \mathrm{normalize}\big(y, \tfrac12 \sqrt G\big)

  The constant at the end of h keeps what bringing a row to unit length would take
  away, namely how far a document lies from the mean: a tree sees directions alone, and
  can still cut "much" from "little" by it. In the mean it is about a quarter of a
  row's squared length.
  """

  mean_F: Float[np.ndarray, " F"]
  scale_F: Float[np.ndarray, " F"]
  whiten_FG: Float[np.ndarray, "F G"]

  def __call__(self, x_NF: np.ndarray) -> FloatNE:
    """Unit rows, float32; the last number is the constant's."""
    z_NF = (x_NF - self.mean_F) / self.scale_F
    # No product of matrices, which rounds by how many rows there are.
    y_NG = np.einsum("nf,fg->ng", z_NF, self.whiten_FG)
    y_NG = np.clip(y_NG, -CLIP, CLIP)
    constant = np.full((len(y_NG), 1), math.sqrt(y_NG.shape[1]) / 2)
    lifted = np.concatenate([y_NG, constant], axis=1)
    lifted /= np.sqrt((lifted**2).sum(axis=1, keepdims=True))
    return lifted.astype(np.float32)


CLIP = 3.0  # standard deviations


def fit(x_NF: np.ndarray, *, dim: int | None = None) -> Whitening:
  r"""The whitening of a sample.

  W is the root of the correlations' inverse. The symmetric root makes each number of y
  one of x, as far as the others do not tell it; where fewer are wanted, y holds the
  leading principal components.

  Args:
    x_NF: numbers of the sampled documents.
    dim: G; None: as many as there are numbers.
  """
  mean_F = x_NF.mean(axis=0)
  # What is the same in all of the sample may differ in other documents.
  scale_F = np.maximum(x_NF.std(axis=0), _LEAST_SPREAD)
  z_NF = (x_NF - mean_F) / scale_F
  variance, vectors = np.linalg.eigh(z_NF.T @ z_NF / len(z_NF))
  root = 1 / np.sqrt(np.maximum(variance, _LEAST_VARIANCE))
  if dim is None:
    return Whitening(mean_F, scale_F, (vectors * root) @ vectors.T)
  leading = (vectors * root)[:, ::-1][:, :dim]
  # A sign convention makes it independent of the solver's.
  largest = np.argmax(np.abs(leading), axis=0)
  sign = np.sign(leading[largest, np.arange(leading.shape[1])])
  return Whitening(mean_F, scale_F, leading * sign)


_LEAST_SPREAD = 1e-3
# A direction in which the sample varies less is stretched as if it varied by this:
# what is left of two numbers that all but say the same is noise.
_LEAST_VARIANCE = 0.05
