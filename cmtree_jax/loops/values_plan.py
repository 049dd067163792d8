"""How much of everything the loop `values` does, and what that costs."""

from typing import NamedTuple

import numpy as np

from cmtree_jax import checks
from cmtree_jax.bilevel import population
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.loops import target_weights
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT, PROBE
from cmtree_jax.tree import replay

# (rows, forward passes over them), as a fleet is charged.
Charges = tuple[tuple[int, int], ...]


class Plan(NamedTuple):
  """How much of everything a search does; the block `values`."""

  rounds: int = 5
  # Proxies of staggered ages: in every round one half says where to go and the
  # other whether to go there, which takes two of each.
  population: int = 6
  max_age: int = 120  # training steps at which a proxy is reset
  min_age: int = 40  # training steps before a proxy is first asked
  unroll: int = 8  # steps that are differentiated through, as a cooldown
  outer_rows: int = 192  # rows of the targets for the unrolls of each proxy
  probe_rows: int = 256  # rows of documents valued by each proxy
  validation_rows: int = 256  # rows that every change is measured on
  steps_between_rounds: int = 20  # training steps of every proxy
  # Cooldown steps by which a change is measured, on either side; 0: every change
  # is kept, unmeasured.
  lookahead: int = 20
  natural_share: float = 0.25  # share of natural draws among those valued
  sample_documents: int = 32_768  # documents that stand for the corpus
  # What each target's loss counts for: "equal", "dro" (more for those that fall
  # behind, `target_weights.robust`), or given, as "news=2,code=1".
  target_weights: str = "equal"

  def check(self, rows: int) -> None:
    """Refuses what contradicts itself, or does not fill batches of `rows`.

    Raises:
      ValueError: for the first such field.
    """
    checks.at_least(
      1,
      max_age=self.max_age,
      unroll=self.unroll,
      steps_between_rounds=self.steps_between_rounds,
      sample_documents=self.sample_documents,
    )
    checks.at_least(
      0, rounds=self.rounds, min_age=self.min_age, lookahead=self.lookahead
    )
    if self.population < 4:
      raise ValueError(
        f"population = {self.population} must be at least 4: one half of the "
        "proxies fits and the other judges by its spread, which takes two of each."
      )
    checks.share(natural_share=self.natural_share)
    if self.max_age < self.min_age:
      raise ValueError(
        f"max_age = {self.max_age} must be at least min_age = {self.min_age}."
      )
    for name in ("outer_rows", "probe_rows", "validation_rows"):
      value = getattr(self, name)
      if value < rows or value % rows:
        raise ValueError(
          f"{name} = {value} must be a multiple of config.batch.rows = {rows}; "
          f"try {max(value // rows, 1) * rows}."
        )
    target_weights.check(self.target_weights)

  def outer_rows_of(self, targets: int, rows: int) -> int:
    """Rows of each target for one unroll, full batches of `rows`."""
    return max(1, round(self.outer_rows / targets / rows)) * rows

  @property
  def life(self) -> int:
    """Steps of a proxy, the cooldown of an unroll at the end of it too."""
    return self.max_age + self.unroll

  @property
  def num_judges(self) -> int:
    """Proxies that may judge in one round, at most."""
    return (self.population + 1) // 2


def goal_ages(plan: Plan, age_P: np.ndarray, number: int) -> np.ndarray:
  """The ages at which proxies are asked in a round, counted from 0; none is old."""
  if number:
    return np.maximum(plan.min_age, age_P + plan.steps_between_rounds)
  # Staggered, so that their hypergradients are not those of one moment.
  first_P = population.first_ages(
    plan.population, max_age=plan.max_age, min_age=plan.min_age
  )
  return np.maximum(first_P, plan.steps_between_rounds)


def raised(plan: Plan) -> int:
  """Training steps of all proxies together, in all rounds."""
  age_P, total = np.zeros(plan.population, int), 0
  for number in range(plan.rounds):
    age_P = np.where(age_P >= plan.max_age, 0, age_P)
    left_P = goal_ages(plan, age_P, number) - age_P
    calls_P = -(-left_P // plan.steps_between_rounds)
    age_P = age_P + calls_P * plan.steps_between_rounds
    total += int(calls_P.sum()) * plan.steps_between_rounds
  return total


def asked(plan: Plan, rows: int, cost: UnrollCost, *, targets: int) -> Charges:
  """What it takes to ask all proxies once, of every target."""
  outer_rows = plan.outer_rows_of(targets, rows)
  times = plan.population * targets
  return (
    (times * plan.unroll * rows, cost.inner_passes),
    (times * outer_rows * cost.outer_gradients, GRADIENT),
    (times * plan.probe_rows, PROBE),
  )


def judged(plan: Plan, rows: int, *, judges: int, held_rows: int) -> Charges:
  """What it takes to measure one change, on that many validation rows."""
  return (
    (2 * judges * plan.lookahead * rows, GRADIENT),
    (2 * judges * held_rows, FORWARD),
  )


def most(plan: Plan, rows: int, cost: UnrollCost, *, targets: int) -> Charges:
  """What a whole search takes, if every round takes a step."""
  found = [(raised(plan) * rows, GRADIENT)]
  members = np.arange(plan.population)
  for number in range(plan.rounds):
    found += asked(plan, rows, cost, targets=targets)
    judges = int(np.sum(replay.judges(members, np.array(number))))
    if plan.lookahead:
      found += judged(plan, rows, judges=judges, held_rows=plan.validation_rows)
  return tuple(found)


def work(plan: Plan, rows: int, cost: UnrollCost, *, targets: int) -> float:
  """Work of a whole search in plain training rows, of `rows` a step."""
  raising = plan.population * plan.min_age  # and the sum of `first_ages`
  raising += (plan.population - 1) * (plan.max_age - plan.min_age) / 2
  proxy = unroll_work(plan, rows, cost, targets=targets)
  proxy += plan.steps_between_rounds * rows
  one_round = plan.population * proxy + lookahead_work(plan, rows)
  return rows * raising + plan.rounds * one_round


def unroll_work(
  plan: Plan, rows: int, cost: UnrollCost, *, targets: int
) -> float:
  """Work of valuing with one proxy for all targets, in plain training rows."""
  inner = plan.unroll * rows * cost.inner_passes
  outer = plan.outer_rows_of(targets, rows) * cost.outer_gradients * GRADIENT
  return targets * (inner + outer + plan.probe_rows * PROBE) / GRADIENT


def lookahead_work(plan: Plan, rows: int) -> float:
  """Work of measuring one change, in plain training rows."""
  return 2.0 * plan.num_judges * plan.lookahead * rows
