"""What methods read of proxies and documents, computed only where it is declared.

A signal is written in one file of this folder, with its cost, and entered in
`SIGNALS` under the name of the field of `methods.base.Signals` that it fills.
"""

from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.methods.base import Signals
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import Cost
from cmtree_jax.signals import documents, domains, gradients, hidden
from cmtree_jax.signals.base import Observation, Signal, View, observe

SIGNALS: dict[str, Signal] = {
  "loss_K": domains.LOSSES,
  "excess_K": domains.EXCESS,
  "tokens_K": domains.TOKENS,
  "head_gram_KK": gradients.HEAD_GRAM,
  # Both come of the same gradients.
  "gram_KK": gradients.PRODUCTS,
  "target_dot_K": gradients.PRODUCTS,
  "target_dot_TK": gradients.TARGET_PRODUCTS,
  "domain_norm_K": gradients.TARGET_PRODUCTS,
  "target_norm_T": gradients.TARGET_PRODUCTS,
  "target_nats_T": gradients.TARGET_PRODUCTS,
  "head_dot_K": gradients.HEAD_DOT,
  "late_hidden_KRH": hidden.DOMAINS,
  "target_late_hidden_TH": hidden.TARGETS,
  "target_loss_T": domains.TARGETS,
  "document_nats_M": documents.NATS,
}


def read_reference(wanted: frozenset[str]) -> bool:
  """Whether one of these signals compares with a reference model."""
  return any(SIGNALS[x].reads_reference for x in wanted if x in SIGNALS)


class Looked(NamedTuple):
  """What an observation found and took."""

  signals: Signals
  cost: Cost
  batch: Batch  # the fresh rows of the domains, [K, rows, T]


def look(
  view: View,
  engine: Engine,
  params: shapes.Tree,
  wanted: frozenset[str],
  *,
  number: int,
  reference: shapes.Tree | None,
  flops_per_token: float,
) -> Looked:
  """The declared signals of a proxy (the first member of `params`).

  Args:
    view: what to look with.
    engine: compiled functions.
    params: of the proxy, [P, ...].
    wanted: the method's signals; those that are not in `SIGNALS` are the loop's.
    number: of the observation.
    reference: parameters of the reference model, for excess losses.
    flops_per_token: of a forward pass.
  """
  seen = observe(view, engine, params, number=number, reference=reference)
  found, cost = measure(seen, wanted, flops_per_token)
  first = {name: value[0].astype(np.float32) for name, value in found.items()}
  return Looked(Signals(**first), cost, seen.batch)


def measure(
  seen: Observation, wanted: frozenset[str], flops_per_token: float
) -> tuple[dict[str, Any], Cost]:
  """The declared signals of every proxy, [P, ...] by name, and the cost of one."""
  found: dict[str, np.ndarray] = {}
  for one in _computations(wanted):
    found |= one.compute(seen)
  cost = cost_of(seen, wanted, flops_per_token)
  return {name: x for name, x in found.items() if name in wanted}, cost


def cost_of(
  seen: Observation, wanted: frozenset[str], flops_per_token: float
) -> Cost:
  """The cost of the declared signals of one proxy."""
  costs = [one.cost(seen, flops_per_token) for one in _computations(wanted)]
  return Cost(*(sum(x) for x in zip(Cost(), *costs, strict=True)))


def _computations(wanted: frozenset[str]) -> list[Signal]:
  """What several signals share is computed and charged once."""
  return list(dict.fromkeys(x for n, x in SIGNALS.items() if n in wanted))
