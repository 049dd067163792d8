"""MATES: the first of the ranking with noise, and a head that finds the direction."""

import pathlib

import jax
import numpy as np
import pytest

from cmtree_jax.methods import mates, scoring
from cmtree_jax.selection import regression
from cmtree_jax.types import UserError
from tests.methods import measured, world

CASES = pathlib.Path(__file__).parent / "cases"
SIZE, E = 600, 6


def pool(influence_ON, seed=0):
  """Documents of random features and equal lengths."""
  documents = world.some_documents(SIZE, seed)
  return documents._replace(
    tokens_N=np.full(SIZE, 10), influence_ON=np.array(influence_ON, np.float32)
  )


def weigh(documents, **options):
  facts = world.facts(100.0)._replace(pool=documents)
  return mates.make(documents=100, **options).init(jax.random.key(0), facts)


def planted(asked=200, noise=0.3):
  """Influence along one direction, measured of some documents alone."""
  rng = np.random.default_rng(1)
  along_N = world.some_documents(SIZE, 0).embedding_NE[:, 2]
  influence_N = 1e-3 * (along_N + noise * rng.normal(size=SIZE)) + 5e-3
  influence_N[rng.permutation(SIZE)[asked:]] = np.nan
  return along_N, influence_N


def test_noise_makes_the_first_a_sample(monkeypatch):
  """The exact form of cxcscmu/MATES at 5d2860c, from the same noise."""
  case = np.load(CASES / "mates_select.npz")
  size = len(case["gumbel"])
  documents = world.some_documents(size, 0)._replace(
    tokens_N=np.full(size, 10), influence_ON=np.zeros((1, size), np.float32)
  )

  def score(self, embedding_NE):
    return -case["predicted_val_loss_after_step"]

  head = regression.Ridge(np.zeros(6), 0.0, 1.0, 0.0)
  monkeypatch.setattr(regression.Ridge, "score", score)
  monkeypatch.setattr(mates, "head", lambda pool, number: head)
  monkeypatch.setattr(scoring, "gumbel", lambda key_N, key: case["gumbel"])
  facts = world.facts(100.0)._replace(pool=documents)
  method = mates.make(
    share=(int(case["k"]) - 0.5) / size,  # tokens before the last one
    temperature=float(case["temperature"]),
  )
  kept = np.flatnonzero(method.init(jax.random.key(0), facts).log_w_N > -1)
  np.testing.assert_array_equal(
    kept, np.sort(case["selected_exact_gumbel_topk"])
  )


def test_documents_that_were_not_asked_are_found_by_their_features():
  along_N, influence_N = planted()
  found = weigh(pool([influence_N]), temperature=0.01)
  kept_N = found.log_w_N > -1
  assert kept_N.mean() == pytest.approx(0.2)
  other_N = np.isnan(influence_N)
  assert along_N[other_N & kept_N].mean() > 1.2  # of the best fifth: 1.4
  assert float(found.history[0]["spearman"]) > 0.8


def test_the_scale_of_the_influence_does_not_matter():
  _, influence_N = planted()
  one, two = (
    weigh(pool([x])).log_w_N for x in (influence_N, 1e6 * influence_N - 3)
  )
  assert np.mean(one == two) > 0.99


def test_much_noise_draws_all_documents_alike():
  along_N, influence_N = planted()
  kept_N = weigh(pool([influence_N]), temperature=1e6).log_w_N > -1
  assert abs(along_N[kept_N].mean()) < 0.25


def test_the_order_of_the_documents_does_not_matter():
  _, influence_N = planted()
  documents = pool([influence_N])
  assert documents.influence_ON is not None
  order = np.random.default_rng(3).permutation(SIZE)
  again = measured.shuffled(documents, order)
  np.testing.assert_array_equal(
    weigh(again).log_w_N, weigh(documents).log_w_N[order]
  )


def test_stages_go_on_with_what_the_last_one_found():
  along_N, influence_N = planted()
  documents = pool([influence_N, -influence_N])
  method = mates.make(documents=100, stages=2, temperature=0.01)
  assert method.look.checkpoints == 2 and method.look.asked == 100
  assert mates.make().curate is None
  facts = world.facts(100.0)._replace(pool=documents)
  assert method.curate is not None
  first, second = (along_N[method.curate(facts, o) > -1].mean() for o in (0, 1))
  assert first > 1 and second < -1
  # Both together say nothing.
  both = along_N[method.init(jax.random.key(0), facts).log_w_N > -1].mean()
  assert abs(both) < 0.3


def test_no_spread_and_too_few_are_refused():
  with pytest.raises(UserError, match="scores of .* are 0.5"):
    weigh(pool(np.full((1, SIZE), 0.5)))
  _, influence_N = planted(asked=4)
  with pytest.raises(UserError, match="at least 10 scored documents, came 4"):
    weigh(pool([influence_N]))


@pytest.mark.parametrize(
  "wrong",
  [dict(share=0.0), dict(documents=5), dict(stages=0), dict(temperature=0.0)],
)
def test_options_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    mates.make(**wrong)
