"""How much of everything the loop `values` does, and what that costs."""

from typing import NamedTuple

from cmtree_jax import checks
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.loops import target_weights
from cmtree_jax.proxy.ledger import GRADIENT, PROBE


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
