"""Relations that papers report, and whether recipes of this package show them.

  python -m experiments.relations --config relations:cpu --workdir runs/relations

* WebOrganizer: a mixture over cells of topic and form is better than over either.
* HERMES: a rule inside cells pays where cells are large, and not where they are small.
* GRAPE: similarity harms targets that the pool or the list of targets lacks, and group
  DRO keeps the worst target nearer.
* DGA: importance sampling overfits few target texts, and alignment of gradients less.

Each is told by differences of recipes that differ in what it is about, paired by search
and final seed, with the sign that was published: seen, opposite, or not seen.
`--config.relations.wanted=hermes,dga` does some alone.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cmtree_jax import config as configs
from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs.command import command
from experiments import claims, verdicts
from experiments.claims import Results
from experiments.published import CLAIMS, MEAN, difference, parts_of, verdict


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.relations",
    "Relations that papers report, and whether they are seen here.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Does one relation after the other, and tells of each as soon as it can."""
  from cmtree_jax.report import tables
  from cmtree_jax.types import UserError

  if "relations" not in config:
    raise UserError(
      "The config has no block `relations`; take --config relations:toy or "
      "relations:cpu."
    )
  wanted = config.relations.wanted
  if not wanted or not {*wanted} <= {*CLAIMS}:
    raise UserError(
      f"config.relations.wanted = {', '.join(wanted) or 'none'} must name some of "
      f"{', '.join(CLAIMS)}."
    )
  parts: dict[str, Results] = {}
  files: list[Path] = []
  for relation in wanted:
    for part in parts_of(relation):
      if part not in parts:
        own, folder = of_part(config, part), workdir / part
        status, parts[part] = claims.compared(
          own, folder, "compared", (), overwrite=overwrite
        )
        if status:
          return status
        files.append(_write_recipes(parts[part]))
    files.append(_write_verdict(relation, parts, workdir))
  tables.show_files(files)
  return 0


def of_part(config: Any, part: str) -> Any:
  """The config of a comparison: the job's, under the overrides of a part."""
  own = claims.plain(config)
  del own.relations  # so that cells are found again, whichever are wanted
  own.lock()
  for override in config.relations.parts[part]:
    configs.override_field(own, override)
  return own


def _write_verdict(
  relation: str, parts: Mapping[str, Results], folder: Path
) -> Path:
  found = [(one, difference(one, parts)) for one in CLAIMS[relation]]
  return claims.write_table(
    folder / f"{relation}.md",
    f"{relation}, differences of test bits per byte",
    ["difference", "here", "published", "verdict"],
    [
      [one.what, claims.signed(here), one.published, verdict(one.sign, here)]
      for one, here in found
    ],
  )


def _write_recipes(found: Results) -> Path:
  """Every recipe of a part beside natural, on the mean and on each target."""
  (target,) = found.targets
  names = [name for name in found.config.compare.methods if name != NATURAL]
  return claims.write_table(
    found.folder / "recipes.md",
    f"{found.folder.parent.name}: test bits per byte, natural's and differences to it",
    ["recipe", "kept share", *_columns(found, target)],
    [
      [
        *(name, f"{found.value(name, target, 'effective_sample_size'):.3f}"),
        *_cells(found, name, target),
      ]
      for name in (NATURAL, *found.trained(names))
    ],
  )


def _columns(found: Results, target: str) -> list[str]:
  places = list(verdicts.by_target(found, NATURAL, target))
  return [MEAN, *places] if len(places) > 1 else places


def _cells(found: Results, name: str, target: str) -> Iterator[str]:
  """The mean over targets if there are several, then each."""
  own, natural = (
    verdicts.by_target(found, one, target) for one in (name, NATURAL)
  )
  for table in (own, natural):
    if len(table) > 1:
      table[MEAN] = np.mean(list(table.values()), axis=0)
  for column in _columns(found, target):
    if name == NATURAL:
      yield f"{natural[column].mean():.3f}"
    else:
      yield claims.signed(
        statistics.paired_difference(
          own[column], natural[column], search_S=found.searches
        )
      )


if __name__ == "__main__":
  sys.exit(main())
