"""One test bed: where a learned partition and its angles should pay, and whether they do.

  python -m experiments.beds --config beds.b:cpu --workdir runs/bed_b

The joint tree, the same learner on frozen partitions and on a random one, CRISP at three
numbers of clusters, DSIR, classifiers, BETR, and a perplexity filter inside CRISP's
clusters, each at its own best concentration and at matched repetition. Beside them
stands what the experiment makes itself (`planted.py`): an oracle that knows what was done
to every document, the same times the classifier, the classifier's weights through
the tree's leaves, and random documents at the tree's effective sample size. The verdict
is that of the bed's own config.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.data.corpora import bed as corpus_beds
from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import FULL, NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import Results
from experiments.planted import Bench, of_any

DIRECT, THROUGH = "classifier_soft", "classifier_in_leaves"
RANDOM, ORACLE, BOTH = "random_equal", "oracle", "oracle_classifier"
_MOST_OVERLAP = 0.3  # of two levels' angles that are two


def main(arguments: Any = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.beds",
    "A test bed with all controls, and its verdict.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Compares at every budget of the bed, then shows tables and verdict."""
  from cmtree_jax.report import tables
  from cmtree_jax.types import UserError

  if "bed" not in config:
    raise UserError(
      "The config has no block `bed`; take one of configs/beds, as --config beds.b:toy."
    )
  parts: dict[float, Bed] = {}
  for epochs in tuple(config.bed.epochs) or (config.budget.epochs,):
    own = claims.at_budget(config, epochs)
    folder = workdir / f"epochs_{epochs:g}"
    status, found = _compared(own, folder, overwrite=overwrite)
    if status:
      return status
    parts[epochs] = found
  tables.show_files(list(show(parts, workdir)))
  return 0


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


def _compared(
  config: Any, workdir: Path, *, overwrite: bool
) -> tuple[int, Any]:
  """Searches of methods, then the planted recipes beside them."""
  methods = tuple(config.compare.methods)
  status, first = claims.compared(
    config, workdir, "searched", methods, overwrite=overwrite
  )
  if status:
    return status, None
  bench = Bench(first)
  plant(bench)
  status, found = claims.compared(
    bench.config(methods), workdir, "bed", (), overwrite=overwrite
  )
  return status, None if status else measured(found, bench)


def plant(bench: Bench) -> None:
  """Makes what the bed is compared with beside methods."""
  tree = bench.found.config.bed.trees[0]
  factor_N = _oracle(bench.data)
  for seed in bench.seeds:
    kept = []
    for target in bench.targets:
      place = bench.search(DIRECT, target, seed)
      direct_N = bench.weight_N(DIRECT, target, seed)
      leaves = bench.tree(tree, target, seed)
      bench.plant(THROUGH, DIRECT, place, bench.through(leaves, direct_N))
      kept.append(bench.found.value(tree, target, "effective_sample_size"))
      if factor_N is not None:
        bench.plant(BOTH, DIRECT, place, factor_N * direct_N)
    untargeted = of_any(bench.search(NATURAL, bench.targets[0], seed))
    if factor_N is not None:
      bench.plant(ORACLE, NATURAL, untargeted, factor_N)
    rng = np.random.default_rng([bench.found.config.seed, seed])
    random_N = _random(bench.mass_N, float(np.mean(kept)), rng)
    bench.plant(RANDOM, "random_documents", untargeted, random_N)


def _random(mass_N: np.ndarray, share: float, rng: Any) -> np.ndarray:
  """One for random documents of so large a share of the tokens, else zero."""
  order_N = rng.permutation(len(mass_N))
  before_N = np.cumsum(mass_N[order_N]) - mass_N[order_N]
  found_N = np.zeros(len(mass_N))
  found_N[order_N] = before_N < share * mass_N.sum()
  return found_N


def _oracle(data: Any) -> np.ndarray | None:
  """Weights of one who knows what was done to the documents; None: nothing was.

  Spoiled ones weigh nothing, those of five strengths what of them is sound, and
  rewrites as much together as one document.
  """
  from cmtree_jax.jobs import hidden

  if not hidden.has_factor(data):
    return None
  factor_N, names = data.documents.labels(corpus_beds.FACTOR)
  kind = corpus_beds.parse(data.manifest["bed"]["name"]).kind
  if kind == "rewrites":
    family_N, _ = data.documents.labels(corpus_beds.COPY_OF)
    return 1.0 / np.bincount(family_N)[family_N]
  if kind == "topic_by_quality":
    return 1.0 - np.array([float(name) for name in names])[factor_N]
  return (factor_N == names.index(corpus_beds.SOUND)).astype(np.float64)


def measured(found: Results, bench: Bench) -> Bed:
  """What recipes do to the factor, and what the levels of trees tell of it."""
  from cmtree_jax.jobs import hidden, known

  trees = found.trained(found.config.bed.trees)
  rows = known.sample_rows(found.config, len(bench.data.pool))
  levels, overlap = {}, {}
  for tree in trees:
    for target in bench.targets:
      told = [
        hidden.separations(bench.tree(tree, target, seed), bench.data, rows)
        for seed in bench.seeds
      ]
      levels[tree, target] = _levels(told)
      pairs = [
        [row["overlap"] for row in one if "overlap" in row] for one in told
      ]
      overlap[tree, target] = float(np.mean([max(one) for one in pairs]))
  return Bed(found, _factors(found, bench), levels, overlap)


def _levels(told: list[list[dict[str, Any]]]) -> list[Level]:
  """The mean over searches."""
  shares: dict[tuple[int, str], list[float]] = {}
  for rows in told:
    for row in rows:
      if "label" in row:
        key = row["level"], row["label"]
        shares.setdefault(key, []).append(row["added_share"])
  return [Level(*key, float(np.mean(one))) for key, one in shares.items()]


def _factors(found: Results, bench: Bench):
  """Where the tokens of what was trained go, by what was done to documents."""
  from cmtree_jax.evaluate import shares
  from cmtree_jax.jobs import hidden
  from cmtree_jax.jobs.cells import Version
  from cmtree_jax.jobs.versions import Versions

  if not hidden.has_factor(bench.data):
    return {}
  factor_N, names = bench.data.documents.labels(corpus_beds.FACTOR)
  versions = Versions.make(bench.data, found.cells, max_weight=bench.max_weight)
  table = {}
  for method in found.trained((NATURAL, *found.config.compare.methods)):
    for target in bench.targets:
      kept = found.value(method, target, "kept_share")
      cell = bench.search(method, target, 0)
      if method in bench.names:
        cell = found_search(found, method, target)
      log_w_N = versions.log_w_N(cell, Version(share=kept))
      groups = shares.of_groups(factor_N, names, log_w_N, bench.mass_N)
      table[method, target] = {one.name: one.recipe for one in groups}
  return table


def found_search(found: Results, method: str, target: str) -> Any:
  """The first search of a method of a comparison."""
  from cmtree_jax.jobs import plan

  return plan.of_comparison(found.config).search(method, target, 0)


def show(parts: Mapping[float, Bed], folder: Path) -> Iterator[Path]:
  """Tables of every budget, and the verdict of the bed."""
  for epochs, one in parts.items():
    for target in one.results.targets:
      place = f"{target}.epochs_{epochs:g}.md"
      yield claims.write_table(
        folder / f"methods.{place}",
        f"{_title(one)}, {epochs:g} epochs, test bits per byte, {target}",
        ["method", "BPB", "- natural", "kept share", *_factor_names(one)],
        _rows(one, target),
      )
      if one.levels:
        yield claims.write_table(
          folder / f"levels.{place}",
          "What each level adds of a label's entropy, and the overlap of levels",
          ["tree", "level", *_labels(one, target), "overlap"],
          _level_rows(one, target),
        )
  yield write_verdict(parts, folder / "verdict.md")


def _title(one: Bed) -> str:
  return f"Bed {one.results.config.data.bed or 'of the corpus as it is'}"


def _factor_names(one: Bed) -> list[str]:
  return list(next(iter(one.factor.values()), {}))


def _rows(one: Bed, target: str) -> Iterator[list[str]]:
  """Natural, then the best by its test first."""
  found = one.results
  means = {
    name: float(np.mean(found.bpb(name, target)))
    for name in found.trained((NATURAL, *found.config.compare.methods))
  }
  for name in sorted(means, key=lambda name: (name != NATURAL, means[name])):
    factor = one.factor.get((name, target), {})
    yield [
      name,
      f"{means[name]:.3f}",
      "" if name == NATURAL else _difference(found, name, NATURAL, target),
      f"{found.value(name, target, 'effective_sample_size'):.3f}",
      *(f"{factor[label]:.2f}" for label in _factor_names(one)),
    ]


def _difference(found: Results, name: str, other: str, target: str) -> str:
  return claims.signed(found.difference(name, other, target))


def _labels(one: Bed, target: str) -> list[str]:
  first = one.levels[one.tree, target]
  return list(dict.fromkeys(level.label for level in first))


def _level_rows(one: Bed, target: str) -> Iterator[list[str]]:
  for (tree, of), levels in one.levels.items():
    if of != target:
      continue
    share = {(each.level, each.label): each.share for each in levels}
    for number in sorted({each.level for each in levels}):
      yield [
        tree,
        str(number + 1),
        *(f"{share[number, label]:.2f}" for label in _labels(one, target)),
        f"{one.overlap[tree, target]:.2f}",
      ]


class Verdict(NamedTuple):
  """Whether a bed refuted its claim, and by what."""

  refuted: bool
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
  return Verdict(not interval.high < 0, why)


def overfits_more(one: Bed, target: str) -> Verdict:
  """Refuted if the tree loses more from validation to test than the best rival."""
  rival = best(one, target, one.results.config.bed.rivals)
  gaps = [_gap(one.results, name, target) for name in (one.tree, rival)]
  interval = _paired(one.results, *gaps)
  test = claims.signed(one.results.difference(one.tree, rival, target))
  why = (
    f"the gain on validation that the test does not have, {one.tree} - {rival}: "
    f"{claims.signed(interval)}; on the test {test}"
  )
  return Verdict(interval.low > 0, why)


def _gap(found: Results, method: str, target: str) -> np.ndarray:
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
  worst = [_worst(one.results, name, target) for name in (one.tree, rival)]
  interval = _paired(one.results, *worst)
  mean = claims.signed(one.results.difference(one.tree, rival, target))
  why = (
    f"on the worst target, {one.tree} - {rival}: {claims.signed(interval)}; on the "
    f"mean {mean}"
  )
  return Verdict(not interval.high < 0, why)


def _worst(found: Results, method: str, target: str) -> np.ndarray:
  """Bits per byte less natural's on the target that gains least, by seed."""

  def by_target(name: str) -> dict[str, dict[int, float]]:
    table: dict[str, dict[int, float]] = {}
    for row in found.rows:
      if (row["method"], row["target_set"]) == (name, target) and (
        row["split"] == "test" and row["fraction"] == FULL
      ):
        table.setdefault(row["target"], {})[row["seed"]] = row["bpb"]
    return table

  own, natural = by_target(method), by_target(NATURAL)
  return np.array(
    [
      max(own[one][seed] - natural[one][seed] for one in own)
      for seed in range(found.config.compare.seeds)
    ]
  )


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


def write_verdict(parts: Mapping[float, Bed], path: Path) -> Path:
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
    f"{_title(first)}: {name.replace('_', ' ')}?",
    ["targets", "epochs", "verdict", "why"],
    rows,
  )


def _told(verdict: Verdict) -> list[str]:
  return ["refuted" if verdict.refuted else "stands", verdict.why]


if __name__ == "__main__":
  sys.exit(main())
