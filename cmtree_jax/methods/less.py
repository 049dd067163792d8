"""LESS: documents that Adam would move a model with as a target's examples would."""

from collections.abc import Iterator

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Facts,
  Look,
  Method,
  Planted,
  Sketch,
  Small,
)

FORMS = ("adam", "sgd", "sign")
MEANS = ("cosines", "gradients")

SMALL = Small(options={"checkpoints": 2, "size": 256, "longest": 128})
PLANTED = Planted(
  options={"checkpoints": 2, "size": 256, "share": 0.3},
  more=TARGET_FIRST,
  documents=TARGET_DOCUMENTS,
)


def make(
  *,
  share: float = 0.05,
  form: str = "adam",
  mean: str = "cosines",
  checkpoints: int = 4,
  size: int = 8192,
  longest: int = 2048,
) -> Method:
  r"""Keeps each target's documents of the largest influence, by their gradients.

  .. math:: s_{ti} = \sum_c \bar\eta_c\, \operatorname{mean}_{j \in t}
            \cos\big(\Gamma_c(x_i), \nabla \ell(z_j; \phi_c)\big), \qquad
            \Gamma_c = \frac{\beta_1 m_c + (1 - \beta_1) g}
            {\sqrt{\beta_2 v_c + (1 - \beta_2) g^2 + \epsilon}}

  over the checkpoints of one training, weighed by the mean learning rate
  :math:`\bar\eta_c` of the steps before each; g is the gradient of a document's mean
  loss, m and v are the training's moments. Cosines are those of sketches: every number
  of a gradient goes with a random sign into one of P sums.

  Departures: gradients are of all parameters and not of adapters, as the models are
  small. The paper's projection is dense, P sums of all numbers with random signs; one
  sum for each number has the same inner products in the mean, as little noise, and a
  P-th of the cost (`signals.sketches`). Where the authors' code takes the best of a
  task's subtasks for a document's score, each target here keeps its own best.
  `mean="cosines"` is the code; "gradients", the paper's equation, is the cosine to the
  mean of a target's gradients, in which long ones count for more. There is no
  correction of Adam's bias and :math:`\epsilon` stands under the root, as in the code;
  its :math:`\beta_2` is that of the proxy's training, .95 and not .999. The warm-up is
  a look's, on the whole pool, where the paper has four epochs of a twentieth.
  Shares are of tokens.

  Cost:
    A proxy of `config.look.steps` steps, and at each checkpoint a gradient and 2 FLOPs
    for each of its numbers for every document of pool and targets: about twice the
    time of the same gradients in a batch. On disk 4 P bytes a document for each
    checkpoint.

  Args:
    share: of the pool's tokens that each target keeps; more where documents may not
      be repeated so often.
    form: of the pool's gradients: "adam", as above, "sgd", plain ones, or "sign",
      their signs. Those of the targets are plain.
    mean: "cosines" or "gradients".
    checkpoints: c, evenly spaced.
    size: P; cosines are found to :math:`1 / \sqrt P`.
    longest: tokens from the beginning of a document that its loss is of.
  Returns:
    A Method that reads the sketches of the documents' gradients.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Xia et al., `LESS <https://arxiv.org/abs/2402.04333>`_, 2024, definition 3.1 and
    section 4; princeton-nlp/LESS at 8abf962.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.one_of("form", form, FORMS)
  checks.one_of("mean", mean, MEANS)
  checks.at_least(1, checkpoints=checkpoints, size=size, longest=longest)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None and pool.sketch_ONP is not None
    score_TN = scores(
      pool.sketch_ONP,
      [_sketches(one) for one in facts.train],
      np.asarray(facts.rate_O),
      mean=mean,
    )
    return scoring.best(
      score_TN, pool, share=share, max_weight=facts.max_weight
    )

  return scoring.method(
    init,
    features=frozenset({"sketch_ONP"}),
    look=Look(
      checkpoints=checkpoints, longest=longest, sketch=Sketch(size, form)
    ),
  )


def scores(
  pool_ONP: np.ndarray,
  targets: list[np.ndarray],
  rate_O: np.ndarray,
  *,
  mean: str,
) -> Iterator[np.ndarray]:
  """For each target s of all documents of the pool.

  Args:
    pool_ONP: sketches of the pool's documents; they may lie on disk.
    targets: sketches of each target's, alike.
    rate_O: weights of the checkpoints, of any scale.
    mean: as of `make`.
  """
  weight_O = rate_O / rate_O.sum()
  for target_OMP in targets:
    # The mean of the cosines is the product with the mean of the unit vectors.
    one_OMP = _units(target_OMP) if mean == "cosines" else target_OMP
    toward_OP = one_OMP.mean(axis=1, dtype=np.float64)
    if mean == "gradients":
      toward_OP = _units(toward_OP)
    toward_OP = weight_O[:, None] * toward_OP
    yield np.concatenate(
      [
        np.einsum("onp,op->n", _units(pool_ONP[:, rows]), toward_OP)
        for rows in packing.chunks(pool_ONP.shape[1], _CHUNK)
      ]
    )


_CHUNK = 1024  # documents that are compared at a time; bounds memory


def _sketches(target) -> np.ndarray:
  assert target.sketch_ONP is not None
  return target.sketch_ONP


def _units(x: np.ndarray) -> np.ndarray:
  """Vectors of length one along the last axis; a zero stays as it is."""
  length = np.linalg.norm(x, axis=-1, keepdims=True)
  return x / np.maximum(length, np.finfo(np.float32).tiny)
