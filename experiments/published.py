"""What papers report of single choices: differences of our recipes, and their signs."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.statistics import Interval
from experiments import verdicts
from experiments.claims import Results

# What is read of models: the mean over the targets, the one that gains least among
# those that drove the search, the one whose text the pool lacks, the one that drove
# nothing, and the gain on validation that the test does not have.
MEAN, WORST, ABSENT, UNNAMED, GAP = "mean", "worst", "absent", "unnamed", "gap"


class Seen(NamedTuple):
  """Something that is read of the models of one recipe."""

  part: str
  method: str
  of: str = MEAN


class Claim(NamedTuple):
  """One difference, what a paper says of it."""

  what: str
  more: tuple[Seen, ...]  # their sum
  less: tuple[Seen, ...]  # that is taken from it
  sign: int  # as published; 0: there is none
  published: str


def _pair(part: str, one: str, other: str, of: str = MEAN) -> Any:
  return (Seen(part, one, of),), (Seen(part, other, of),)


def _of_texts(texts: str) -> Any:
  """What fewer texts cost similarity, less what they cost alignment."""
  similar, aligned = "by_similarity", "by_dga"
  return (
    (Seen(texts, similar), Seen("all_texts", aligned)),
    (Seen("all_texts", similar), Seen(texts, aligned)),
  )


_EITHER = "better than either, by average accuracy"

CLAIMS: Mapping[str, tuple[Claim, ...]] = {
  "weborganizer": tuple(
    Claim(
      f"cells of both - {what}",
      *_pair("views", "topics_and_forms", other),
      sign=-1,
      published=_EITHER,
    )
    for what, other in (
      ("as many topics", "topics"),
      ("as many forms", "forms"),
      ("the topics they are made of", "few_topics"),
      ("the forms they are made of", "few_forms"),
    )
  ),
  "hermes": (
    *(
      Claim(
        f"in {size} cells, rule - random documents",
        *_pair("cells", f"rule_in_{size}", f"blind_in_{size}"),
        sign=sign,
        published=published,
      )
      for size, sign, published in (
        ("large", -1, "+.025 of accuracy, mean of 16 tasks"),
        ("middle", 0, "nothing with a fifth of the documents"),
        ("small", 0, "nothing"),
      )
    ),
    *(
      Claim(
        f"the gain in large cells - in {size} ones",
        *(
          tuple(Seen("cells", name) for name in names)
          for names in (
            ("rule_in_large", f"blind_in_{size}"),
            ("blind_in_large", f"rule_in_{size}"),
          )
        ),
        sign=-1,
        published="larger in large cells",
      )
      for size in ("middle", "small")
    ),
  ),
  "grape": (
    Claim(
      "target without text in the pool: CRISP - natural",
      *_pair("absent", "by_similarity", NATURAL, ABSENT),
      sign=1,
      published="harmed",
    ),
    Claim(
      "target without text in the pool: GRAPE - CRISP",
      *_pair("absent", "by_grape", "by_similarity", ABSENT),
      sign=-1,
      published="better on 8 languages that the pool lacks",
    ),
    Claim(
      "target that gains least: GRAPE - CRISP",
      *_pair("absent", "by_grape", "by_similarity", WORST),
      sign=-1,
      published="44.16 % against CRISP's 41.97, mean of six tasks",
    ),
    Claim(
      "target that nobody named: CRISP - natural",
      *_pair("absent", "by_similarity", NATURAL, UNNAMED),
      sign=1,
      published="harmed",
    ),
    Claim(
      "target that nobody named: GRAPE - CRISP",
      *_pair("absent", "by_grape", "by_similarity", UNNAMED),
      sign=-1,
      published="harmed less",
    ),
  ),
  "dga": (
    Claim(
      "importance sampling: few texts - all",
      (Seen("few_texts", "by_similarity"),),
      (Seen("all_texts", "by_similarity"),),
      sign=1,
      published="worse with few",
    ),
    Claim(
      "the same - what few texts cost DGA",
      *_of_texts("few_texts"),
      sign=1,
      published="DGA loses less",
    ),
    Claim(
      "with some texts: the same",
      *_of_texts("some_texts"),
      sign=1,
      published="DGA loses less",
    ),
    Claim(
      "with few texts: DGA - importance sampling",
      *_pair("few_texts", "by_dga", "by_similarity"),
      sign=-1,
      published="DGA is better",
    ),
    Claim(
      "with few texts, gain that the test lacks: importance sampling - DGA",
      *_pair("few_texts", "by_similarity", "by_dga", GAP),
      sign=1,
      published="importance sampling overfits",
    ),
  ),
}


def parts_of(relation: str) -> list[str]:
  """The comparisons that a relation is told by."""
  return list(
    dict.fromkeys(
      seen.part for one in CLAIMS[relation] for seen in (*one.more, *one.less)
    )
  )


def difference(one: Claim, parts: Mapping[str, Results]) -> Interval:
  """What a claim is of, with its interval over searches."""
  more_S, less_S = (
    np.sum([_read(seen, parts[seen.part]) for seen in side], axis=0)
    for side in (one.more, one.less)
  )
  searches = parts[one.more[0].part].searches
  return statistics.paired_difference(more_S, less_S, search_S=searches)


def _read(seen: Seen, found: Results) -> np.ndarray:
  """Of the models of every seed."""
  (target,) = found.targets
  if seen.of == MEAN:
    return np.array(found.bpb(seen.method, target))
  if seen.of == GAP:
    return verdicts.gap(found, seen.method, target)
  places = target.split("+")
  if seen.of == WORST:
    named = [place for place in places if ">" not in place]
    return verdicts.worst(found, seen.method, target, named)
  (place,) = (
    place
    for place in places
    if (
      ">" in place
      if seen.of == UNNAMED
      else place == found.config.data.bed.partition(":")[2]
    )
  )
  return verdicts.by_target(found, seen.method, target)[place]


def verdict(sign: int, found: Interval) -> str:
  """Whether a difference is beyond its interval, on the side that was published."""
  if np.isnan(found.low):
    return "one search"
  side = 1 if found.low > 0 else -1 if found.high < 0 else 0
  if side == sign:
    return "seen" if sign else "nothing, as published"
  return "not seen" if not side else "opposite" if sign else "something"
