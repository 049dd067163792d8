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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax.data.corpora import bed as corpus_beds
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs.command import command
from experiments import claims, verdicts
from experiments.claims import Results
from experiments.planted import Bench
from experiments.verdicts import Bed, Level

DIRECT, THROUGH = "classifier_soft", "classifier_in_leaves"
RANDOM, ORACLE, BOTH = "random_equal", "oracle", "oracle_classifier"


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

  claims.require_block(config, "bed", "beds.b:toy")
  budgets = tuple(config.bed.epochs) or (config.budget.epochs,)
  rivals = config.bed.rivals
  if config.bed.refuted_if == verdicts.RANKS:
    if len(budgets) < 2:
      raise UserError(
        f"config.bed.epochs = {budgets}: orders are compared between two budgets at "
        "least."
      )
  elif not {*rivals} & {*_methods(config)}:
    raise UserError(
      "config.compare.methods has none of the rivals that the bed's verdict compares "
      f"its tree with; name one of {', '.join(rivals)}."
    )
  parts: dict[float, Bed] = {}
  for epochs in budgets:
    own = claims.at_budget(config, epochs)
    folder = workdir / f"epochs_{epochs:g}"
    status, found = _compared(own, folder, overwrite=overwrite)
    if status:
      return status
    parts[epochs] = found
  tables.show_files(list(show(parts, workdir)))
  return 0


def _compared(
  config: Any, workdir: Path, *, overwrite: bool
) -> tuple[int, Any]:
  """Searches of methods, then the planted recipes beside them."""
  methods = _methods(config)
  with config.unlocked():
    config.compare.methods = methods
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


def _methods(config: Any) -> tuple[str, ...]:
  """The tree that is judged, what is planted from, and those that are asked for."""
  needed = (config.bed.trees[0], DIRECT)
  return tuple(dict.fromkeys((*needed, *config.compare.methods)))


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
    untargeted = bench.search(NATURAL, bench.targets[0], seed)
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
  """Weights of one who knows what was done to the documents; None: nothing, or to all.

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
  if corpus_beds.SOUND not in names:
    return None
  return (factor_N == names.index(corpus_beds.SOUND)).astype(np.float64)


def measured(found: Results, bench: Bench) -> Bed:
  """What recipes do to the factor, and what the levels of trees tell of it."""
  from cmtree_jax.jobs import hidden

  trees = found.trained(found.config.bed.trees)
  levels, overlap = {}, {}
  for tree in trees:
    for target in bench.targets:
      told = [
        hidden.separations(
          bench.tree(tree, target, seed), bench.data, bench.sample_rows
        )
        for seed in bench.seeds
      ]
      levels[tree, target] = _levels(told)
      found_overlaps = [
        max((row["overlap"] for row in one if "overlap" in row), default=0.0)
        for one in told
      ]
      overlap[tree, target] = float(np.mean(found_overlaps))
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
  from cmtree_jax.jobs import plan as plans
  from cmtree_jax.jobs.cells import Version
  from cmtree_jax.jobs.versions import Versions

  if not hidden.has_factor(bench.data):
    return {}
  factor_N, names = bench.data.documents.labels(corpus_beds.FACTOR)
  versions = Versions.make(bench.data, found.cells, max_weight=bench.max_weight)
  plan, table = plans.of_comparison(found.config), {}
  for method in found.trained((NATURAL, *found.config.compare.methods)):
    for target in bench.targets:
      kept = found.value(method, target, "kept_share")
      cell = plan.search(method, target, 0)
      log_w_N = versions.log_w_N(cell, Version(share=kept))
      groups = shares.of_groups(factor_N, names, log_w_N, bench.mass_N)
      table[method, target] = {one.name: one.recipe for one in groups}
  return table


def show(parts: Mapping[float, Bed], folder: Path) -> Iterator[Path]:
  """Tables of every budget, and the verdict of the bed."""
  for epochs, one in parts.items():
    for target in one.results.targets:
      place = f"{target}.epochs_{epochs:g}.md"
      yield claims.write_table(
        folder / f"methods.{place}",
        f"{verdicts.title(one)}, {epochs:g} epochs, test bits per byte, {target}",
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
  yield verdicts.write(parts, folder / "verdict.md")


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


if __name__ == "__main__":
  sys.exit(main())
