"""SVP: the authors' choices, and rounds of them."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import forgetting, svp
from cmtree_jax.proxy import engine
from tests.methods import measured

CASES = pathlib.Path(__file__).parent / "cases"
CASE = np.load(CASES / "svp_uncertainty.npz")
RNG = np.random.default_rng(0)
N, H, ROUNDS = 60, 5, 3
BY_DOCUMENT = dict(
  confidence_ON=RNG.uniform(0.1, 0.9, (ROUNDS, N)),
  entropy_ON=RNG.uniform(0.1, 4, (ROUNDS, N)),
  hidden_ONH=RNG.normal(size=(ROUNDS, N, H)),
  correct_ON=RNG.uniform(0, 1, (6, N)),
)
POOL = measured.documents(**BY_DOCUMENT)
FACTS = measured.known(POOL)
Q_N = POOL.tokens_N / POOL.tokens_N.sum()
ACTIVE = ("least_confidence", "entropy", "k_center")


def seen(logits_NV):
  """What the engine makes of predictions, of one token for each document."""
  logits_BTV = jnp.asarray(logits_NV, jnp.float32)[None]
  of_tokens = engine._statistics(
    logits_BTV, jnp.zeros((1, len(logits_NV)), int)
  )
  return dict(
    confidence_ON=of_tokens.confidence_BT,
    entropy_ON=of_tokens.entropy_BT,
    hidden_ONH=logits_BTV,
  )


def in_order(pool, score, current, budget) -> list[int]:
  """Those that are current, then what one round adds to them."""
  # Parts are equal, so what is current takes as many tokens as what is added.
  tokens_N = np.ones(len(pool.key_N))
  tokens_N[current] = budget / len(current)
  part = budget / tokens_N.sum()
  pool = pool._replace(tokens_N=tokens_N)

  def score_of(number, taken_N):
    if not number:
      return np.isin(np.arange(len(taken_N)), current).astype(float)
    return svp.scores(pool, score, 0, taken_N=taken_N, reach=2 * part)

  found = svp.in_rounds(score_of, pool, rounds=2, part=part)
  return np.argsort(found.place_N)[: found.taken_N.sum()].tolist()


@pytest.mark.parametrize(
  ("score", "expected"),
  [
    ("least_confidence", "least_confidence"),
    ("entropy", "entropy"),
    ("k_center", "kcenters_on_logits"),
  ],
)
def test_the_authors_code_adds_the_same_documents(score, expected):
  """selection-via-proxy at 348f90a, `select`."""
  pool = measured.documents(**seen(CASE["logits"]))
  current = CASE["current"]
  found = in_order(pool, score, current, int(CASE["budget"]))
  assert sorted(found[: len(current)]) == sorted(current)
  assert found[len(current) :] == CASE[expected][len(current) :].tolist()


def test_an_entropy_that_underflows_is_zero():
  """In the authors' code it is not a number, and comes first."""
  pool = measured.documents(length=1, **seen(CASE["underflow_logits"]))
  taken_N = np.zeros(4, bool)
  score_N = svp.scores(pool, "entropy", 0, taken_N=taken_N, reach=1.0)
  assert np.isfinite(score_N).all()
  theirs = CASE["underflow_entropy_rank"].tolist()
  assert np.argsort(-score_N).tolist() == [*theirs[1:], theirs[0]]


def test_forgetting_is_that_of_its_own_method():
  one = measured.w_of(svp.make(score="forgetting"), FACTS)
  two = measured.w_of(forgetting.make(), FACTS)
  np.testing.assert_array_equal(one, two)
  assert svp.make(score="forgetting").look == forgetting.make().look


@pytest.mark.parametrize("score", svp.SCORES)
def test_budget_order_and_nesting(score):
  method = svp.make(score=score, share=0.3)
  measured.assert_budget(method, FACTS, 0.3)
  measured.assert_order_is_nothing(method, FACTS)
  if score != "k_center":  # that starts from more, where it chooses more
    more = svp.make(score=score, share=0.6)
    kept = set(measured.kept(method, FACTS))
    assert kept < set(measured.kept(more, FACTS))


def test_a_core_set_is_what_the_last_model_is_least_sure_of():
  kept = measured.kept(svp.make(share=0.3), measured.known(POOL))
  order = np.argsort(POOL.confidence_ON[0])
  assert sorted(kept) == sorted(order[: len(kept)].tolist())


def test_k_center_covers_what_uncertainty_does_not():
  """Of many alike and a few far away, the few are all taken."""
  x_NH = np.concatenate([RNG.normal(0, 0.1, (N - 4, H)), 10 * np.eye(H)[:4]])[
    None
  ]
  facts = measured.known(measured.documents(length=10, hidden_ONH=x_NH))
  kept = measured.kept(svp.make(score="k_center", share=0.15), facts)
  assert len(kept) == 9 and set(range(N - 4, N)) <= set(kept)


@pytest.mark.parametrize("score", ACTIVE)
def test_rounds_add_to_what_is_chosen(score):
  method = svp.make(score=score, form="active", share=0.6, rounds=ROUNDS)
  assert method.look.checkpoints == ROUNDS and method.look.afresh
  assert method.curate is not None
  before = set()
  for observation in range(ROUNDS - 1):
    log_w_N = method.curate(FACTS, observation)
    chosen = set(np.flatnonzero(log_w_N > 0).tolist())
    assert before < chosen
    held = Q_N[list(chosen)].sum()
    assert 0 <= held - 0.2 * (observation + 1) < Q_N.max()
    before = chosen
  assert before < set(measured.kept(method, FACTS))
  measured.assert_budget(method, FACTS, 0.6)
  measured.assert_order_is_nothing(method, FACTS)


@pytest.mark.parametrize("score", ACTIVE)
def test_a_round_knows_nothing_of_later_models(score):
  method = svp.make(score=score, form="active", share=0.6, rounds=ROUNDS)
  assert method.curate is not None
  name = svp.SCORES[score]
  x_ON = getattr(POOL, name).copy()
  x_ON[1:] = np.nan
  pool = POOL._replace(**{name: x_ON})
  np.testing.assert_array_equal(
    method.curate(FACTS._replace(pool=pool), 0), method.curate(FACTS, 0)
  )


def test_every_round_has_an_order_of_its_own():
  """A document keeps its place when a later model thinks otherwise."""
  pool = measured.documents(length=10, hidden_ONH=np.zeros((1, 6, 1)))
  score_RN = np.array([[5, 9, 1, 2, 3, 4], [9, 1, 3, 8, 2, 4]], float)
  found = svp.in_rounds(
    lambda number, taken_N: score_RN[number], pool, rounds=2, part=1 / 3
  )
  assert np.argsort(found.place_N).tolist() == [1, 0, 3, 5, 2, 4]
  assert np.flatnonzero(found.taken_N).tolist() == [0, 1, 3, 5]


def test_one_round_is_the_core_set():
  for score in ACTIVE:
    one = svp.make(score=score, form="active", rounds=1, share=0.3)
    np.testing.assert_array_equal(
      measured.w_of(one, FACTS),
      measured.w_of(svp.make(score=score, share=0.3), FACTS),
    )


@pytest.mark.parametrize("score", svp.SCORES)
def test_the_cap_takes_the_next_of_the_order(score):
  facts = FACTS._replace(max_weight=2.0)
  method = svp.make(score=score, share=0.1)
  found = method.init(jax.random.key(0), facts)
  kept_N = np.exp(found.log_w_N) > 1e-4
  assert np.exp(found.log_w_N).max() <= 2.0 * (1 + 1e-6)
  assert 0.5 <= Q_N[kept_N].sum() < 0.5 + Q_N.max()
  few = measured.kept(method, FACTS)
  if score != "k_center":
    assert kept_N[few].all()


def test_equal_scores_are_told_apart_by_the_ids():
  equal = {name: np.ones_like(x) for name, x in BY_DOCUMENT.items()}
  facts = measured.known(measured.documents(length=10, **equal))
  first = np.sort(np.argsort(facts.pool.key_N)[:18]).tolist()
  for score in svp.SCORES:
    assert measured.kept(svp.make(score=score, share=0.3), facts) == first


@pytest.mark.parametrize(
  "options",
  [
    {"score": "margin"},
    {"form": "passive"},
    {"share": 0.0},
    {"rounds": 0},
    {"checkpoints": 1},
    {"score": "forgetting", "form": "active"},
  ],
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match=r"must be|Unknown"):
    svp.make(**options)


@pytest.mark.parametrize("score", ACTIVE)
def test_what_rounds_trained_on_is_part_of_the_choice(score):
  """Also where the cap wants more in the end than a round has."""
  method = svp.make(score=score, form="active", share=0.5, rounds=ROUNDS)
  assert method.curate is not None
  facts = FACTS._replace(max_weight=4.0)
  kept_N = method.init(jax.random.key(0), facts).log_w_N > -1
  for number in range(ROUNDS - 1):
    taken_N = method.curate(facts, number) > -1
    assert (kept_N | ~taken_N).all()
