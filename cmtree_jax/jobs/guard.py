"""The guard: a method is handed over only if it beats what costs nothing.

The method's recipes (of its start, of every round that it kept, its last) and free
rivals are tried by short trainings on the validation split; `evaluate/verdict.py`
decides. The test split is not read: it is for the table of what was chosen.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.evaluate import statistics, verdict
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.evaluate.verdict import Verdict
from cmtree_jax.jobs import trials as trying
from cmtree_jax.jobs.cells import Found, Version
from cmtree_jax.jobs.trials import Choice, Trials, Tried
from cmtree_jax.proxy.ledger import Cost


class Plan(NamedTuple):
  """What may be handed over in a method's place; the block `guard`."""

  # Off: the method's last recipe is handed over, whatever it is worth.
  on: bool = True
  # Methods and variants whose search costs next to nothing; natural always is one.
  rivals: tuple[str, ...] = (
    *("crisp_16", "crisp_64", "crisp_256"),
    *("dsir", "classifier", "classifier_soft", "classifier_embedding"),
  )


class Guarded(NamedTuple):
  """What is handed over, beside what was asked for."""

  handed: Tried
  own: Tried  # the method's best
  rival: Tried | None  # the best free one beside natural
  choice: Choice  # versions that the methods of the table are trained at
  verdict: Verdict | None  # None: nobody judged
  cost: Cost  # of all trials
  told: tuple[str, ...]  # sentences for a person

  @property
  def why(self) -> str:
    """One sentence."""
    return self.verdict.why if self.verdict else self.told[0]

  def to_json(self, trials: Trials) -> dict[str, Any]:
    """Its part of recipe.json."""
    # At least three seeds are tried, so the floor is a number.
    floor = self.verdict.noise_floor if self.verdict else None
    return {
      "asked": _json(self.own, trials),
      "handed_over": _json(self.handed, trials),
      "fired": self.handed != self.own,
      "why": self.why,
      "told": list(self.told),
      "noise_floor": floor,
      "rows": [
        row._asdict()
        for row in (self.verdict.rows.values() if self.verdict else ())
      ],
    }


def _json(one: Tried, trials: Trials) -> dict[str, Any]:
  (first, *_) = trials.cells(one)
  return {
    "method": one.method,
    "candidate": one.version.candidate,
    "kept_share": one.version.share,
    "effective_sample_size": trials.training.versions.share(
      first.search, one.version
    ),
  }


def is_on(plan: Plan, method: str) -> bool:
  """Whether a method is judged: whoever asks for natural gets it."""
  return plan.on and method != NATURAL


def judge(
  trials: Trials, plan: Plan, table: Sequence[str], *, leaves_only: bool
) -> Guarded:
  """Tries what there is, and says what is handed over.

  Args:
    trials: their plan has the methods of the table, and the rivals where the guard
      is on, for one set of targets.
    plan: of the guard.
    table: methods that will be compared; the first was asked for.
    leaves_only: recipes of single documents cannot be handed over.
  """
  own = _tried(trials, table[0])
  if not is_on(plan, own.method):
    return _unjudged(trials, own)
  natural = _tried(trials, NATURAL)
  rivals = [_tried(trials, name) for name in plan.rivals if name != own.method]
  barred = [
    one for one in rivals if leaves_only and not _has_leaves(trials, one)
  ]
  rivals = [one for one in rivals if one not in barred]
  candidates = _candidates(trials, own)
  trials.run([natural, *candidates, *rivals])
  # Each of these also at other concentrations.
  chosen = [_latest(trials, candidates)]
  if rivals:
    chosen.append(min(rivals, key=lambda one: trials.bpb_S(one).mean()))
  chosen += [_tried(trials, name) for name in table[1:] if name != NATURAL]
  lists = [trials.concentrations(one) for one in dict.fromkeys(chosen)]
  trials.run(one for tried in lists for one in tried)
  best = {tuple(tried): trials.best(tried) for tried in lists}
  of_method = {one.method: one for one in best.values()}
  free = [of_method.get(one.method, one) for one in rivals]
  every = dict.fromkeys(
    [natural, *candidates, *rivals, *(one for tried in lists for one in tried)]
  )
  found = verdict.judge(
    {one.name: trials.bpb_ST(one) for one in every},
    trials.targets(own),
    trials.weight_T(trials.targets(own)),
    method=of_method[own.method].name,
    rivals=tuple(one.name for one in free),
  )
  return Guarded(
    handed=next(one for one in every if one.name == found.winner),
    own=of_method[own.method],
    rival=min(free, key=lambda one: found.rows[one.name].bpb, default=None),
    choice=trying.choice(trials, best, also=candidates),
    verdict=found,
    cost=trials.cost(every),
    told=_barred(barred),
  )


def _unjudged(trials: Trials, own: Tried) -> Guarded:
  """The method as it is, at its best concentration."""
  choice = trying.choose(trials)
  version = choice.kept.get((own.method, own.target_set), Version())
  why = "Natural is what was asked for."
  if own.method != NATURAL:
    why = (
      f"The guard is off (config.guard.on): {own.method} is handed over, whatever "
      "it is worth."
    )
  own = own._replace(version=version)
  cost = Cost(
    *(sum(x) for x in zip(Cost(), *choice.cost.values(), strict=True))
  )
  return Guarded(own, own, None, choice, None, cost, (why,))


def _tried(trials: Trials, method: str) -> Tried:
  """The last recipe of a method on the only set of targets."""
  (target_set,) = trials.plan.target_sets
  return Tried(method, trials.plan.search(method, target_set, 0).target_set)


def _found(trials: Trials, one: Tried) -> Found:
  (first, *_) = trials.cells(one)
  found = trials.folder.found(first.search)
  assert found is not None, one
  return found


def _has_leaves(trials: Trials, one: Tried) -> bool:
  return _found(trials, one).partition is not None


def _candidates(trials: Trials, own: Tried) -> list[Tried]:
  """What the search had on its way, the last one at the end."""
  names = _found(trials, own).partitions
  return [own._replace(version=Version(name)) for name in names]


def _latest(trials: Trials, candidates: Sequence[Tried]) -> Tried:
  """The latest that is within one standard error of the best.

  Each round was kept because the search measured that it helped, so what trials
  cannot tell apart is left as the search wants it.
  """
  bpb_CS = np.array([trials.bpb_S(one) for one in candidates])
  error = statistics.standard_error(bpb_CS)
  mean_C = bpb_CS.mean(axis=1)
  tied = mean_C <= mean_C.min() + (0.0 if np.isnan(error) else error)
  return candidates[int(np.flatnonzero(tied)[-1])]


def _barred(barred: Sequence[Tried]) -> tuple[str, ...]:
  if not barred:
    return ()
  names = ", ".join(one.method for one in barred)
  return (
    f"Not judged, for config.export.formats has one that mixes leaves: {names}.",
  )
