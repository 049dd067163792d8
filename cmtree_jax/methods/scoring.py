"""What methods share that score every document of the pool for each target."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cmtree_jax import budget, checks, shapes
from cmtree_jax.data.draw import sampler
from cmtree_jax.methods.base import (
  MEASURED,
  Conclusion,
  Documents,
  DocumentWeights,
  Facts,
  Look,
  Method,
)
from cmtree_jax.methods.reasons import Reasons, because

_ONCE = Look()  # one proxy, at its end
CHUNK = 32_768  # documents that are scored at a time; bounds memory

LEAST = 1e-6  # weight of what is left out: a logarithm must be finite


class Weighed(NamedTuple):
  """The state of a method that scores documents."""

  log_w_N: shapes.FloatN  # float32; the corpus mean of the weights is one
  score_N: (
    shapes.FloatN
  )  # ranks the documents: the highest is the first to be kept
  # What a person reads, one number for each target, or one in all: "tokens" of the
  # pool that its own weights hold.
  told_T: dict[str, np.ndarray]
  # Why documents weigh less than others; None: their scores say all that there is.
  why: Reasons | None = None

  @property
  def reasons(self) -> Reasons | None:
    """The method's own, else the scores; None where a score only says kept or not."""
    if self.why is not None or len(np.unique(self.score_N)) < 3:
      return self.why
    return because("score {score:.4g}", score=self.score_N)

  @property
  def weights(self) -> DocumentWeights:
    """What the method hands over."""
    return DocumentWeights(self.log_w_N)

  @property
  def conclusion(self) -> Conclusion:
    """For a method that scores what the loop `values` found."""
    return Conclusion(self.weights, self.reasons, self.history)

  @property
  def history(self) -> tuple[dict[str, Any], ...]:
    """One row for each target, in their order; one row where there are none."""
    return tuple(
      {name: x_T[t].item() for name, x_T in self.told_T.items()}
      for t in range(len(self.told_T["tokens"]))
    )

  def telling(self, **told_T: Sequence[Any]) -> "Weighed":
    """The same, with more to read of each target."""
    more = {name: np.asarray(x) for name, x in told_T.items()}
    return self._replace(told_T={**self.told_T, **more})

  def saying(self, why: Reasons) -> "Weighed":
    """The same, with the reasons of documents."""
    return self._replace(why=why)


def method(
  weigh: Callable[[shapes.Key, Facts], Weighed],
  *,
  features: frozenset[str] = frozenset(),
  look: Look = _ONCE,
  curate: Callable[[Facts, int], np.ndarray] | None = None,
  targeted: bool = True,
) -> Method:
  """A method that weighs documents by their scores.

  Its loop is `look` if a model has to measure one of the features, else `none`.

  Args:
    weigh: does its whole work.
    features: as in `Method`.
    look: as in `Method`.
    curate: as in `Method`.
    targeted: as in `Method`.
  """
  return Method(
    init=weigh,
    step=lambda state, signals: (state, None),
    finalize=lambda state: state.weights,
    signals=frozenset({"index_B"}),
    loop="look" if features & MEASURED else "none",
    features=features,
    look=look,
    curate=curate,
    history=lambda state: state.history,
    reasons=lambda state: state.reasons,
    weighs="documents",
    scores=True,
    targeted=targeted,
  )


def named(
  option: str,
  given: Any,
  serves: Callable[[Method], bool],
  wanted: str,
  *,
  but: Callable[..., Method] | None = None,
) -> Method:
  """The method that an option names: itself, or by its name and as it is made.

  Args:
    option: that is told in errors.
    given: what it holds.
    serves: whether a method may stand there.
    wanted: the same in words.
    but: makes the method whose option it is, which cannot name itself.
  Raises:
    ValueError: an unknown name, or a method that does not serve.
  """
  from cmtree_jax.methods import METHODS  # methods of them ask for this

  if not isinstance(given, Method):
    made = {n: m.make() for n, m in METHODS.items() if m.make is not but}
    checks.one_of(option, given, tuple(n for n in made if serves(made[n])))
    return made[given]
  if not serves(given):
    raise ValueError(
      f"{option} must be a method that {wanted}, came one that weighs "
      f"{given.weighs} by the loop {given.loop}."
    )
  return given


def best(
  score_TN: Iterable[np.ndarray],
  pool: Documents,
  *,
  share: float,
  max_weight: float,
) -> Weighed:
  r"""Equal weights for the documents that some target ranks among its best.

  .. math:: u_i = \min_t \sum_{j \text{ before } i} q_j, \qquad
            w_i = 1 / m \text{ if } u_i < s, \qquad m = \sum_{u_i < s} q_i

  where a target's documents are in the order of their scores. Where a document may
  not be repeated 1 / m times, s grows until it may.

  Args:
    score_TN: for each target the scores of all documents.
    pool: the documents.
    share: s, of the pool's tokens.
    max_weight: R.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> found = best([np.array([3.0, 0.0, 2.0, 1.0])], pool, share=0.3, max_weight=4)
  >>> np.exp(found.log_w_N).round(4)
  array([2., 0., 2., 0.], dtype=float32)
  >>> found.history  # of the two documents
  ({'tokens': 18, 'target': 0},)
  """
  q_N = pool.tokens_N / pool.tokens_N.sum()
  before_TN = [
    # Whole tokens are added up: rounded shares would miss s by a document.
    _before(_order(score_N, pool.key_N), pool.tokens_N) / pool.tokens_N.sum()
    for score_N in score_TN
  ]
  u_N = np.min(before_TN, axis=0)
  # The last ones may make the rounded sum fall short of the whole: then all stay.
  order_N = _order(-u_N, pool.key_N)
  held_N = np.cumsum(q_N[order_N])
  enough = np.searchsorted(held_N, (1 - 1e-9) / max_weight)
  enough = min(enough, len(order_N) - 1)
  last = max(float(u_N[order_N[enough]]), np.nextafter(share, 0))
  kept_N = u_N <= last
  tokens_T = [pool.tokens_N[before_N <= last].sum() for before_N in before_TN]
  found = weighed(kept_N / q_N[kept_N].sum(), -u_N, tokens_T)
  why = because(
    "{before:.1%} of the tokens rank before it for the target that wants it most",
    before=u_N,
  )
  return found.telling(target=range(len(tokens_T))).saying(why)


def top(
  score_N: np.ndarray, pool: Documents, *, share: float, max_weight: float
) -> Weighed:
  """`best` of one ranking that is no target's.

  Args:
    score_N: of all documents.
    pool: the documents.
    share: s, of the pool's tokens.
    max_weight: R.
  """
  found = best([score_N], pool, share=share, max_weight=max_weight)
  why = because(
    "{before:.1%} of the tokens rank before it", before=-found.score_N
  )
  return found._replace(told_T={"tokens": found.told_T["tokens"]}, why=why)


def chosen(
  kept_N: np.ndarray,
  pool: Documents,
  *,
  max_weight: float,
  score_N: np.ndarray | None = None,
) -> Weighed:
  r"""Equal weights for the documents that are kept, as far as they may be repeated.

  .. math:: w_i = \min(1 / m, R) \text{ if kept}, \qquad m = \sum_\text{kept} q_i

  Where the cap R is below 1 / m, the others get what is left of the tokens.

  Args:
    kept_N: which documents are kept; none or all: all weigh the same.
    pool: the documents.
    max_weight: R.
    score_N: ranks them; None: those that are kept come first.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> found = chosen(np.array([True, False, False, False]), pool, max_weight=2)
  >>> np.exp(found.log_w_N).round(3)
  array([2.   , 0.667, 0.667, 0.667], dtype=float32)
  """
  q_N = pool.tokens_N / pool.tokens_N.sum()
  kept_N = np.asarray(kept_N, bool)
  m = q_N[kept_N].sum()
  w_N = np.ones(len(q_N))
  if kept_N.any() and not kept_N.all():
    # What rounding takes from the mass must not make the others' negative.
    m = min(m, 1 - 1e-12)
    kept = min(1 / m, max_weight)
    w_N = np.where(kept_N, kept, max(1 - m * kept, 0.0) / (1 - m))
  if score_N is None:
    score_N = kept_N
  return weighed(w_N, score_N, [pool.tokens_N[kept_N].sum()])


def proportional(
  score_TN: Iterable[np.ndarray],
  pool: Documents,
  *,
  num_targets: int,
  max_weight: float,
) -> Weighed:
  r"""Weights that grow with the score, the mean over targets.

  .. math:: w_i = \min\Big(R,\, c \sum_t v_{ti}\Big), \qquad
            v_{ti} = \min(T R,\, c_t e^{s_{ti}}), \qquad \sum_i q_i v_{ti} = 1

  Each target gives as many tokens, however much of them the cap takes from its best
  documents; only what several targets want of one document goes to all others. The
  inner cap is T times the outer one, as a document that one target wants gets a T-th
  of what it gives it.

  Args:
    score_TN: for each target the scores of all documents, s.
    pool: the documents.
    num_targets: T.
    max_weight: R.

  >>> pool = Documents(np.arange(4, dtype=np.uint64), np.full(4, 9), np.zeros((4, 1)))
  >>> score_N = np.log([6.0, 1.0, 1.0, 0.5])
  >>> found = proportional([score_N], pool, num_targets=1, max_weight=2)
  >>> np.exp(found.log_w_N).round(4)
  array([2. , 0.8, 0.8, 0.4], dtype=float32)
  """
  q_N = pool.tokens_N / pool.tokens_N.sum()
  total_N, tokens_T = np.zeros(len(q_N)), []
  for score_N in score_TN:
    v_N = budget.capped(
      np.exp(score_N - np.max(score_N)),
      q_N,
      max_weight=num_targets * max_weight,
    )
    total_N += v_N
    # As many tokens as equal weights would hold that are as uneven.
    tokens_T.append(pool.tokens_N.sum() / (q_N @ v_N**2))
  w_N = budget.capped(total_N, q_N, max_weight=max_weight)
  found = weighed(w_N, total_N, tokens_T)
  return found.telling(target=range(num_targets))


def first(score_N: np.ndarray, pool: Documents, *, share: float) -> np.ndarray:
  """Which are the best documents that hold a share of the tokens, bool.

  They are as few as reach it; equal ones are told apart by their ids.

  >>> pool = Documents(np.arange(3, dtype=np.uint64), np.full(3, 9), np.zeros((3, 1)))
  >>> first(np.array([1.0, 3.0, 2.0]), pool, share=0.5)
  array([False,  True,  True])
  """
  tokens_N = np.asarray(pool.tokens_N)
  before_N = _before(_order(score_N, pool.key_N), tokens_N)
  return before_N / tokens_N.sum() < share


def gumbel(key_N: np.ndarray, key: shapes.Key) -> np.ndarray:
  """Noise that depends on a document's id and the key, on no order.

  Added to logarithms of weights it makes the first of a ranking a sample without
  replacement (Vieira, 2014).

  Args:
    key_N: keys of the documents.
    key: of the draw.
  """
  high, low = np.asarray(jax.random.key_data(key), np.uint64)
  # Mixed twice, or the noise of key 0 would be the order in which others draw.
  bits_N = sampler.mixed(sampler.mixed(key_N) ^ (high << np.uint64(32) | low))
  u_N = ((bits_N >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
  return -np.log(-np.log(u_N))


def _order(score_N: np.ndarray, key_N: np.ndarray) -> np.ndarray:
  """Documents from the highest score to the lowest; equal ones by their ids."""
  return np.lexsort((key_N, -score_N))


def _before(order_N: np.ndarray, tokens_N: np.ndarray) -> np.ndarray:
  """The tokens that stand before each document."""
  before_N = np.empty(len(order_N))
  before_N[order_N] = np.cumsum(tokens_N[order_N]) - tokens_N[order_N]
  return before_N


def weighed(
  w_N: np.ndarray, score_N: np.ndarray, tokens_T: Sequence[Any]
) -> Weighed:
  """The state of a method that has weighed the documents, none with zero.

  Args:
    w_N: weights of mean one.
    score_N: ranks the documents.
    tokens_T: of the pool that the weights of each target hold.
  """
  log_w_N = np.log(np.maximum(w_N, LEAST)).astype(np.float32)
  found = Weighed(log_w_N, np.asarray(score_N, np.float64), {})
  return found.telling(tokens=tokens_T)
