"""Whether a test bed refuted its claim, by the rule that the bed's config names."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.evaluate.statistics import Interval
from experiments import claims
from experiments.claims import Results

_MOST_OVERLAP = 0.3  # of two levels' angles that are two


class Level(NamedTuple):
  """What a level of a tree tells of a label, the mean over searches."""

  level: int
  label: str
  share: float  # of the label's entropy that it adds to the levels above


class Bed(NamedTuple):
  """A bed that was compared at one budget."""

  results: Results
  # (method, set of targets) -> what was done to documents -> their share of tokens.
  factor: Mapping[tuple[str, str], Mapping[str, float]]
  levels: Mapping[tuple[str, str], list[Level]]  # of (tree, set of targets)
  overlap: Mapping[tuple[str, str], float]  # the largest of two levels

  @property
  def tree(self) -> str:
    """The one that is judged."""
    return self.results.config.bed.trees[0]


def title(one: Bed) -> str:
  """What a bed is called in tables."""
  return f"Bed {one.results.config.data.bed or 'of the corpus as it is'}"


class Verdict(NamedTuple):
  """Whether a bed refuted its claim, and by what."""

  refuted: bool | None  # None: one search has no interval
  why: str


def best(one: Bed, target: str, names: Any) -> str:
  """The best of some methods by their validation."""
  found = one.results
  return min(
    found.trained(names),
    key=lambda name: np.mean(found.bpb(name, target, "validation")),
  )


def no_better(one: Bed, target: str) -> Verdict:
  """Refuted unless the tree is better than the best rival, beyond the interval."""
  rival = best(one, target, one.results.config.bed.rivals)
  interval = one.results.difference(one.tree, rival, target)
  why = f"{one.tree} - {rival}: {claims.signed(interval)}"
  return Verdict(_unless(interval.high < 0, interval), why)


def _unless(beyond: bool, interval: Interval) -> bool | None:
  """Refuted unless a difference is beyond its interval, which it must have."""
  return None if np.isnan(interval.low) else not beyond


def overfits_more(one: Bed, target: str) -> Verdict:
  """Refuted if the tree loses more from validation to test than the best rival."""
  rival = best(one, target, one.results.config.bed.rivals)
  gaps = [gap(one.results, name, target) for name in (one.tree, rival)]
  interval = _paired(one.results, *gaps)
  test = claims.signed(one.results.difference(one.tree, rival, target))
  why = (
    f"the gain on validation that the test does not have, {one.tree} - {rival}: "
    f"{claims.signed(interval)}; on the test {test}"
  )
  return Verdict(_unless(not interval.low > 0, interval), why)


def gap(found: Results, method: str, target: str) -> np.ndarray:
  """What of the gain over natural on validation is missing on the test, by seed."""
  gains = [
    np.subtract(
      found.bpb(NATURAL, target, split), found.bpb(method, target, split)
    )
    for split in ("validation", "test")
  ]
  return gains[0] - gains[1]


def one_level_tells_both(one: Bed, target: str) -> Verdict:
  """Refuted if one level tells most of the factor and of the source."""
  levels = one.levels[one.tree, target]
  most = {
    label: max(
      (each for each in levels if each.label == label),
      key=lambda each: each.share,
    )
    for label in ("factor", "source")
  }
  overlap = one.overlap[one.tree, target]
  told = ", ".join(
    f"{each.share:.2f} of {label} at level {each.level + 1}"
    for label, each in most.items()
  )
  rival = no_better(one, target).why
  same = most["factor"].level == most["source"].level
  why = f"most is told: {told}; overlap {overlap:.2f}; {rival}"
  return Verdict(same or not overlap < _MOST_OVERLAP, why)


def no_better_on_the_worst(one: Bed, target: str) -> Verdict:
  """Refuted unless the tree is better on the target that gains least."""
  rival = best(one, target, one.results.config.bed.rivals)
  pair = [worst(one.results, name, target) for name in (one.tree, rival)]
  interval = _paired(one.results, *pair)
  mean = claims.signed(one.results.difference(one.tree, rival, target))
  why = (
    f"on the worst target, {one.tree} - {rival}: {claims.signed(interval)}; on the "
    f"mean {mean}"
  )
  return Verdict(_unless(interval.high < 0, interval), why)


def worst(
  found: Results, method: str, target: str, among: Sequence[str] = ()
) -> np.ndarray:
  """Bits per byte less natural's on the target that gains least, by seed.

  Args:
    found: of a comparison.
    method: whose models these are.
    target: the set.
    among: targets of the set that count; none: all.
  """
  own, natural = (by_target(found, one, target) for one in (method, NATURAL))
  return np.max(
    [own[one] - natural[one] for one in among or own],
    axis=0,
  )


def by_target(
  found: Results, method: str, target: str
) -> dict[str, np.ndarray]:
  """Test bits per byte on each target of a set, by seed."""
  table: dict[str, dict[int, float]] = {}
  for row in found.rows:
    if (row["method"], row["target_set"]) == (method, target) and (
      row["split"] == "test" and row["fraction"] == FULL
    ):
      table.setdefault(row["target"], {})[row["seed"]] = row["bpb"]
  seeds = range(found.config.compare.seeds)
  return {
    one: np.array([of_seed[seed] for seed in seeds])
    for one, of_seed in table.items()
  }


def _paired(found: Results, one_S: np.ndarray, other_S: np.ndarray) -> Interval:
  return statistics.paired_difference(one_S, other_S, search_S=found.searches)


VERDICTS: dict[str, Callable[[Bed, str], Verdict]] = {
  "no_better": no_better,
  "overfits_more": overfits_more,
  "one_level_tells_both": one_level_tells_both,
  "no_better_on_the_worst": no_better_on_the_worst,
}
RANKS = "ranks_alike"  # the one verdict that compares budgets
_SAME_ORDER = 0.8  # Spearman's rho from which on two orders are alike


def ranks_alike(parts: Mapping[float, Bed], target: str) -> Verdict:
  """Refuted if methods rank at the most epochs as they do at the fewest."""
  from scipy import stats

  means = {
    epochs: [
      np.mean(one.results.bpb(name, target))
      for name in one.results.trained(one.results.config.compare.methods)
    ]
    for epochs, one in parts.items()
  }
  fewest, *others = sorted(means)
  rho = {
    epochs: float(stats.spearmanr(means[fewest], means[epochs]).statistic)
    for epochs in others
  }
  told = ", ".join(f"{x:+.2f} at {epochs:g}" for epochs, x in rho.items())
  why = f"Spearman's rho with the order at {fewest:g} epochs: {told}"
  return Verdict(min(rho.values()) >= _SAME_ORDER, why)


def write(parts: Mapping[float, Bed], path: Path) -> Path:
  """A row for every set of targets and budget."""
  first = next(iter(parts.values()))
  name = first.results.config.bed.refuted_if
  rows = []
  for target in first.results.targets:
    if name == RANKS:
      rows.append([target, "all", *_told(ranks_alike(parts, target))])
      continue
    for epochs, one in parts.items():
      verdict = VERDICTS[name](one, target)
      rows.append([target, f"{epochs:g}", *_told(verdict)])
  return claims.write_table(
    path,
    f"{title(first)}: {name.replace('_', ' ')}?",
    ["targets", "epochs", "verdict", "why"],
    rows,
  )


def _told(verdict: Verdict) -> list[str]:
  return [_WORDS[verdict.refuted], verdict.why]


_WORDS = {True: "refuted", False: "stands", None: "one search"}
