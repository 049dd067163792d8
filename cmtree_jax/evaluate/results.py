"""The comparison of recipes: one row per (recipe, target), paired by seed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmtree_jax.evaluate import comparison
from cmtree_jax.proxy.ledger import Cost

MEAN = "mean"  # name of the row over all targets, where there are several


def compare(
  bpb: np.ndarray,
  *,
  recipes: Sequence[str],
  targets: Sequence[str],
  effective_sample_size: Sequence[float],
  search: Sequence[Cost],
  final: Cost,
) -> list[dict[str, Any]]:
  """Rows for comparison.json, every number of a recipe beside the natural one's.

  Args:
    bpb: bits per byte [recipes, seeds, targets]; runs of one seed are paired.
    recipes: names; "natural" is among them.
    targets: names; with several of them a row for their mean is added.
    effective_sample_size: of each recipe's weights.
    search: what each recipe cost before its final training.
    final: what one final training cost.
  """
  natural = recipes.index("natural")
  names = list(targets)
  if len(names) > 1:
    names.append(MEAN)
    bpb = np.concatenate([bpb, bpb.mean(axis=2, keepdims=True)], axis=2)
  rows = []
  for r, recipe in enumerate(recipes):
    for t, target in enumerate(names):
      bpb_S = bpb[r, :, t]
      interval = comparison.paired_difference(bpb_S, bpb[natural, :, t])
      rows.append(
        {
          "recipe": recipe,
          "target": target,
          "bpb": bpb_S.tolist(),
          "bpb_mean": float(bpb_S.mean()),
          "difference_to_natural": interval.mean,
          "ci_low": _number(interval.low),
          "ci_high": _number(interval.high),
          "effective_sample_size": effective_sample_size[r],
          "train_tokens": int(final.tokens),
          "search_tokens": int(search[r].tokens),
          "search_flops_share": search[r].flops / final.flops,
        }
      )
  return rows


def nmi(leaf_N: np.ndarray, label_N: np.ndarray) -> float:
  """Normalized mutual information of a partition and hidden labels."""
  from sklearn.metrics import normalized_mutual_info_score

  return float(normalized_mutual_info_score(label_N, leaf_N))


def _number(x: float) -> float | None:
  """JSON has no NaN: one seed has no interval."""
  return None if np.isnan(x) else float(x)
