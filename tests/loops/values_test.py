"""The loop `values` on a toy corpus: what a method is shown fits together."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.bilevel import population
from cmtree_jax.bilevel.cost import UnrollCost
from cmtree_jax.loops import fleet, values
from cmtree_jax.methods.base import DomainWeights, Method
from tests import toy

PLAN = values.Plan(
  rounds=2,
  population=1,
  max_age=8,
  min_age=2,
  unroll=2,
  outer_rows=toy.ROWS,
  probe_rows=toy.ROWS,
  validation_rows=toy.ROWS,
  steps_between_rounds=2,
  lookahead=2,
  natural_share=0.5,
)


class Info(NamedTuple):
  """What the method below saw."""

  mismatch: jax.Array  # documents whose features are not those of their domain
  documents: jax.Array


def watching() -> Method:
  """Looks at domains and features, and doubles the weight of domain 0."""
  log_w_K = jnp.log(jnp.array([2.0, 0.5, 0.5, 1.0]))

  def step(state, signals):
    expected = jax.nn.one_hot(signals.domain_B, toy.K)
    differ_B = jnp.any(expected != signals.embedding_BE, axis=1)
    return state, Info(jnp.sum(differ_B), jnp.sum(signals.mass_B > 0))

  return Method(
    init=lambda key, facts: jnp.zeros(()),
    step=step,
    finalize=lambda state: DomainWeights(log_w_K),
    signals=frozenset({"mass_B", "domain_B", "embedding_BE"}),
    loop="values",
  )


@pytest.mark.parametrize("lookahead", [2, 0])
def test_documents_come_with_their_domains(tmp_path, lookahead):
  corpus = toy.corpus()
  batch = jax.tree.map(lambda x: x[:1], corpus.view.eval_sets[0].batches)
  world = corpus.world._replace(
    model=fleet.Model(toy.engine(), 1.0, UnrollCost(1, 1)),
    validation=(batch, np.ones(batch.tokens_BT.shape, np.float32)),
  )
  plan = PLAN._replace(lookahead=lookahead)
  with toy.session(tmp_path) as session:
    result = values.run(watching(), corpus.facts, world, plan, session)
  for row in result.history:
    assert row["mismatch"] == 0 < row["documents"]
  # Weights that read domains alone were enough to draw by.
  gains = np.array([row["gain"] for row in result.history])
  assert np.isfinite(gains).all()
  assert (gains == 0).all() == (lookahead == 0)  # without one, nothing is said
  assert all(row["validation_loss"] > 0 for row in result.history)


def test_the_estimate_of_raising_is_the_sum_of_first_ages():
  for members, life in ((1, 10**6), (2, 300), (4, 308)):
    plan = PLAN._replace(
      population=members, max_age=life, min_age=100, rounds=0
    )
    ages = population.first_ages(members, max_age=life, min_age=100)
    assert (
      values.work(plan, toy.ROWS, UnrollCost(1, 1)) == toy.ROWS * ages.sum()
    )
