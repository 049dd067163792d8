"""ZIP-FIT: documents by how well they compress together with the target's texts."""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax import checks, shapes
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

SMALL = Small()
PLANTED = Planted(more=TARGET_FIRST, documents=TARGET_DOCUMENTS)


def make(*, share: float = 0.1, texts: int = 64) -> Method:
  r"""Documents nearest to a target's texts by normalized compression distance.

  .. math:: d(x, v) = \frac{C(xv) - \min(C(x), C(v))}{\max(C(x), C(v))}, \qquad
            s_i = 1 - \frac1V \sum_v d(x_i, v)

  with the bytes C of a text that gzip has compressed. What two texts share, it writes
  once, as far as it lies within 32,768 bytes: of a longer document only the end is
  compared. A distance is small only among texts of about the same length.

  Departures: each target's score is the mean over some of its texts, those with the
  smallest keys, not over all: 64 name nine tenths of the best tenth that 256 name.
  Shares are of the tokens, not of the documents, and every target keeps its own. The
  code's default is now another compressor, LZ4.

  Cost:
    Each document is compressed once, and some bytes of it with each of `texts` texts
    of each target, by the workers: 6 ms of a core for three targets. It is kept on
    disk, 4 bytes for each document and target. No FLOPs of a model.

  Args:
    share: of the pool's tokens that each target keeps; more where documents may not
      be repeated so often.
    texts: V, most of each target that documents are compared with.
  Returns:
    A Method that reads the texts of all documents.
  Raises:
    ValueError: for an option that is out of its range.
  References:
    Obbad et al., `ZIP-FIT <https://arxiv.org/abs/2410.18194>`_, 2024, Algorithm 1.
  """
  checks.share(share=share)
  checks.above_zero(share=share)
  checks.at_least(1, texts=texts)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    del key
    pool = facts.pool
    assert pool is not None and pool.text is not None
    measure = Compression(tuple(sample(one, texts) for one in facts.train))
    score_NT = pool.text.measured(measure)["score_NT"]
    return scoring.best(
      np.asarray(score_NT).T, pool, share=share, max_weight=facts.max_weight
    )

  return scoring.method(init, features=frozenset({"text"}))


class Compression(NamedTuple):
  """How well texts compress together with those of each target, a `Measure`.

  >>> both = Compression((("to be or not to be",), ("0123456789",)))
  >>> found = both(["to be or not to be?"])["score_NT"]
  >>> bool(found[0, 0] > found[0, 1])
  True
  """

  targets: Sequence[Sequence[str]]
  version: int = 1

  def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """The mean of one minus the distance, for each text and target."""
    targets = [[text.encode() for text in one] for one in self.targets]
    sizes = [[len(zlib.compress(x, *_GZIP)) for x in one] for one in targets]
    score_NT = np.zeros((len(texts), len(targets)), np.float32)
    for number, text in enumerate(texts):
      begun = zlib.compressobj(_GZIP[0], zlib.DEFLATED, _GZIP[1])
      written = len(begun.compress(text.encode()))
      alone = written + len(begun.copy().flush())
      for target, (others, others_sizes) in enumerate(
        zip(targets, sizes, strict=True)
      ):
        total = 0.0
        for other, size in zip(others, others_sizes, strict=True):
          goes_on = begun.copy()
          both = written + len(goes_on.compress(other)) + len(goes_on.flush())
          total += (both - min(alone, size)) / max(alone, size)
        score_NT[number, target] = 1 - total / len(others)
    return {"score_NT": score_NT}


def sample(documents: Documents, most: int) -> tuple[str, ...]:
  """Some texts, as good as random: those with the smallest keys."""
  assert documents.text is not None
  first = np.argsort(documents.key_N, kind="stable")[:most]
  return tuple(documents.text[int(number)] for number in first)


_GZIP = 9, 31  # level; window of 32 KiB, with gzip's header and checksum
