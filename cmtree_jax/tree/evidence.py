"""What a candidate for theta is measured on in a round, and what it would do."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cmtree_jax import shapes
from cmtree_jax.tree import mixture, model
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.replay import Buffer


class Leaves(NamedTuple):
  """How theta is read: as leaves that documents fall into, and their tilts."""

  # (theta, features, temperature, key) -> model.Placed, where documents fall, and how
  # they lean where leaves score. Without a key there is no noise, and the temperature
  # is not read.
  place: Callable[..., model.Placed]
  # theta -> tilt_L, the leaves' log-weights before they are scaled and capped.
  tilt: Callable[..., shapes.FloatL]
  # theta -> how much alike the levels cut, which a step may be charged for.
  overlap: Callable[..., shapes.Scalar]
  # theta -> how much its leaves score, which a step may be charged for.
  score_norm: Callable[..., shapes.Scalar]
  # (theta, covariance [E, E] of the features, masks of views) -> each view's share of
  # every level, as `views.level_shares`. None where levels project no features.
  shares: Callable[..., dict[str, shapes.Array]] | None = None


class Training(NamedTuple):
  """The training that the recipe is for, as a step sees it."""

  max_weight: shapes.Scalar  # R
  horizon: shapes.Scalar  # final training steps per step of a value's unroll
  # e / R*: looks at a document of weight one, in units of those after which its
  # worth is all but used up. 0: no document is seen twice.
  saturation: shapes.Scalar


class Evidence(NamedTuple):
  """A sample of the corpus and the replayed documents, weighed before the step."""

  corpus: Sample
  before_N: shapes.Array  # log-weights of the sample's documents
  replay: Buffer
  before_R: shapes.Array  # log-weights of the replayed documents
  target_weight_T: shapes.Array  # what each target's loss counts for
  proxies_P: shapes.Array  # their numbers
  temperature: shapes.Scalar  # of noisy leaves
  training: Training


class Measure(NamedTuple):
  """What a theta would do."""

  # Predicted fall of the outer loss at the end of training, as each proxy has it;
  # 0 where none of its documents counts.
  gain_P: shapes.Array
  kl_step: shapes.Scalar  # nats from the weights before the step
  kl_natural: shapes.Scalar  # nats from the natural mixture
  effective_sample_size: shapes.Scalar


def with_fewer(evidence: Evidence, size: int, key: shapes.Key) -> Evidence:
  """With at most `size` of the corpus sample, drawn by their masses."""
  corpus = evidence.corpus
  if corpus.mass_N.shape[0] <= size:
    return evidence
  chosen = mixture.draw(key, corpus.mass_N, size)
  return evidence._replace(
    corpus=Sample(corpus.features[chosen], jnp.full(size, 1.0 / size)),
    before_N=evidence.before_N[chosen],
  )


def measure(
  theta: shapes.Tree,
  evidence: Evidence,
  weight_R: shapes.Array,
  leaves: Leaves,
  *,
  key: shapes.Key | None = None,
  hard: bool = False,
) -> Measure:
  """Gains and divergences of a theta's weights.

  The step's divergence is the mean of two estimates, from the corpus sample and
  from all valued documents. The second keeps a tree from carving out single
  documents that happened to be valued highly, which the sample would not see.

  Args:
    theta: the candidate.
    evidence: of the round.
    weight_R: what each replayed document counts for in its proxy's gain.
    leaves: of theta.
    key: draws noise in where documents fall; None: none.
    hard: straight-through leaves.
  """
  corpus, buffer = evidence.corpus, evidence.replay
  training = evidence.training
  log_w_N, log_w_R = _weighed(theta, evidence, leaves, key=key, hard=hard)
  all_R = buffer.weight_R / jnp.sum(buffer.weight_R)
  kl_corpus = mixture.kl_divergence(log_w_N, evidence.before_N, corpus.mass_N)
  kl_replay = mixture.kl_divergence(log_w_R, evidence.before_R, all_R)
  natural_N = jnp.zeros_like(log_w_N)
  own_RP = weight_R[:, None] * (buffer.proxy_R[:, None] == evidence.proxies_P)
  value_R = buffer.value_RT @ evidence.target_weight_T
  more_R = worth(
    jnp.exp(log_w_R) - buffer.measured_R, saturation=training.saturation
  )
  total_P = jnp.maximum(jnp.sum(own_RP, axis=0), 1e-30)
  return Measure(
    gain_P=training.horizon * ((value_R * more_R) @ own_RP) / total_P,
    kl_step=(kl_corpus + kl_replay) / 2,
    kl_natural=mixture.kl_divergence(log_w_N, natural_N, corpus.mass_N),
    effective_sample_size=mixture.effective_sample_size(log_w_N, corpus.mass_N),
  )


def hardened(
  theta: shapes.Tree, evidence: Evidence, leaves: Leaves
) -> Evidence:
  """For candidates with hard leaves: what theta weighs documents with by its own.

  Args:
    theta: what stands before the step.
    evidence: of the round.
    leaves: of theta.
  """
  log_w_N, log_w_R = _weighed(theta, evidence, leaves, key=None, hard=True)
  return evidence._replace(before_N=log_w_N, before_R=log_w_R)


def _weighed(theta, evidence, leaves, *, key, hard):
  """Log-weights of the corpus sample and of the replayed documents."""
  corpus, max_weight = evidence.corpus, evidence.training.max_weight
  keys = (None, None) if key is None else tuple(jax.random.split(key))
  placed_N, placed_R = (
    leaves.place(theta, features, evidence.temperature, noise)
    for features, noise in zip(
      (corpus.features, evidence.replay.features), keys, strict=True
    )
  )
  if hard:
    placed_N, placed_R = (_hard(x) for x in (placed_N, placed_R))
  log_w_L = mixture.normalized(
    leaves.tilt(theta), placed_N, corpus.mass_N, max_weight=max_weight
  )
  return (
    mixture.log_w(placed_N, log_w_L, max_weight=max_weight),
    mixture.log_w(placed_R, log_w_L, max_weight=max_weight),
  )


def _hard(placed: model.Placed) -> model.Placed:
  p_BL = model.straight_through(placed.log_p_BL)
  return placed._replace(log_p_BL=jnp.log(p_BL + 1e-9))


def worth(more: shapes.Array, *, saturation: shapes.Array) -> shapes.Array:
  r"""What more weight is worth, in weight of which a document's value was measured.

  .. math:: \frac{u(w) - u(w_0)}{u'(w_0)} = \frac{1 - e^{-a (w - w_0)}}{a}, \quad
            u(w) = \frac{1 - e^{-a w}}{a}, \quad a = \frac{e}{R^*}

  with e the epochs of the training that the recipe is for: n = w e looks at a
  document are worth :math:`R^* (1 - e^{-n / R^*})` looks at fresh ones. Values are
  measured where documents are repeated as often as they will be, so the derivative
  at their own weight is one.

  Args:
    more: w less the weight that the document had when it was valued.
    saturation: a; 0: the worth is linear.
  References:
    Muennighoff et al., `Scaling Data-Constrained Language Models
    <https://arxiv.org/abs/2305.16264>`_, 2023, eq. 5.

  >>> worth(jnp.array([-1.0, 0.0, 3.0]), saturation=0.1).round(3).tolist()
  [-1.052, 0.0, 2.592]
  """
  # Where less weight is asked for than any document has, the exponential is bound.
  exponent = jnp.minimum(-saturation * more, _LARGEST)
  safe = jnp.maximum(saturation, 1e-9)
  return jnp.where(saturation < 1e-9, more, -jnp.expm1(exponent) / safe)


_LARGEST = (
  10.0  # of the exponent: a document less seen is at most so much worse
)


def over_proxies(
  gain_P: shapes.Array, weight_R: shapes.Array, evidence: Evidence
) -> tuple[shapes.Scalar, shapes.Scalar]:
  """(mean, standard error) of gains over the proxies with documents that count.

  The error of fewer than two is infinite.
  """
  own_RP = evidence.replay.proxy_R[:, None] == evidence.proxies_P
  there_P = (weight_R @ own_RP > 0).astype(jnp.float32)
  number = jnp.sum(there_P)
  mean = there_P @ gain_P / jnp.maximum(number, 1.0)
  square = there_P @ (gain_P - mean) ** 2
  several = number > 1
  error = jnp.sqrt(square / jnp.where(several, number * (number - 1), 1.0))
  return mean, jnp.where(several, error, jnp.inf)
