"""A policy that mixes domains by how a training goes: what it sees, and what it learns.

It sees ratios and logarithms alone, so that what it has learned on one corpus can be
applied to another one, and it sees all domains through one network, so that their
number and their order do not matter.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cmtree_jax import shapes
from cmtree_jax.methods import hierarchical, steering
from cmtree_jax.methods.base import Facts
from cmtree_jax.types import UserError

# Least units of what changes of a domain while a model trains, its loss, the fall of it,
# share and repeats, and of what is seen of the training. The policy that has never
# moved has seen natural shares alone: what varied there is rounding.
LEAST_MOVING = (0.01, 0.001, 1.0, 1.0)
LEAST_GLOBAL = (0.1, 0.01, 0.001)
LEAST_STILL = 1.0  # logarithms of sizes, cosines, and places of unit size
_MOST = 4.0  # root mean squares beyond which nothing is told apart
# Logits stay within it, for a domain that is never trained on cannot be judged.
_FURTHEST = 3.0
_TINY = 1e-9


class Seen(NamedTuple):
  """What the policy reads at an observation."""

  domain_KF: shapes.Array
  global_G: shapes.Array


class Run(NamedTuple):
  """The training that is observed."""

  loss_K: shapes.FloatK  # at the last observation, and
  loss_T: shapes.Array  # that of the targets
  first_T: shapes.Array  # at the first one after the training has begun
  share_K: shapes.FloatK  # sum of the mixtures that it was trained on


class Policy(NamedTuple):
  """A network, and the units of what it sees."""

  psi: shapes.Tree
  scale_F: shapes.Array  # root mean squares; zeros while they are not known
  scale_G: shapes.Array


class Windows(NamedTuple):
  """W mixtures that were trained on, and what they were worth."""

  seen: Seen  # [W, ...], that they came of
  mixture_WK: shapes.Array
  gain_WK: shapes.Array  # by the logarithms of the shares; sums to zero
  counts_W: shapes.Array  # 1, or 0 for one that the policy had no part in


def no_windows(windows: int, domains: int, features: int) -> Windows:
  """Room for so many of them."""
  zeros_WK = jnp.zeros((windows, domains))
  seen = Seen(
    jnp.zeros((windows, domains, features)),
    jnp.zeros((windows, len(LEAST_GLOBAL))),
  )
  return Windows(seen, zeros_WK, zeros_WK, jnp.zeros(windows))


class Network(nn.Module):
  """Logits of the domains, each from its own numbers and from the mean of all."""

  width: int = 32

  @nn.compact
  def __call__(
    self,
    domain_KF: shapes.Array,
    global_G: shapes.Array,
    mass_K: shapes.Array,
  ) -> shapes.Array:
    """Logits [K], zero for a new network.

    Args:
      domain_KF: numbers of the domains.
      global_G: numbers of the training.
      mass_K: what each domain counts in the mean; sums to one.
    """
    code_KC = domain_KF
    for _ in range(2):
      code_KC = nn.tanh(nn.Dense(self.width)(code_KC))
    shared_C = jnp.concatenate([mass_K @ code_KC, global_G])
    shared_KC = jnp.broadcast_to(shared_C, (len(code_KC), len(shared_C)))
    head_KC = jnp.concatenate([code_KC, shared_KC], axis=1)
    head_KC = nn.tanh(nn.Dense(self.width)(head_KC))
    zeros = nn.initializers.zeros
    return nn.Dense(1, use_bias=False, kernel_init=zeros)(head_KC)[:, 0]


def start(key: shapes.Key, features: int) -> Policy:
  """A policy that recommends the natural mixture, whatever it sees.

  Args:
    key: draws the network.
    features: F.
  """
  zeros_F, zeros_G = jnp.zeros(features), jnp.zeros(len(LEAST_GLOBAL))
  psi = Network().init(key, zeros_F[None], zeros_G, jnp.ones(1))
  return Policy(psi, zeros_F, zeros_G)


def logits(policy: Policy, seen: Seen, mass_K: shapes.FloatK) -> shapes.FloatK:
  """What the policy adds to the logarithms of the natural mixture."""
  domain_KF = _in_units(seen.domain_KF, policy.scale_F)
  global_G = _in_units(seen.global_G, policy.scale_G)
  raw_K: Any = Network().apply(policy.psi, domain_KF, global_G, mass_K)
  return _FURTHEST * jnp.tanh(raw_K / _FURTHEST)


def _in_units(x: shapes.Array, scale: shapes.Array) -> shapes.Array:
  """Bounded, for a longer run may lie beyond what was seen in short ones."""
  ratio = jnp.where(scale > 0, x / jnp.where(scale > 0, scale, 1.0), 0.0)
  return jnp.clip(ratio, -_MOST, _MOST)


def mixture(
  policy: Policy, seen: Seen, course: steering.Course
) -> shapes.FloatK:
  """What the policy recommends, as far as documents may be repeated."""
  q_K = course.domain_mass_K
  return course.capped(steering.multiply(q_K, logits(policy, seen, q_K)))


def still(facts: Facts, projected: int) -> np.ndarray:
  """What does not change of the domains: size, nearness to targets, place [K, S].

  Args:
    facts: know all documents, and those of the targets.
    projected: numbers that tell where a domain lies.
  """
  assert facts.pool is not None
  q_K = np.asarray(facts.domain_mass_K, np.float64)
  q_K = q_K / q_K.sum()
  log_q_K = np.log(np.maximum(q_K, _TINY))
  mean_KE = hierarchical.domain_means(facts.pool, facts.num_domains)
  apart_KE = np.where(q_K[:, None] > 0, mean_KE - q_K @ mean_KE, 0.0)
  apart_KE /= max(np.sqrt(q_K @ (apart_KE**2).sum(axis=1)), _TINY)
  target_TE = np.array(
    [
      np.average(one.embedding_NE, axis=0, weights=one.tokens_N)
      for one in facts.train
    ]
  ).reshape(len(facts.train), -1)
  near_K = np.zeros(len(q_K))
  if len(target_TE):
    near_K = _cosines(apart_KE, target_TE - q_K @ mean_KE).mean(axis=1)
  # The same directions in every job whose documents are embedded alike.
  random_EP = np.random.default_rng(0).normal(
    size=(mean_KE.shape[1], projected)
  )
  # Halves of all domains are as large among themselves as the whole ones were.
  size_K = np.where(q_K > 0, log_q_K - q_K @ log_q_K, 0.0)
  return np.column_stack([size_K, near_K, apart_KE @ random_EP])


def _cosines(x_KE: np.ndarray, y_TE: np.ndarray) -> np.ndarray:
  x_K1, y_T1 = (
    np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY)
    for x in (x_KE, y_TE)
  )
  return (x_KE / x_K1) @ (y_TE / y_T1).T


def see(
  course: steering.Course,
  run: Run,
  done: shapes.Array,
  now: tuple[shapes.Array, shapes.Array],
  still_KS: shapes.Array,
  epochs: shapes.Array,
) -> Seen:
  """What the policy reads of a model in training.

  Args:
    course: knows the domains.
    run: the training so far.
    done: the share of it that is done; above zero.
    now: losses of the domains and of the targets.
    still_KS: of `still`.
    epochs: how often the whole run sees a document of weight one.
  """
  q_K, (loss_K, loss_T) = course.domain_mass_K, now
  safe_K = jnp.where(course.present_K, q_K, 1.0)
  total = jnp.sum(run.share_K)
  weight_K = run.share_K / jnp.where(total > 0, total, 1.0) / safe_K
  moving_KF = jnp.stack(
    [
      _log(loss_K) - _log(q_K @ loss_K),
      _log(run.loss_K) - _log(loss_K),
      jnp.log(jnp.maximum(weight_K, 1e-6)),
      jnp.log1p(epochs * done * weight_K),
    ],
    axis=1,
  )
  moving_KF = jnp.where(course.present_K[:, None], moving_KF, 0.0)
  global_G = jnp.stack(
    [
      jnp.asarray(done, moving_KF.dtype),
      jnp.mean(_log(loss_T) - _log(run.first_T)),
      jnp.mean(_log(run.loss_T) - _log(loss_T)),
    ]
  )
  return Seen(jnp.concatenate([moving_KF, still_KS], axis=1), global_G)


def _log(loss: shapes.Array) -> shapes.Array:
  return jnp.log(jnp.maximum(loss, _TINY))


def objective(
  psi: shapes.Tree,
  policy: Policy,
  windows: Windows,
  course: steering.Course,
  trust: float,
) -> shapes.Scalar:
  r"""What the mixtures of a policy are worth, less what they differ from the last ones.

  .. math:: \sum_w \Big[ \sum_k \hat a_{wk} \log \frac{p_k(x_w)}{p_{wk}}
            - \frac{1}{2 r}\, \mathrm{KL}\big(p_w \,\|\, p(x_w)\big) \Big], \qquad
            a_{wk} = -\frac{\partial L_w}{\partial \log p_{wk}}, \quad
            \hat a_w = \frac{a_w}{\sum_k |a_{wk}|}

  per window. Its derivative where the policy still asks for :math:`p_w` is that of the
  targets' losses, each in units of what its window has told, so that none counts more
  for its moment. Could p be anything at every window, it would be
  :math:`p_w + 2 r\, \hat a_w`: a share r of the tokens moves.

  Args:
    psi: of the network.
    policy: has the units of what is seen.
    windows: what was seen, trained on and measured.
    course: knows the domains.
    trust: r.
  """

  def recommended(seen):
    return mixture(policy._replace(psi=psi), seen, course)

  p_WK, last_WK = jax.vmap(recommended)(windows.seen), windows.mixture_WK
  # A domain that holds nothing has no gain.
  log_WK = _log(jnp.where(last_WK > 0, p_WK, 1.0)) - _log(
    jnp.where(last_WK > 0, last_WK, 1.0)
  )
  worth_WK = in_own_units(windows) + last_WK / (2 * trust)
  counted = jnp.maximum(jnp.sum(windows.counts_W), 1.0)
  return jnp.sum(windows.counts_W[:, None] * worth_WK * log_WK) / counted


def in_own_units(windows: Windows) -> shapes.Array:
  """Gains over the sum of their sizes in each window, [W, K]."""
  gain_WK = windows.gain_WK
  size_W = jnp.sum(jnp.abs(gain_WK), axis=1)
  safe_W = jnp.where(size_W > 0, size_W, 1.0)
  return gain_WK / safe_W[:, None]


def over_natural(
  windows: Windows, mass_K: shapes.FloatK
) -> tuple[shapes.Scalar, shapes.Scalar]:
  """What the mixtures were worth beyond natural ones: (mean over windows, error).

  To first order in the logarithms of the shares, in the units of `objective`. The
  policy had not seen these windows, so it is no fit.
  """
  safe_K = jnp.where(mass_K > 0, mass_K, 1.0)
  ratio_WK = windows.mixture_WK / safe_K
  log_WK = jnp.log(jnp.where(ratio_WK > 0, ratio_WK, 1.0))
  worth_W = windows.counts_W * jnp.sum(log_WK * in_own_units(windows), axis=1)
  count = jnp.maximum(jnp.sum(windows.counts_W), 1.0)
  mean = jnp.sum(worth_W) / count
  spread = jnp.sum(windows.counts_W * (worth_W - mean) ** 2) / count
  return mean, jnp.sqrt(spread / count)


def with_units(
  policy: Policy, windows: Windows, mass_K: shapes.FloatK
) -> Policy:
  """With the units of these windows, if it has none yet."""
  counts_W = windows.counts_W / jnp.maximum(jnp.sum(windows.counts_W), 1.0)
  seen = windows.seen
  square_F = jnp.einsum("w,k,wkf->f", counts_W, mass_K, seen.domain_KF**2)
  square_G = jnp.einsum("w,wg->g", counts_W, seen.global_G**2)
  still = len(square_F) - len(LEAST_MOVING)
  least_F = jnp.array((*LEAST_MOVING, *(LEAST_STILL,) * still))
  known = jnp.any(policy.scale_F > 0)
  return Policy(
    policy.psi,
    jnp.where(known, policy.scale_F, jnp.maximum(jnp.sqrt(square_F), least_F)),
    jnp.where(
      known,
      policy.scale_G,
      jnp.maximum(jnp.sqrt(square_G), jnp.array(LEAST_GLOBAL)),
    ),
  )


def to_arrays(policy: Policy) -> dict[str, np.ndarray]:
  """The policy as named arrays, for a file."""
  named = traverse_util.flatten_dict(policy._asdict(), sep=".")
  return {name: np.asarray(x) for name, x in named.items()}


def from_arrays(arrays: Mapping[str, np.ndarray], like: Policy) -> Policy:
  """The policy of a file.

  Args:
    arrays: of `to_arrays`.
    like: a policy of the same shapes.
  Raises:
    UserError: the shapes are others.
  """
  wanted = {name: x.shape for name, x in to_arrays(like).items()}
  came = {name: x.shape for name, x in arrays.items()}
  if came != wanted:
    name = min(set(wanted.items()) ^ set(came.items()))[0]
    raise UserError(
      f"The policy has {name} of shape {came.get(name)}, and one of these settings "
      f"has it of {wanted.get(name)}; set meta_scheduler.projected to what the policy "
      "was learned with."
    )
  nested = traverse_util.unflatten_dict(
    {name: jnp.asarray(x) for name, x in arrays.items()}, sep="."
  )
  return Policy(**nested)
