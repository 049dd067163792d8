"""Trials: short trainings, scored on validation, by which a version is chosen.

Every method of a table is tried at its own concentration and at shares of the corpus
that the budget suggests, and is then trained at the best of them. Trials of one seed
are paired over all that is tried: they share the initial parameters, the part of the
corpus that they see, and the draws where weights are equal.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from cmtree_jax.evaluate import concentration
from cmtree_jax.evaluate.results import NATURAL
from cmtree_jax.jobs import cells
from cmtree_jax.jobs.cells import Kept, Trial, Version
from cmtree_jax.jobs.final import Training, trial_targets
from cmtree_jax.loops import target_weights
from cmtree_jax.loops.final import TrialPlan
from cmtree_jax.proxy.ledger import Cost


class Tried(NamedTuple):
  """A version of what a method found for a target set, over all seeds of trials."""

  method: str
  target_set: str  # of its searches
  version: Version = Version()

  @property
  def name(self) -> str:
    """In tables: "cmtree start", "crisp_64@0.35"."""
    candidate = f" {self.version.candidate}" * bool(self.version.candidate)
    at = f"@{self.version.share:g}" * bool(self.version.share)
    return self.method + candidate + at


class Trials(NamedTuple):
  """The trials of a comparison; those that are done are read from their files."""

  plan: cells.Plan
  settings: TrialPlan
  training: Training
  folder: cells.Folder
  target_weights: str  # of `loops.target_weights`; by need is alike here

  def run(self, wanted: Iterable[Tried]) -> None:
    """Does those that are not done yet."""
    todo = [trial for one in wanted for trial in self.cells(one)]
    self.training.train(todo, self.plan, self.folder)

  def cells(self, one: Tried) -> list[Trial]:
    """A trial for each seed."""
    method, target_set, version = one
    return self.plan.trials(
      method, target_set, version, seeds=self.settings.seeds
    )

  def targets(self, one: Tried) -> tuple[str, ...]:
    """The targets that a version is scored on."""
    return trial_targets(self.plan.places_of(self.cells(one)[0].search))

  def bpb_ST(self, one: Tried) -> np.ndarray:
    """Bits per byte of a version that was run, by seed and target."""
    targets, found = self.targets(one), []
    for trial in self.cells(one):
      facts = self.folder.scored(trial, targets)
      assert facts is not None, trial
      found.append([facts["bpb"][target] for target in targets])
    return np.array(found)

  def bpb_S(self, one: Tried) -> np.ndarray:
    """The mean over targets, by their weights."""
    return self.bpb_ST(one) @ self.weight_T(self.targets(one))

  def weight_T(self, targets: Sequence[str]) -> np.ndarray:
    """What targets count for in a mean; sums to one."""
    return target_weights.first(self.target_weights, targets)

  def concentrations(self, one: Tried) -> list[Tried]:
    """A version at all its concentrations, its own first."""
    (first, *_) = self.cells(one)
    candidate = one.version.candidate
    shares = self.training.versions.shares(
      first.search, candidate, self.settings.exponents
    )
    return [one] + [
      one._replace(version=Version(candidate, share)) for share in shares
    ]

  def best(self, tried: Sequence[Tried]) -> Tried:
    """The best concentration of one version; see `concentration.best`.

    Args:
      tried: what `concentrations` returned, run.
    """
    of_share = {self._share(one): one for one in tried}
    bpb = {share: self.bpb_S(one).tolist() for share, one in of_share.items()}
    return of_share[concentration.best(bpb)]

  def cost(self, tried: Iterable[Tried]) -> Cost:
    """What trials cost together."""
    total = Cost()
    for trial in dict.fromkeys(t for one in tried for t in self.cells(one)):
      facts = self.folder.scored(trial, ())
      assert facts is not None, trial
      total = Cost(total.tokens + facts["tokens"], total.flops + facts["flops"])
    return total

  def _share(self, one: Tried) -> float:
    """Kept by the first search's recipe: those of others are close."""
    (first, *_) = self.cells(one)
    return one.version.share or self.training.versions.share(
      first.search, one.version
    )


class Choice(NamedTuple):
  """Which versions are trained, and what it cost to find out."""

  kept: Kept = {}  # noqa: RUF012
  cost: dict[tuple[str, str], Cost] = {}  # noqa: RUF012


def choose(trials: Trials) -> Choice:
  """The best concentration of every method of a plan on every target set.

  Natural has none, and neither have methods whose weights are all one.
  """
  lists = [trials.concentrations(one) for one in of_plan(trials.plan)]
  lists = [tried for tried in lists if len(tried) > 1]
  trials.run(one for tried in lists for one in tried)
  return choice(trials, {tuple(tried): trials.best(tried) for tried in lists})


def choice(
  trials: Trials,
  best: dict[tuple[Tried, ...], Tried],
  also: Sequence[Tried] = (),
) -> Choice:
  """A choice of versions.

  Args:
    trials: all that is named here was run.
    best: what was tried of each method -> the version that is trained.
    also: more that was tried on the way.
  """
  kept, cost = {}, {}
  for tried, one in best.items():
    key = one.method, one.target_set
    kept[key] = one.version
    more = [other for other in also if (other.method, other.target_set) == key]
    cost[key] = trials.cost([*tried, *more])
  return Choice(kept, cost)


def of_plan(plan: cells.Plan) -> list[Tried]:
  """The last recipe of every method but natural, for every set that it is for."""
  searches = (
    plan.search(method, target_set, 0)
    for method in plan.methods
    for target_set in plan.target_sets
    # The run of an online method is over before it could be tried.
    if method != NATURAL and method not in plan.online
  )
  return list(
    dict.fromkeys(Tried(one.method, one.target_set) for one in searches)
  )
