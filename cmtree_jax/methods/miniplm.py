"""MiniPLM: documents that a large model knows better than a small one does."""

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  Documents,
  Facts,
  Look,
  Method,
  Planted,
  Small,
)

SMALL = Small()
PLANTED = Planted(
  more=(("learnable", "noise"),),
  documents=(("plain", "random"), ("plain", "shuffled")),
)


def make(*, share: float = 0.5) -> Method:
  r"""Difference sampling: the documents with the largest gain of a teacher.

  .. math:: s_i = \ell_\text{proxy}(x_i) - \ell_\text{teacher}(x_i)
              = \log p_\text{teacher}(x_i) - \log p_\text{proxy}(x_i)

  with mean nats per token. What both know well is easy and common, and what neither
  knows is noise; both are close to zero.

  Departures: teacher and reference are trained for this, on the pool itself and as
  long as each other; in the paper the teacher comes from elsewhere and has read far
  more. So s tells what size alone learns. The authors' README divides the two
  logarithms; their code and the paper subtract, as here. Documents are scored whole,
  not instances of 1024 tokens.

  Cost:
    A proxy and a teacher (`config.look.teacher`) of `config.look.steps` steps, and a
    forward pass of each over the pool; 8 bytes a document, and 90 while they are
    ranked.

  Args:
    share: of the pool's tokens that is kept; more where documents may not be
      repeated so often.
  Returns:
    A Method that reads the losses under two models; it needs no targets.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Gu et al., `MiniPLM <https://arxiv.org/abs/2410.17215>`_, 2024, difference
    sampling; thu-coai/MiniPLM at ac2302f.
  """
  checks.share(share=share)
  checks.above_zero(share=share)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None and pool.loss_ON is not None
    found = scoring.top(
      gains(pool), pool, share=share, max_weight=facts.max_weight
    )
    q_N = pool.tokens_N / pool.tokens_N.sum()
    proxy, teacher = (loss_N @ q_N for loss_N in pool.loss_ON)
    return found.telling(proxy_loss=[proxy], teacher_loss=[teacher])

  return scoring.method(
    init,
    features=frozenset({"loss_ON"}),
    look=Look(models=("proxy", "teacher")),
    targeted=False,
  )


def gains(pool: Documents) -> np.ndarray:
  """s of every document: the proxy's loss less the teacher's."""
  assert pool.loss_ON is not None
  proxy_N, teacher_N = np.asarray(pool.loss_ON, np.float64)
  return proxy_N - teacher_N
