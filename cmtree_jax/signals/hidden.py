"""Hidden states of proxies in training: what they make of domains and of targets."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cmtree_jax import shapes, sharding
from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.proxy import engine as engines
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.engine import Engine
from cmtree_jax.proxy.ledger import FORWARD, Cost
from cmtree_jax.proxy.model import Proxy
from cmtree_jax.signals.base import Observation, Signal, target_rows


def late_states(
  engine: Engine, params: shapes.Tree, batch: Batch
) -> np.ndarray:
  r"""Mean hidden state of each row, in which late tokens weigh more.

  .. math:: h = \sum_x \frac{|x|}{n}
            \sum_{\tau=1}^{|x|} \frac{\tau}{1 + \dots + |x|}\, h_\tau(x)

  over the pieces x of documents in a row of n tokens: a token that has read more of
  its document tells more of it.

  Args:
    engine: of the proxies.
    params: of the proxies, [P, ...].
    batch: rows in parts, [G, R, T].
  Returns:
    [P, G, R, H]; zeros for a row without tokens.
  References:
    Ivison et al., `RDS+ <https://arxiv.org/abs/2503.01807>`_, 2025, section 3.
  """
  proxy: Any = engine.proxy  # flax gives modules a hash that types do not show
  compiled = _compiled_for(proxy, engine.mesh)
  return sharding.gather(compiled(params, (batch, late_weights(batch))))


def late_weights(batch: Batch) -> np.ndarray:
  """What each token counts in its row, float32; sums to one, padding is zero."""
  shape = batch.segment_BT.shape
  segment_BT = batch.segment_BT.reshape(-1, shape[-1])
  begins_BT = np.diff(segment_BT, prepend=segment_BT[:, :1] - 1) != 0
  run_BT = np.cumsum(begins_BT).reshape(segment_BT.shape) - 1
  length_BT = np.bincount(run_BT.ravel())[run_BT]
  begin_BT = np.flatnonzero(begins_BT)[run_BT]
  place_BT = np.arange(segment_BT.size).reshape(segment_BT.shape) - begin_BT
  real_BT = batch.document_BT.reshape(segment_BT.shape) >= 0
  tokens_B1 = np.maximum(real_BT.sum(axis=1, keepdims=True), 1)
  weight_BT = real_BT * 2 * (1 + place_BT) / (1 + length_BT) / tokens_B1
  return weight_BT.reshape(shape).astype(np.float32)


# A comparison makes an engine for every search, most of one model on one mesh.
@functools.lru_cache(maxsize=4)
def _compiled_for(proxy: Proxy, mesh: Mesh) -> Callable[..., shapes.Array]:
  outputs = proxy_loss.hidden_and_logits(proxy)

  def means(params, rows):
    def of_part(one):
      batch, weight_BT = one
      hidden_BTD = outputs(params, batch)[0].astype(jnp.float32)
      # Accelerators else multiply float32 in fewer bits.
      return jnp.einsum(
        "bt,btd->bd", weight_BT, hidden_BTD, precision="highest"
      )

    # Parts take turns, so activations are those of one.
    return jax.lax.map(of_part, rows)

  # A few rows of each part do not divide among devices: each computes them all.
  return engines.members(mesh, means, [None, engines.WHOLE])


def _of_domains(seen: Observation) -> dict[str, np.ndarray]:
  # Of rows that stay the same: what changes is the model alone.
  found = late_states(seen.engine, seen.params, seen.view.frozen)
  return {"late_hidden_KRH": found}


def _of_targets(seen: Observation) -> dict[str, np.ndarray]:
  batch = target_rows(seen)
  state_PGRH = late_states(seen.engine, seen.params, batch)
  tokens_GR1 = (batch.document_BT >= 0).sum(axis=-1)[..., None]
  total_G1 = np.maximum(tokens_GR1.sum(axis=1), 1)
  mean_PGH = (tokens_GR1 * state_PGRH).sum(axis=2) / total_G1
  return {"target_late_hidden_TH": mean_PGH}


def _frozen_cost(seen: Observation, flops_per_token: float) -> Cost:
  view = seen.view
  rows = view.frozen.tokens_BT[..., 0].size
  return view.cost(rows, FORWARD, flops_per_token)


def _target_cost(seen: Observation, flops_per_token: float) -> Cost:
  view = seen.view
  rows = len(view.bits_T) * view.target_rows
  return view.cost(rows, FORWARD, flops_per_token)


DOMAINS = Signal(_of_domains, _frozen_cost)
TARGETS = Signal(_of_targets, _target_cost)
