"""MetaCLIP: documents that match a list of entries, balanced over the entries."""

from typing import NamedTuple

import numpy as np

from cmtree_jax import checks, shapes
from cmtree_jax.data.draw import packing
from cmtree_jax.embed import entries as matching
from cmtree_jax.embed.grams import Grams
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import (
  TARGET_DOCUMENTS,
  Documents,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.methods.reasons import because
from cmtree_jax.types import UserError

KINDS = ("soft", "draw")
READS = ("salient", "chunks", "whole")

SMALL = Small()
# Which of two documents matches more of the target's terms is nothing to this method.
PLANTED = Planted(
  more=(("target", "natural"), ("target", "other")),
  nothing=("other",),
  documents=TARGET_DOCUMENTS,
)


def make(
  *,
  entries: str = "",
  terms: int = 20_000,
  reads: str = "salient",
  salient: int = 3,
  tail: float = 0.06,
  kind: str = "soft",
) -> Method:
  r"""Keeps all documents that match rare entries, and few that match common ones.

  .. math:: p_e = \min(1, t / c_e), \qquad
            P_i = 1 - \prod_{e \in E_i} (1 - p_e)

  with the entries :math:`E_i` that occur in a document and the number
  :math:`c_e` of documents that each occurs in. A document is kept with the
  probability P, by itself: counts are needed once, and then every shard can decide
  alone. Documents without an entry are left out.

  A caption matches few entries and a document many, of which one that is rare is
  enough to keep it. So only some entries of a document count, by `reads`: "salient",
  those that tell most of it; "chunks", those of each piece as long as a caption, with
  the mean of the pieces' P; "whole", all of them, as in the paper.

  Departures: entries are the targets' own terms unless a list is given. The count t
  is that below which entries hold a given share of all matches, as MetaCLIP 2 carries
  it from one language to another: 20,000 of 400 million captions says nothing of
  another corpus. Entries are matched as its code matches them, see
  `embed/entries.py`, those of languages with and without blanks at once.

  Cost:
    One pass over the texts by the workers, 0.2 ms of a core for a document of 1,000
    characters and 20,000 entries, and two over the matches. On disk 8 bytes for each
    match; in memory 24 bytes for each document, and 8 more for each salient entry.
    No FLOPs of a model.

  Args:
    entries: a file of entries, one a line ("hot dog", or "hot_dog.n.01" as WordNet
      has it), or a JSON list of them; without one, the targets' terms.
    terms: most that are taken from each target.
    reads: what of a document is matched.
    salient: entries of a document that count, "salient": the first by how often they
      occur in it and in how few others, tf-idf.
    tail: share of all matches that is of entries rarer than t.
    kind: "soft" weighs documents by P, "draw" keeps them with the probability P.
  Returns:
    A Method that reads the texts of all documents.
  Raises:
    ValueError: for an option that is out of its range.
    UserError: there is neither a target nor a list, or no entry ever occurs.
  References:
    Xu et al., `Demystifying CLIP Data <https://arxiv.org/abs/2309.16671>`_, 2023,
    section 3; Chuang et al., `MetaCLIP 2 <https://arxiv.org/abs/2507.22062>`_, 2025;
    facebookresearch/MetaCLIP at f47f784.
  """
  checks.one_of("reads", reads, READS)
  checks.one_of("kind", kind, KINDS)
  checks.at_least(1, terms=terms, salient=salient)
  checks.share(tail=tail)
  checks.above_zero(tail=tail)

  def init(key: shapes.Key, facts: Facts) -> scoring.Weighed:
    pool = facts.pool
    assert pool is not None
    names = facts.entries or terms_of(facts.train, most=terms)
    found = balance(pool, names, reads=reads, salient=salient, tail=tail)
    if kind == "draw":
      u_N = np.exp(-np.exp(-scoring.gumbel(pool.key_N, key)))  # uniform
      weighed = scoring.chosen(
        u_N < found.kept_N,
        pool,
        max_weight=facts.max_weight,
        score_N=found.kept_N,
      )
    else:
      with np.errstate(divide="ignore"):
        log_kept_N = np.log(found.kept_N)
      weighed = scoring.proportional(
        [log_kept_N], pool, num_targets=1, max_weight=facts.max_weight
      )
      # Its one ranking is no target's.
      tokens_T = weighed.told_T["tokens"]
      weighed = weighed._replace(
        score_N=found.kept_N, told_T={"tokens": tokens_T}
      )
    why = because(
      "its entries keep it with probability {kept:.3f}", kept=found.kept_N
    )
    return weighed.telling(
      kept=[found.kept_N.mean()],
      limit=[found.limit],
      entries=[np.count_nonzero(found.count_E)],
    ).saying(why)

  return scoring.method(
    init, features=frozenset({"text"}), targeted=not entries
  )._replace(entries=entries)


class Balance(NamedTuple):
  """What entries say of the pool's documents."""

  kept_N: np.ndarray  # P
  limit: float  # t
  count_E: np.ndarray  # c


def balance(
  pool: Documents,
  names: tuple[str, ...],
  *,
  reads: str,
  salient: int,
  tail: float,
) -> Balance:
  """Matches, counts and balances; see `make`."""
  assert pool.text is not None
  chunk = matching.CHUNK if reads == "chunks" else 0
  found = pool.text.measured(matching.Matches(names, chunk))
  matches = Grams(
    _starts(found["size_C"]), found["entry"], found["count"], len(names)
  )
  if reads == "salient":
    matches = salient_ones(matches, salient)
  count_E = occurrences(matches)
  if not count_E.any():
    raise UserError(
      f"None of the {len(names):,} entries of metaclip, such as {names[0]!r}, occurs "
      "in the pool; give it a list for this corpus, config.metaclip.entries."
    )
  limit = limit_of(tail, count_E)
  kept_C = kept(matches, probabilities(count_E, limit))
  if reads == "chunks":
    kept_C = means(kept_C, found["chunks_N"])
  return Balance(kept_C, limit, count_E)


def probabilities(count_E: np.ndarray, limit: float) -> np.ndarray:
  """p of every entry; one that never occurs has 1.

  >>> probabilities(np.array([0, 5, 10, 40]), 10.0)
  array([1.  , 1.  , 1.  , 0.25])
  """
  return limit / np.maximum(count_E, limit)


def limit_of(tail: float, count_E: np.ndarray) -> float:
  """t, a count: entries up to it hold nearly the share `tail` of all matches.

  >>> limit_of(0.1, np.array([50, 40, 5, 5]))
  5.0
  """
  sorted_E = np.sort(count_E[count_E > 0])
  share_E = np.cumsum(sorted_E) / sorted_E.sum()
  return float(sorted_E[np.argmin(np.abs(share_E - tail))])


def kept(matches: Grams, p_E: np.ndarray) -> np.ndarray:
  """P of every row of matches, float64; zero without one."""
  # Where p is one, minus infinity: a row with such an entry is kept for certain.
  with np.errstate(divide="ignore"):
    log_left_E = np.log1p(-p_E)
  parts = [np.zeros(0)]
  for row, size, inside in _rows(matches):
    log_left = np.bincount(row, log_left_E[matches.bucket[inside]], size)
    parts.append(0.0 - np.expm1(log_left))  # no minus zero
  return np.concatenate(parts)


def occurrences(matches: Grams) -> np.ndarray:
  """c, the number of rows that every entry occurs in."""
  count_E = np.zeros(matches.buckets, np.int64)
  for _, _, inside in _rows(matches):
    count_E += np.bincount(matches.bucket[inside], minlength=len(count_E))
  return count_E


def salient_ones(matches: Grams, most: int) -> Grams:
  """The matches of every row with the highest tf-idf; of equal ones the first."""
  num_rows = len(matches.start_N1) - 1
  idf_E = np.log(num_rows / np.maximum(occurrences(matches), 1))
  sizes = [np.zeros(0, np.int64)]
  buckets, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
  for row, size, inside in _rows(matches):
    bucket, count = matches.bucket[inside], matches.count[inside]
    order = np.lexsort((bucket, -count * idf_E[bucket], row))
    size_B = np.bincount(row, minlength=size)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(size_B) - size_B, size_B)
    first = np.sort(order[rank < most])
    sizes.append(np.minimum(size_B, most))
    buckets.append(bucket[first])
    counts.append(count[first])
  return Grams(
    _starts(np.concatenate(sizes)),
    np.concatenate(buckets),
    np.concatenate(counts),
    matches.buckets,
  )


def means(kept_C: np.ndarray, chunks_N: np.ndarray) -> np.ndarray:
  """The mean over the chunks of every document, each of which has one at least."""
  return np.add.reduceat(kept_C, _starts(chunks_N)[:-1]) / chunks_N


def terms_of(targets: tuple[Documents, ...], *, most: int) -> tuple[str, ...]:
  """Terms of all targets, each once; see `entries.terms`.

  Raises:
    UserError: there is no target, or none whose texts have a word in common.
  """
  if not targets:
    raise UserError(
      "metaclip has no target to take entries from; name a file of entries, "
      "config.metaclip.entries, or a target."
    )
  found: dict[str, None] = {}
  for target in targets:
    assert target.text is not None
    texts = (target.text[number] for number in range(len(target.text)))
    found |= dict.fromkeys(matching.terms(texts, most=most))
  if not found:
    raise UserError(
      "No word occurs in two texts of a target, so metaclip has no entries; name a "
      "file of them, config.metaclip.entries."
    )
  return tuple(found)


def _rows(matches: Grams):
  """(the row of every match, rows, where the matches are) of some rows at a time."""
  for part in packing.chunks(len(matches.start_N1) - 1, scoring.CHUNK):
    start_B1 = matches.start_N1[part.start : part.stop + 1]
    row = np.repeat(np.arange(len(start_B1) - 1), np.diff(start_B1))
    yield row, len(start_B1) - 1, slice(start_B1[0], start_B1[-1])


def _starts(size_N: np.ndarray) -> np.ndarray:
  return np.concatenate([[0], np.cumsum(size_N, dtype=np.int64)])
