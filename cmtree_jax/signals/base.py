"""What a signal is, and what it is computed from: proxies in training, and rows."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.data.draw.strata import Strata
from cmtree_jax.evaluate import perplexity
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import Cost


class View(NamedTuple):
  """What proxies are looked at with."""

  domains: Strata
  # Of the targets' training documents, a part for each target; None without any.
  targets: Strata | None
  eval_sets: tuple[perplexity.EvalSet, ...]  # frozen, of the same documents
  bits_T: np.ndarray  # bits per byte of each target for one nat per token
  rows: int  # fresh rows of each domain
  target_rows: int  # fresh rows of each target
  frozen: Batch  # rows of each domain that stay the same, [K, rows, T]
  chunk_rows: int  # rows that are scored together

  @property
  def num_domains(self) -> int:
    """K."""
    return len(self.domains.piece_G)

  @property
  def fresh_rows(self) -> int:
    """Fresh rows of all domains together."""
    return self.num_domains * self.rows

  def cost(self, rows: int, passes: int, flops_per_token: float) -> Cost:
    """Of `passes` forward passes over so many rows, for one proxy."""
    tokens = rows * self.frozen.tokens_BT.shape[-1]
    return Cost().plus(tokens, passes, flops_per_token)


class Observation(NamedTuple):
  """One look at proxies, all signals of which see the same rows."""

  view: View
  engine: Engine
  params: shapes.Tree  # of the proxies, [P, ...]
  reference: shapes.Tree | None  # parameters of a reference model, alike
  number: int  # of the observation; equal numbers see equal rows
  batch: Batch  # fresh rows of the domains, [K, rows, T]

  @property
  def num_members(self) -> int:
    """P."""
    return len(jax.tree.leaves(self.params)[0])


class Signal(NamedTuple):
  """One computation; signals that share it are entered as the same object.

  A new one is written in a file of this folder and entered in `SIGNALS`.
  """

  # -> fields of `methods.base.Signals` by name, each of all proxies, [P, ...]
  compute: Callable[[Observation], dict[str, np.ndarray]]
  # (what was looked at, FLOPs of a token's forward pass) -> cost of one proxy's
  cost: Callable[[Observation, float], Cost]
  # Whether it compares with a reference model, which must be trained before.
  reads_reference: bool = False


def observe(
  view: View,
  engine: Engine,
  params: shapes.Tree,
  *,
  number: int = 0,
  reference: shapes.Tree | None = None,
) -> Observation:
  """An observation with its fresh rows; fields as of `Observation`."""
  # The view's frozen rows were drawn by number 0.
  batch = view.domains.rows(1 + number, view.rows)
  return Observation(view, engine, params, reference, number, batch)


def target_rows(seen: Observation) -> Batch:
  """Fresh rows of every target, [T, rows, T]."""
  view = seen.view
  assert view.targets is not None
  return view.targets.rows(1 + seen.number, view.target_rows)


def token_weights(batch: Batch) -> np.ndarray:
  """1 for a token, 0 for padding."""
  return (batch.document_BT >= 0).astype(np.float32)
