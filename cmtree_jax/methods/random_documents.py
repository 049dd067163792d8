"""Random documents: a subset chosen blindly, the control of selection."""

from cmtree_jax import shapes
from cmtree_jax.data.draw import sampler
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import Facts, Method, Planted, Small
from cmtree_jax.methods.reasons import because

SMALL = Small()
PLANTED = Planted(cannot="it chooses blindly")


def make(*, share: float = 0.2) -> Method:
  r"""Trains on a random share of the documents, as often as their number allows.

  .. math:: w_i = 1 / m \text{ if } u_i < s \text{ else } 0, \qquad
            m = \textstyle\sum_{u_i < s} q_i

  It repeats documents as often as a method of selection does, but chooses blindly.
  So what such a method gains over this one is the gain of its choice.

  Args:
    share: s, the share of the documents that is kept. Where the repetition cap R is
      below 1 / m, the others get what is left.
  Returns:
    A Method that reads the documents' keys.
  Raises:
    ValueError: for a share that is not in (0, 1].
  """
  if not 0 < share <= 1:
    raise ValueError(f"share {share} must be above 0 and at most 1.")

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    u_N = sampler.unit_keys(pool.key_N)
    return scoring.chosen(
      u_N < share, pool, max_weight=facts.max_weight, score_N=-u_N
    ).saying(because(f"random number {{u:.3f}}, not below {share:g}", u=u_N))

  return scoring.method(init, targeted=False)
