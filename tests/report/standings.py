"""A standing of a table, for tests that show one."""

import math

from cmtree_jax.evaluate.results import Standing
from cmtree_jax.evaluate.statistics import Interval, Reach


def standing(verdict: str, **changes) -> Standing:
  difference = Interval(-0.1, -0.3, 0.1)
  one = Standing(
    target_set="news",
    target="news",
    method="crisp",
    seeds=2,
    searches=2,
    tokens=1000,
    bpb=1.5,
    validation_bpb=1.6,
    accuracy=math.nan,
    to_natural=difference,
    verdict=verdict,
    best_other="",
    to_best=difference,
    best_verdict="",
    noise_floor=math.nan,
    effective_sample_size=0.5,
    kept_share=0.0,
    search_tokens=0.0,
    search_flops=0.0,
    trial_flops=0.0,
    search_share=0.0,
    num_budgets=1,
    reach=Reach(1.0, True),
    at_equal_flops=None,
  )
  return one._replace(**changes)
