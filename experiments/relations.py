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
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.statistics import Interval
from cmtree_jax.jobs.command import command
from experiments import claims, verdicts
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
_WORST = "44.16 % against CRISP's 41.97, mean of six tasks"

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
      published=_WORST,
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
        status, parts[part] = claims.compared(
          of_part(config, part), workdir / part, "compared", (),
          overwrite=overwrite,
        )  # fmt: skip
        if status:
          return status
        files.append(_write_recipes(parts[part]))
    files.append(_write_verdict(relation, parts, workdir))
  tables.show_files(files)
  return 0


def parts_of(relation: str) -> list[str]:
  """The comparisons that a relation is told by."""
  return list(
    dict.fromkeys(
      seen.part for one in CLAIMS[relation] for seen in (*one.more, *one.less)
    )
  )


def of_part(config: Any, part: str) -> Any:
  """The config of a comparison: the job's, under the overrides of a part."""
  from cmtree_jax import config as configs

  own = claims.plain(config)
  del own.relations  # so that cells are found again, whichever are wanted
  own.lock()
  for override in config.relations.parts[part]:
    configs.override_field(own, override)
  return own


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
