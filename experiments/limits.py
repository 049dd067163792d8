"""What limits the tree: its leaves, its features, or the steps that it takes.

  python -m experiments.limits --config claims:toy --workdir runs/limits

Pairs of recipes that differ in one thing, each at its own best concentration:

* a weight for every document, or the mean over the leaf: the soft classifier's weights
  directly, through the tree's leaves, and through k-means of three sizes;
* the soft classifier's weights of all documents, or of half of them, where a scorer of
  new documents (`recipe/scorer.py`) tells the others';
* leaves whose number cross-validation over the target's texts chooses, or a fixed one;
* the step that the tree takes from its start, or one as far that follows a regression
  of the same measured values: on what the tree sees, on the words, or through leaves.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs.command import command
from experiments import claims
from experiments.claims import Results
from experiments.planted import Bench

TREE, DIRECT = "joint_16", "classifier_soft"
CLUSTERS = ("crisp_16", "crisp_64", "crisp_256")
METHODS = (TREE, DIRECT, *CLUSTERS)
IN_TREE, CROSS_VALIDATED = "classifier_in_tree", "crisp_cross_validated"
SCORED = "classifier_scored"
STEP_EMBEDDING, STEP_WORDS, STEP_LEAVES = (
  *("step_embedding", "step_words", "step_leaves"),
)

SIZES = (4, 8, 16, 32, 64, 128, 256)  # numbers of leaves that are compared
_FOLDS = 5  # of the target's texts
_SMOOTHING = 1e-3  # of the natural mixture, as in `crisp`
_BUCKETS = 2**16  # that runs of one and two words fall into
_HELD_OUT = 5  # one in so many valued documents judges a regression
_PENALTIES = tuple(
  10.0**power for power in range(-2, 4)
)  # on rows of length one


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.limits",
    "Whether leaves, features or steps limit the tree.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Searches and trains, plants, trains those too, and shows pairs."""
  from cmtree_jax.report import tables

  own = claims.plain(config)
  own.compare.methods = METHODS
  status, first = claims.compared(
    own.lock(), workdir, "searched", METHODS, overwrite=overwrite
  )
  if status:
    return status
  bench = Bench(first)
  facts = plant(bench)
  status, found = claims.compared(
    bench.config(METHODS), workdir, "limits", (), overwrite=overwrite
  )
  if not status:
    tables.show_files(list(show(found, facts)))
  return status


class Facts(NamedTuple):
  """What was found before any training, by set of targets; lists are over searches."""

  # Mean log-weight of a text that a fold left out, for each of SIZES.
  validated: dict[str, list[list[float]]]
  # Rank correlation of predictions for documents left out with measured values; of a
  # scorer's with weights.
  spearman: dict[tuple[str, str], list[float]]


def plant(bench: Bench) -> Facts:
  """Makes the recipes that no method makes; what they were chosen by."""
  facts = Facts({}, {})
  words = _words(bench)
  for target in bench.targets:
    for seed in bench.seeds:
      _plant_through(bench, target, seed)
      rho = _plant_scored(bench, target, seed)
      facts.spearman.setdefault((SCORED, target), []).append(rho)
      facts.validated.setdefault(target, []).append(
        _plant_validated(bench, target, seed)
      )
      for name, rho in _plant_steps(bench, target, seed, words).items():
        facts.spearman.setdefault((name, target), []).append(rho)
  return facts


def _plant_through(bench: Bench, target: str, seed: int) -> None:
  """The classifier's weights, through leaves of the tree and of k-means."""
  place = bench.search(DIRECT, target, seed)
  weight_N = bench.weight_N(DIRECT, target, seed)
  for name in (TREE, *CLUSTERS):
    leaves = bench.tree(name, target, seed)
    planted = IN_TREE if name == TREE else _through(name)
    bench.plant(planted, DIRECT, place, bench.through(leaves, weight_N))


def _through(clusters: str) -> str:
  return f"classifier_in_{clusters.rpartition('_')[2]}"


def _plant_scored(bench: Bench, target: str, seed: int) -> float:
  """The classifier's weights of half of the documents, the others' by their words."""
  from scipy import stats

  from cmtree_jax.recipe import scorer

  place = bench.search(DIRECT, target, seed)
  weight_N = bench.weight_N(DIRECT, target, seed)
  pool, documents = bench.data.pool, bench.data.documents
  known, new = np.array_split(np.argsort(pool.key_N), 2)
  made = scorer.fit(
    documents.rows(known, "text")["text"],
    weight_N[known],
    pool.tokens.pairs_N[known],
  )
  assert made is not None  # so small a corpus has no comparison
  scored_N = weight_N.copy()
  scored_N[new] = made(documents.rows(new, "text")["text"])
  bench.plant(SCORED, DIRECT, place, scored_N)
  return float(stats.spearmanr(scored_N[new], weight_N[new]).statistic)


def _plant_validated(bench: Bench, target: str, seed: int) -> list[float]:
  """CRISP on as many clusters as explain texts best that a fold left out."""
  from cmtree_jax.recipe import domains

  config, data = bench.found.config, bench.data
  rows = bench.sample_rows
  texts = [
    np.asarray(data.targets[name]["train"].embedding_NE)
    for name in bench.searched(target)
  ]
  scores, made = [], []
  for size in SIZES:
    plan = domains.Plan(**config.partition)._replace(
      kind="kmeans", num_clusters=size
    )
    placed = domains.make(plan, data, rows, seed=config.seed + seed)
    numbers = [placed.of(one) for one in texts]
    scores.append(
      validated(numbers, placed.mass_K, max_weight=bench.max_weight)
    )
    target_K = _shares(numbers, len(placed.mass_K))
    weight_K = _weights(target_K, placed.mass_K, bench.max_weight)
    log_w_K = np.log(np.maximum(weight_K, 1e-9)).astype(np.float32)
    made.append(placed.partition.with_weights(log_w_K))
  best = made[int(np.argmax(scores))]
  place = bench.search(CLUSTERS[0], target, seed)
  bench.plant(CROSS_VALIDATED, CLUSTERS[0], place, best)
  return scores


def validated(
  numbers: Sequence[np.ndarray], mass_K: np.ndarray, *, max_weight: float
) -> float:
  """The mean log-weight of texts under weights that were made without them.

  Args:
    numbers: for each target the cluster of every text.
    mass_K: the clusters' shares of the corpus.
    max_weight: no weight is above it.
  """
  found = []
  for fold in range(_FOLDS):
    kept = [one[np.arange(len(one)) % _FOLDS != fold] for one in numbers]
    target_K = _shares(kept, len(mass_K))
    log_w_K = np.log(_weights(target_K, mass_K, max_weight))
    left = [one[np.arange(len(one)) % _FOLDS == fold] for one in numbers]
    found += [log_w_K[one].mean() for one in left if len(one)]
  return float(np.mean(found))


def _shares(numbers: Sequence[np.ndarray], size: int) -> np.ndarray:
  """Every target counts alike, and each of its texts."""
  counts = [np.bincount(one, minlength=size) / len(one) for one in numbers]
  return np.mean(counts, axis=0)


def _weights(
  target_K: np.ndarray, mass_K: np.ndarray, max_weight: float
) -> np.ndarray:
  from cmtree_jax import budget

  smooth_K = (1 - _SMOOTHING) * target_K + _SMOOTHING * mass_K
  weight_K = smooth_K / np.maximum(mass_K, 1e-12)
  return budget.capped(
    weight_K, np.maximum(mass_K, 1e-12), max_weight=max_weight
  )


def _plant_steps(
  bench: Bench, target: str, seed: int, words: Any
) -> dict[str, float]:
  """Steps from the tree's start that follow regressions of its values.

  Each goes as far as the tree went, in nats, so that the direction alone differs.
  """
  place = bench.search(TREE, target, seed)
  value_N = bench.found.cells.value_N(place)
  found = bench.found.cells.found(place)
  assert found is not None
  name = "start" if "start" in found.partitions else ""
  start_N = bench.found.cells.log_w_N(place, name).astype(np.float64)
  end_N = bench.found.cells.log_w_N(place).astype(np.float64)
  distance = _divergence(end_N, start_N, bench.mass_N)
  leaf_NL = bench.p_NL(bench.tree(TREE, target, seed))
  told = {}
  for step, features in (
    (STEP_EMBEDDING, np.asarray(bench.data.pool.embedding_NE)),
    (STEP_WORDS, words),
    (STEP_LEAVES, leaf_NL),
  ):
    predicted_N, told[step] = regression(features, value_N)
    log_w_N = _moved(
      start_N, predicted_N, distance, bench.mass_N, bench.max_weight
    )
    bench.plant(step, TREE, place, np.exp(log_w_N))
  return told


def regression(features: Any, value_N: np.ndarray) -> tuple[np.ndarray, float]:
  """Values of all documents by ridge regression: (predictions, rank correlation).

  Documents that are left out choose the penalty by their rank correlation, which is
  what is told; then all valued ones are fitted on.

  Args:
    features: rows of all documents, dense or sparse.
    value_N: measured values; NaN where there is none.
  """
  from scipy import stats
  from sklearn.linear_model import Ridge

  valued = np.flatnonzero(~np.isnan(value_N))
  held = np.arange(len(valued)) % _HELD_OUT == 0
  fit, judge = valued[~held], valued[held]

  def model(penalty: float, rows: np.ndarray) -> Any:
    return Ridge(penalty, solver="lsqr").fit(features[rows], value_N[rows])

  scores = []
  for penalty in _PENALTIES:
    predicted = model(penalty, fit).predict(features[judge])
    rho = stats.spearmanr(predicted, value_N[judge]).statistic
    scores.append(-1.0 if np.isnan(rho) else float(rho))
  best = _PENALTIES[int(np.argmax(scores))]
  return model(best, valued).predict(features), max(scores)


def _moved(
  start_N: np.ndarray,
  direction_N: np.ndarray,
  distance: float,
  mass_N: np.ndarray,
  max_weight: float,
) -> np.ndarray:
  """Log-weights so many nats from the start, along a direction, capped."""
  from scipy import optimize

  from cmtree_jax import budget

  unit_N = (direction_N - direction_N.mean()) / max(direction_N.std(), 1e-30)

  def at(size: float) -> np.ndarray:
    weight_N = np.exp(start_N + size * unit_N)
    weight_N = budget.capped(weight_N, mass_N, max_weight=max_weight)
    return np.log(np.maximum(weight_N, 1e-12))

  def missing(size: float) -> float:
    return _divergence(at(size), start_N, mass_N) - distance

  if missing(0.0) >= 0 or missing(_LONGEST) <= 0:
    return at(0.0 if missing(0.0) >= 0 else _LONGEST)
  return at(float(optimize.brentq(missing, 0.0, _LONGEST, xtol=1e-6)))


_LONGEST = 20.0  # standard deviations of the predicted values


def _divergence(
  to_N: np.ndarray, from_N: np.ndarray, mass_N: np.ndarray
) -> float:
  """Nats between the documents that two recipes draw."""
  p_N = mass_N * np.exp(to_N)
  p_N /= p_N.sum()
  q_N = mass_N * np.exp(from_N)
  q_N /= q_N.sum()
  kept_N = p_N > 0
  log_N = np.log(p_N[kept_N]) - np.log(np.maximum(q_N[kept_N], 1e-300))
  return float(p_N[kept_N] @ log_N)


def _words(bench: Bench) -> Any:
  """Hashed counts of one and two words in a row, rows of length one, sparse."""
  from scipy import sparse
  from sklearn.feature_extraction.text import HashingVectorizer

  vectorizer = HashingVectorizer(
    n_features=_BUCKETS, ngram_range=(1, 2), alternate_sign=False
  )
  parts = [
    vectorizer.transform(texts) for texts in bench.data.documents.column("text")
  ]
  return sparse.vstack(parts).tocsr()


# What a pair separates, the one and the other recipe.
PAIRS: tuple[tuple[str, str, str], ...] = (
  ("leaves: a score through the tree's", IN_TREE, DIRECT),
  *(
    (
      f"leaves: through {name.rpartition('_')[2]} clusters",
      _through(name),
      DIRECT,
    )
    for name in CLUSTERS
  ),
  ("words: half of the score told by them, and all of it", SCORED, DIRECT),
  ("search: the tree, and a score in its leaves", TREE, IN_TREE),
  ("search: the tree, and the score directly", TREE, DIRECT),
  *(("leaves by cross-validation", CROSS_VALIDATED, name) for name in CLUSTERS),
  ("steps: a regression's, and the tree's", STEP_EMBEDDING, TREE),
  ("capacity: its leaves, and single documents", STEP_LEAVES, STEP_EMBEDDING),
  ("features: words, and the embedding", STEP_WORDS, STEP_EMBEDDING),
)


def show(found: Results, facts: Facts) -> Iterator[Path]:
  """The pairs; all recipes beside natural; what was known before training."""
  yield claims.write_table(
    found.folder / "pairs.md",
    "Test bits per byte: the first recipe - the second",
    ["what differs", "first", "second", *found.targets],
    [
      [
        *(what, one, other),
        *(
          claims.signed(found.difference(one, other, target))
          for target in found.targets
        ),
      ]
      for what, one, other in PAIRS
    ],
  )
  methods = found.trained(found.config.compare.methods)
  yield claims.write_differences(
    found, "recipes.md", "recipe", [m for m in methods if m != NATURAL]
  )
  yield claims.write_table(
    found.folder / "validated.md",
    "Mean log-weight of target texts that were left out, by number of clusters",
    ["targets", *map(str, SIZES)],
    (
      [target, *(f"{x:.3f}" for x in np.mean(scores, axis=0))]
      for target, scores in facts.validated.items()
    ),
  )
  yield claims.write_table(
    found.folder / "values.md",
    "Rank correlation of predicted and measured values, of a scorer's and own weights",
    ["regression", *found.targets],
    (
      [name, *(_mean(facts.spearman[name, target]) for target in found.targets)]
      for name in (STEP_EMBEDDING, STEP_WORDS, STEP_LEAVES, SCORED)
    ),
  )


def _mean(rho: Sequence[float]) -> str:
  return f"{np.mean(rho):.2f}"


if __name__ == "__main__":
  sys.exit(main())
