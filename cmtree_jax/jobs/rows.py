"""The rows of results.parquet: one per final training and scored split of a target."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmtree_jax.data import store
from cmtree_jax.jobs.cells import Folder, Kept, Plan
from cmtree_jax.proxy.ledger import Cost


def of_cells(
  plan: Plan,
  folder: Folder,
  kept: Kept,
  trial_cost: Mapping[tuple[str, str], Cost],
  same: Mapping[str, Any],
) -> list[dict[str, Any]]:
  """The rows from the files of all cells.

  A model that belongs to several target sets has its scores repeated in each.

  Args:
    plan: all of its cells are finished.
    folder: of the cells.
    kept: the versions that were chosen.
    trial_cost: what choosing them cost, by (method, set of its search).
    same: columns that are the same in all rows.
  """
  made = []
  for method, cell in plan.entries(kept):
    search = cell.search
    scored = folder.scored(cell, [one.name for one in plan.places_of(search)])
    found = folder.found(search)
    tried = trial_cost.get((search.method, search.target_set), Cost())
    assert scored is not None and found is not None, cell
    for target_set, places in plan.sets_of(search).items():
      at = f" at {cell.preset}" if cell.preset else ""
      for place in places:
        for split, bpb in scored["bpb"][place.name].items():
          accuracy = scored["accuracy"][place.name][split]
          made.append(
            {
              "method": method,
              "target_set": target_set + at,
              "target": place.name + at,
              "split": split,
              "seed": cell.seed,
              "search_seed": search.seed,
              "fraction": cell.fraction,
              "tokens": scored["tokens"],
              "bpb": bpb,
              "accuracy": math.nan if accuracy is None else accuracy,
              "search_tokens": found.cost.tokens,
              "search_flops": found.cost.flops,
              "trial_tokens": tried.tokens,
              "trial_flops": tried.flops,
              "final_flops": scored["final_flops"],
              "effective_sample_size": scored["effective_sample_size"],
              "candidate": cell.version.candidate,
              "kept_share": cell.version.share,
              **same,
              "commit": scored["commit"],
            }
          )
  return made


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
  """Rows as Parquet, every column of a fixed type."""
  import pyarrow as pa

  text, integer, number = pa.string(), pa.int64(), pa.float64()
  schema = pa.schema(
    [
      ("method", text),
      ("target_set", text),
      ("target", text),
      ("split", text),
      ("seed", integer),
      ("search_seed", integer),
      ("fraction", number),
      ("tokens", integer),
      ("bpb", number),
      ("accuracy", number),  # NaN: the target has no choices
      ("search_tokens", number),
      ("search_flops", number),
      ("trial_tokens", number),  # of the trials that chose the version
      ("trial_flops", number),
      ("final_flops", number),
      ("effective_sample_size", number),
      ("candidate", text),  # "": the last that the search left
      ("kept_share", number),  # 0: the recipe's own
      ("config_digest", text),
      ("corpus_digest", text),
      ("commit", text),
    ]
  )
  assert all(math.isfinite(row["bpb"]) for row in rows)
  store.write_parquet(path, pa.Table.from_pylist(list(rows), schema=schema))
