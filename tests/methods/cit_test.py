"""CiT: the authors' curation, and rounds of it."""

import json
import pathlib

import numpy as np
import pytest

from cmtree_jax.methods import cit
from tests.methods import measured

CASES = pathlib.Path(__file__).parent / "cases"
GIVEN = np.load(CASES / "cit_curation_io.npz")
EXPECTED = json.loads((CASES / "cit_curation_selected.json").read_text())
RNG = np.random.default_rng(0)
N, H = 60, 8


@pytest.mark.parametrize("name", EXPECTED)
def test_the_authors_code_keeps_the_same_captions(name):
  """facebookresearch/CiT at 5caecad, batch after batch until it has enough."""
  given = EXPECTED[name]["args"]
  batch = GIVEN["stream_text_emb"].shape[1]
  # It rounds the least number of a batch down.
  least = int(given.get("min_ratio", 0) * batch) / batch
  target = measured.documents(hidden_ONH=GIVEN["label_emb"][None])
  kept: list[int] = []
  for number, text_BH in enumerate(GIVEN["stream_text_emb"]):
    facts = measured.known(
      measured.documents(length=10, hidden_ONH=text_BH[None]), target
    )
    kept_B = cit.curated(
      facts, 0, threshold=given["thres"], least=least, whitened=False
    )
    kept += (number * batch + np.flatnonzero(kept_B)).tolist()
    if len(kept) >= given["curate"] * given["batch_size"]:
      break
  assert kept == EXPECTED[name]["selected_ids_in_order"]


def world(observations=3):
  """Documents around three directions; two targets are around one each."""
  at = np.eye(H)[:3]
  kind_N = np.arange(N) % 3

  def near(kind):
    shape = observations, len(kind), H
    return at[kind] + RNG.normal(0, 0.15, shape)

  pool = measured.documents(hidden_ONH=near(kind_N))
  targets = [
    measured.documents(seed=t, hidden_ONH=near(np.full(5, t))) for t in range(2)
  ]
  return measured.known(pool, *targets), kind_N


FACTS, KIND_N = world()


def plain(**options):
  """Without whitening: directions are those that were made up."""
  return cit.make(whitened=False, **options)


def test_documents_near_some_target_are_kept():
  kept = measured.kept(plain(), FACTS)
  assert kept == np.flatnonzero(KIND_N < 2).tolist()


def turned(facts, move_H, by_HH):
  """Of hidden states that are moved and turned."""

  def of(one):
    return one._replace(hidden_ONH=np.float32(one.hidden_ONH @ by_HH + move_H))

  return facts._replace(pool=of(facts.pool), train=tuple(map(of, facts.train)))


def test_what_hidden_states_have_in_common_is_taken_away():
  """No map of all states changes what is kept, once they are whitened."""
  far = turned(FACTS, 20 * np.eye(H)[7], np.eye(H))
  assert len(measured.kept(plain(), far)) == N
  wide = turned(FACTS, 20 * np.eye(H)[7], RNG.normal(size=(H, H)) + np.eye(H))
  kept_N, far_N, wide_N = (
    cit.curated(one, 0, threshold=0.55, least=0.0, whitened=True)
    for one in (FACTS, far, wide)
  )
  assert 5 < kept_N.sum() < N - 5
  np.testing.assert_array_equal(far_N, kept_N)
  # The ridge knows the scale; it decides on the edge alone.
  assert (wide_N != kept_N).sum() <= 2


def test_whitened_states_vary_alike_in_all_directions():
  x_NH = FACTS.pool.hidden_ONH[0] @ np.diag([9.0, 1, 1, 1, 1, 1, 1, 0.5])
  center_H, turn_HH = cit.whitening(x_NH)
  y_NH = (x_NH - center_H) @ turn_HH
  np.testing.assert_allclose(y_NH.T @ y_NH / N, np.eye(H), atol=0.5)
  assert np.isfinite(cit.whitening(np.ones((3, H)))[1]).all()


def test_too_few_are_filled_up_for_each_target():
  method = plain(threshold=1.0, least=0.1, rounds=1)
  q_N = FACTS.pool.tokens_N / FACTS.pool.tokens_N.sum()
  kept = measured.kept(method, FACTS)
  for kind in (0, 1):
    held = q_N[[i for i in kept if KIND_N[i] == kind]].sum()
    assert 0.1 <= held < 0.1 + q_N.max()
  # The nearest, not any.
  goal_MH, x_NH = FACTS.train[0].hidden_ONH[0], FACTS.pool.hidden_ONH[0]
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
  cosine_N = (unit(x_NH) @ unit(goal_MH).T).max(axis=1)
  own = np.array([i for i in kept if KIND_N[i] == 0])
  assert cosine_N[own].min() > np.delete(cosine_N, own).max()


def test_a_lower_threshold_keeps_more():
  size = [
    cit.curated(FACTS, 0, threshold=x, least=0.0, whitened=False).sum()
    for x in (-1.0, 0.3, 0.6, 0.9, 1.0)
  ]
  assert size[0] == N and size[-1] == 0
  assert size == sorted(size, reverse=True) and len(set(size)) > 3


def test_training_goes_on_with_what_the_last_model_chose():
  method = plain(rounds=3, threshold=0.93)
  assert method.curate is not None and method.look.checkpoints == 3
  for observation in range(2):
    w_N = np.exp(method.curate(FACTS, observation))
    kept_N = cit.curated(
      FACTS, observation, threshold=0.93, least=0.01, whitened=False
    )
    assert 0 < kept_N.sum() < N
    np.testing.assert_array_equal(w_N > w_N.max() / 2, kept_N)
    assert w_N[~kept_N].max() < 1e-4 * w_N.max()
  one, two = (method.curate(FACTS, o) for o in range(2))
  assert (one != two).any()


def test_a_document_weighs_its_mean_over_the_rounds():
  method = plain(rounds=3, threshold=0.93)
  w_N = measured.w_of(method, FACTS)
  q_N = FACTS.pool.tokens_N / FACTS.pool.tokens_N.sum()
  expected_N = np.zeros(N)
  for observation in range(3):
    kept_N = cit.curated(
      FACTS, observation, threshold=0.93, least=0.01, whitened=False
    )
    expected_N += kept_N / q_N[kept_N].sum() / 3
  np.testing.assert_allclose(w_N, expected_N, atol=1e-4)
  told = method.history(measured.found(method, FACTS))
  assert [row["round"] for row in told] == [0, 1, 2]
  # No document more often than it may be repeated.
  capped = FACTS._replace(max_weight=1.2)
  assert measured.w_of(method, capped).max() <= 1.2 * (1 + 1e-6)


def test_order_and_chunks_change_nothing(monkeypatch):
  method = cit.make()
  measured.assert_order_is_nothing(method, FACTS)
  whole_N = measured.w_of(method, FACTS)
  monkeypatch.setattr(cit.scoring, "CHUNK", 16)
  np.testing.assert_allclose(measured.w_of(method, FACTS), whole_N, rtol=1e-6)


def test_nothing_near_and_no_least_share_is_the_natural_mixture():
  w_N = measured.w_of(plain(threshold=1.0, least=0.0), FACTS)
  np.testing.assert_allclose(w_N, 1.0)


@pytest.mark.parametrize(
  "options", [{"threshold": 1.5}, {"least": -0.1}, {"rounds": 0}]
)
def test_options_out_of_range_are_refused(options):
  with pytest.raises(ValueError, match="must be"):
    cit.make(**options)
