"""RDS+: every example of a target takes the documents whose states are nearest to it."""

from collections.abc import Callable, Iterator

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  TARGET_FIRST,
  Documents,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.selection import neighbors

SMALL = Small()
PLANTED = Planted(more=TARGET_FIRST, documents=TARGET_DOCUMENTS)


def make(*, share: float = 0.1) -> Method:
  r"""Round-robin over the target's examples, each with its nearest unused document.

  .. math:: \mathrm{sim}(x, m) = \cos(h(x), h(m)), \qquad
            h(x) = \sum_{\tau=1}^{|x|} \frac{\tau}{\sum_{\sigma} \sigma}\, h_\tau(x)

  with the last hidden states of the proxy: late ones have read more, and weigh more.
  In each round every example, in the order of the ids, takes the document of the
  greatest similarity that none has taken, so that no example is served twice before
  all are served once.

  Departures: the model is the proxy, which trained on the pool, and not the large one
  that will be trained; the whole text of an example is read, not its answer alone.
  Every target has rounds of its own until its share of tokens is reached; in the
  paper targets take turns too.

  Cost:
    A proxy of `config.look.steps` steps, and a forward pass over pool and targets;
    then an inner product of each example with each document, a few times. Hidden
    states, 4 bytes a document for each number, and 90 while they are ranked.

  Args:
    share: of the pool's tokens that each target keeps; more where documents may not
      be repeated so often.
  Returns:
    A Method that reads the documents' hidden states.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Ivison et al., `Large-Scale Data Selection for Instruction Tuning
    <https://arxiv.org/abs/2503.01807>`_, 2025, section 3.
  """
  checks.share(share=share)
  checks.above_zero(share=share)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None
    # What the cap forces to be kept is ranked as well.
    least = max(share, 1 / facts.max_weight)
    score_TN = (scores(pool, target, share=least) for target in facts.train)
    return scoring.best(
      score_TN, pool, share=share, max_weight=facts.max_weight
    )

  return scoring.method(init, features=frozenset({"late_hidden_ONH"}))


def scores(pool: Documents, target: Documents, *, share: float) -> np.ndarray:
  """Minus the turn in which a document was taken; minus infinity: in none.

  Args:
    pool: the documents, measured.
    target: the examples, measured.
    share: of the pool's tokens that are taken at least.
  """
  assert pool.late_hidden_ONH is not None
  assert target.late_hidden_ONH is not None
  state_NH, goal_MH = pool.late_hidden_ONH[-1], target.late_hidden_ONH[-1]
  goal_MH = goal_MH[np.argsort(target.key_N, kind="stable")]
  length_N = _by_chunks(lambda x_BH: np.linalg.norm(x_BH, axis=1), state_NH)
  length_N = np.maximum(length_N, 1e-12)
  # Twice its turns if all are as greedy, so that few lists are made again.
  depth = 16 + int(2 * share * len(state_NH) / len(goal_MH))

  def nearest(example: int, taken_N: np.ndarray) -> np.ndarray:
    dot_N = _by_chunks(lambda x_BH: x_BH @ goal_MH[example], state_NH)
    cosine_N = np.asarray(neighbors.rounded(dot_N / length_N))
    cosine_N = np.where(taken_N, -np.inf, cosine_N)
    return _first(cosine_N, pool.key_N, depth)

  enough = share * float(pool.tokens_N.sum())
  order = round_robin(nearest, len(goal_MH), pool.tokens_N, enough)
  score_N = np.full(len(state_NH), -np.inf)
  score_N[order] = -np.arange(len(order))
  return score_N


def round_robin(
  nearest: Callable[[int, np.ndarray], np.ndarray],
  examples: int,
  tokens_N: np.ndarray,
  enough: float,
) -> list[int]:
  """Numbers of documents in the order in which examples take them.

  Args:
    nearest: (example, which documents are taken) -> some of the nearest that are not,
      the nearest first.
    examples: M.
    tokens_N: length of each document.
    enough: tokens after which none is taken any more.
  """
  taken_N = np.zeros(len(tokens_N), bool)
  waiting: list[Iterator[int]] = [iter(())] * examples
  order: list[int] = []
  held = 0
  while held < enough and len(order) < len(tokens_N):
    example = len(order) % examples
    document = next((i for i in waiting[example] if not taken_N[i]), None)
    if document is None:  # its list has come to an end
      waiting[example] = iter(nearest(example, taken_N).tolist())
      continue
    taken_N[document] = True
    order.append(document)
    held += tokens_N[document]
  return order


def _first(score_N: np.ndarray, key_N: np.ndarray, count: int) -> np.ndarray:
  """The best so many documents; all that are equal to the last of them, too."""
  if count < len(score_N):
    level = np.partition(score_N, -count)[-count]
    number = np.flatnonzero(score_N >= max(level, np.finfo(np.float32).min))
  else:
    number = np.flatnonzero(np.isfinite(score_N))
  return number[np.lexsort((key_N[number], -score_N[number]))]


def _by_chunks(
  of: Callable[[np.ndarray], np.ndarray], x_NH: np.ndarray
) -> np.ndarray:
  parts = packing.chunks(len(x_NH), scoring.CHUNK)
  return np.concatenate([of(np.asarray(x_NH[part])) for part in parts])
