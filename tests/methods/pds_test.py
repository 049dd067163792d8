"""PDS: a head finds what is worth something, and the loop tells it along the path."""

import jax
import numpy as np
import pytest

from cmtree_jax.jobs import build
from cmtree_jax.loops import values
from cmtree_jax.methods import pds
from cmtree_jax.methods.base import Signals
from cmtree_jax.types import UserError
from configs import default
from tests import toy
from tests.loops import planted
from tests.methods import measured, world

SIZE = 600


def pool():
  documents = world.some_documents(SIZE, 0)
  return documents._replace(tokens_N=np.full(SIZE, 10))


def kept(value_N, documents=None, **options):
  method = pds.make(**options)
  assert method.conclude is not None
  facts = world.facts(100.0)._replace(pool=documents or pool())
  found = method.conclude(None, jax.random.key(0), facts, value_N)
  return np.asarray(found.weights.log_w_N) > -1


def some_values(noise=0.3):
  """Along one direction, of some documents alone."""
  rng = np.random.default_rng(1)
  along_N = pool().embedding_NE[:, 2].astype(float)
  value_N = 1e-2 * (along_N + noise * rng.normal(size=SIZE)) - 0.4
  value_N[rng.permutation(SIZE)[200:]] = np.nan
  return along_N, value_N


def test_documents_that_were_not_valued_are_found_by_their_features():
  along_N, value_N = some_values()
  kept_N = kept(value_N, temperature=0.01)
  assert kept_N.mean() == pytest.approx(0.4, abs=0.01)
  others_N = kept_N & np.isnan(value_N)
  assert along_N[others_N].mean() > 0.85  # of the best two fifths: .97
  # A high temperature draws all alike.
  assert abs(along_N[kept(value_N, temperature=1e6)].mean()) < 0.2


def test_the_order_of_the_documents_does_not_matter():
  _, value_N = some_values()
  order = np.random.default_rng(3).permutation(SIZE)
  again_N = kept(value_N[order], measured.shuffled(pool(), order))
  np.testing.assert_array_equal(again_N, kept(value_N)[order])


def test_clipping_keeps_a_few_long_gradients_from_deciding():
  """What is labelled wrong has long gradients, and so a large value."""
  along_N, value_N = some_values(noise=0.1)
  valued = np.flatnonzero(np.isfinite(value_N))
  worst = valued[np.argsort(value_N[valued])[:3]]
  value_N[worst] += 0.4  # forty deviations
  kept_N = kept(value_N, temperature=0.01)
  assert along_N[kept_N].mean() > 0.5
  unclipped_N = kept(value_N, temperature=0.01, clip=1e9)
  assert along_N[unclipped_N].mean() < 0


def test_the_loop_hands_it_values_and_it_chooses_the_best_group(tmp_path):
  world, facts = planted.corpus()
  assert facts.pool is not None
  documents = facts.pool._replace(embedding_NE=planted.features())
  plan = values.Plan(
    rounds=2,
    population=planted.PROXIES,
    max_age=12,
    min_age=4,
    unroll=2,
    outer_rows=2 * toy.ROWS,
    probe_rows=8 * toy.ROWS,
    validation_rows=toy.ROWS,
    steps_between_rounds=2,
    lookahead=2,
    sample_documents=16,
  )
  proxies = planted.Proxies()
  world = world._replace(model=world.model._replace(engine=proxies.engine))
  with toy.session(tmp_path) as session:
    found = values.run(
      pds.make(share=0.25, temperature=1e-3),
      facts._replace(pool=documents),
      world,
      plan,
      session,
    )
  every = Signals(index_B=np.arange(len(planted.GROUP_N)))
  kept_N = np.asarray(found.weights.log_w(every)) > -1
  assert np.mean(planted.GROUP_N[kept_N] == 0) > 0.9
  # The weights did not move before, and so no change was measured.
  assert not proxies.asked("cooled")
  assert [name for name, _ in found.candidates] == ["start"]
  assert found.history[0]["deviation"] > 0
  assert found.reasons is not None
  assert found.history[-1]["spearman"] > 0.3
  assert 10 <= found.history[-1]["valued"] <= len(planted.GROUP_N)


def test_an_estimator_that_does_not_see_the_path_is_refused():
  config = default.get_config()
  config.method = "pds"
  config.baselines = ()
  build.check(config)
  config.hypergradient.estimator = "truncated"
  with pytest.raises(UserError, match="'truncated' sees the targets' loss"):
    build.check(config)
  config.pds.area = False
  build.check(config)


def test_no_values_and_equal_ones_are_refused():
  with pytest.raises(UserError, match="at least 10 scored documents, came 0"):
    kept(np.full(SIZE, np.nan))
  with pytest.raises(UserError, match="All 600 scores of .* are 0.3"):
    kept(np.full(SIZE, 0.3))


@pytest.mark.parametrize(
  "wrong", [dict(share=0.0), dict(temperature=0.0), dict(clip=0.0)]
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    pds.make(**wrong)
