"""What the guard is good for: main jobs, and what they handed over.

  python -m experiments.guarded --config claims:toy --workdir runs/guarded

One main job for every set of targets and every seed of the search. Each tells what its
method's recipe, natural, the best free rival and the recipe that it handed over are
worth on the test split. A config without a block `compare` has one set of targets, and
is searched `SEARCHES` times: `--config configs/quickstart.py` makes the quickstart's
table.
"""

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cmtree_jax.evaluate import statistics as intervals
from cmtree_jax.evaluate.results import MEAN, NATURAL
from cmtree_jax.jobs.command import command
from experiments import claims

SEARCHES = 5
ALL = "all"  # stands for the targets where the config names none
ASKED, RIVAL, HANDED = "asked for", "best free rival", "handed over"


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the experiment; returns the exit status as `cmtree_jax.main` does."""
  return command(
    "experiments.guarded",
    "How often the guard fires, and what it saves.",
    run,
    arguments,
  )


def run(config: Any, workdir: Path, *, overwrite: bool = False) -> int:
  """Runs every main job, then shows all of them."""
  from cmtree_jax.jobs import learn
  from cmtree_jax.report import tables

  target_sets, searches = _wanted(config)
  folder = workdir / "guarded"
  jobs: dict[str, list[Job]] = {}
  for target_set in target_sets:
    for search in range(searches):
      own = config.copy_and_resolve_references().unlock()
      if target_set != ALL:
        own.data.targets = tuple(target_set.split("+"))
      own.seed += search
      place = folder / target_set / f"search_{search}"
      if status := learn.run(own.lock(), place, overwrite=overwrite):
        return status
      jobs.setdefault(target_set, []).append(_job(place, config.guard.rivals))
  tables.show_files(list(show(jobs, folder)))
  return 0


def _wanted(config: Any) -> tuple[list[str], int]:
  """Sets of targets, and how often each is searched."""
  if "compare" not in config:
    return ["+".join(config.data.targets) or ALL], SEARCHES
  sets = [one for one in config.compare.targets if ">" not in one]
  return sets, config.compare.search_seeds or config.compare.seeds


class Job(NamedTuple):
  """What one main job found out."""

  names: dict[str, str]  # ASKED, RIVAL and HANDED -> method
  fired: bool
  # Recipe -> target -> test bits per byte, the mean over final trainings.
  bpb: dict[str, dict[str, float]]

  def worth(self, recipe: str, target: str) -> float:
    """Of a method, or of what stands in `names`."""
    return self.bpb[self.names.get(recipe, recipe)][target]


def _job(folder: Path, rivals: Sequence[str]) -> Job:
  """Reads what it left."""
  from cmtree_jax.jobs import learn

  judged = json.loads((folder / "recipe.json").read_text())["guard"]
  rows = json.loads((folder / learn.COMPARISON_FILE).read_text())
  bpb: dict[str, dict[str, float]] = {}
  for row in rows:
    bpb.setdefault(row["recipe"], {})[row["target"]] = row["bpb_mean"]
  names = {
    ASKED: judged["asked"]["method"],
    HANDED: judged["handed_over"]["method"],
  }
  # The rows of what was tried stand with the best first, as "crisp_64@0.3".
  tried = [row["name"].partition("@")[0] for row in judged["rows"]]
  if free := [name for name in tried if name in rivals]:
    names[RIVAL] = free[0]
  return Job(names, judged["fired"], bpb)


def show(jobs: Mapping[str, Sequence[Job]], folder: Path) -> Iterator[Path]:
  """The recipes on every target, and how often the guard fired."""
  for target_set, found in jobs.items():
    yield claims.write_table(
      folder / f"recipes.{target_set}.md",
      f"Test bits per byte, {len(found)} searches, {target_set}",
      ["recipe", *_targets(found), "- natural"],
      _recipes(found),
    )
  yield claims.write_table(
    folder / "guard.md",
    "What the guard handed over, test bits per byte",
    [
      *("targets", "fired", "handed over", f"{HANDED} - {ASKED}"),
      *(f"{HANDED} - {RIVAL}", f"{HANDED} - {NATURAL}"),
    ],
    (
      [
        target_set,
        f"{sum(job.fired for job in found)} of {len(found)}",
        ", ".join(dict.fromkeys(job.names[HANDED] for job in found)),
        *(
          _difference(found, HANDED, other, _targets(found)[-1])
          for other in (ASKED, RIVAL, NATURAL)
        ),
      ]
      for target_set, found in jobs.items()
    ),
  )


def _targets(found: Sequence[Job]) -> list[str]:
  """The mean, if there is one, is the last."""
  names = list(found[0].bpb[NATURAL])
  return sorted(names, key=lambda name: name == MEAN)


def _recipes(found: Sequence[Job]) -> Iterator[list[str]]:
  """Those that every job compared, and what they chose."""
  same = [
    name for name in found[0].bpb if all(name in job.bpb for job in found)
  ]
  roles = [role for role in (RIVAL, HANDED) if role in found[0].names]
  targets = _targets(found)
  for recipe in [*same, *roles]:
    yield [
      recipe,
      *(
        f"{statistics.mean(job.worth(recipe, t) for job in found):.3f}"
        for t in targets
      ),
      _difference(found, recipe, NATURAL, targets[-1]),
    ]


def _difference(
  found: Sequence[Job], recipe: str, other: str, target: str
) -> str:
  """With its interval over searches; a job without a rival has no difference."""
  if not all({recipe, other} <= {*job.names, *job.bpb} for job in found):
    return "-"
  return claims.signed(
    intervals.paired_difference(
      *([job.worth(name, target) for job in found] for name in (recipe, other))
    )
  )


if __name__ == "__main__":
  sys.exit(main())
