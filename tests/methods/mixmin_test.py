"""MixMin: known mixtures are recovered; closed forms where models are disjoint."""

from typing import Any

import jax
import numpy as np
import pytest
import scipy.optimize

from cmtree_jax.methods import mixmin
from cmtree_jax.methods.base import Signals
from tests.methods import planted_runs as planted

EXACT: dict[str, Any] = dict(
  form="em", max_steps=20_000, tolerance=1e-12, holdout=0.0
)


def run(method, log_p_RM, *, tokens_M=None, target_M=None, **facts):
  """(state, infos) after one run per domain, each with its log-probabilities."""
  documents = log_p_RM.shape[1]
  state = method.init(
    jax.random.key(0),
    planted.facts(
      document_tokens_M=np.ones(documents) if tokens_M is None else tokens_M,
      document_target_M=np.zeros(documents, int)
      if target_M is None
      else target_M,
      **facts,
    ),
  )
  infos = []
  for log_p_M in log_p_RM:
    state, info = method.step(
      state, Signals(target_loss_T=np.ones(2), document_nats_M=-log_p_M)
    )
    infos.append(info)
  return state, infos


# Four models of six documents, linearly independent.
MODEL_RV = np.array(
  [
    [0.50, 0.25, 0.10, 0.05, 0.05, 0.05],
    [0.05, 0.05, 0.10, 0.20, 0.20, 0.40],
    [0.10, 0.40, 0.30, 0.10, 0.05, 0.05],
    [0.05, 0.05, 0.05, 0.05, 0.50, 0.30],
  ]
)
LAMBDA = np.array([0.4, 0.1, 0.3, 0.2])


def synthetic(length=1):
  """Documents of `length` tokens, each as often as lambda's mixture says."""
  # A document that is all one word; its probability is that of one word, so that
  # the mixture of documents is known exactly whatever the length.
  count_V = np.round(2000 * LAMBDA @ MODEL_RV).astype(int)
  np.testing.assert_allclose(count_V, 2000 * LAMBDA @ MODEL_RV)
  document_M = np.repeat(np.arange(6), count_V)
  return np.log(MODEL_RV)[:, document_M], np.full(len(document_M), length)


def test_the_mixture_that_wrote_the_target_is_recovered():
  log_p_RM, tokens_M = synthetic()
  method = mixmin.make(**EXACT)
  state, _ = run(method, log_p_RM, tokens_M=tokens_M)
  p_K = planted.recipe(method, state)
  np.testing.assert_allclose(p_K[:4], LAMBDA, atol=1e-4)
  assert p_K[planted.EMPTY] < 1e-6


def test_both_forms_solve_the_same_problem():
  log_p_RM, tokens_M = synthetic()
  paper = mixmin.make(max_steps=600, tolerance=1e-9, holdout=0.0)
  state, _ = run(paper, log_p_RM, tokens_M=tokens_M)
  np.testing.assert_allclose(
    planted.recipe(paper, state)[:4], LAMBDA, atol=1e-3
  )


def test_long_documents_slow_the_papers_form_alone():
  log_p_RM, tokens_M = synthetic(length=500)
  error = {}
  for form in ("paper", "em"):
    method = mixmin.make(form=form, holdout=0.0, tolerance=1e-9)
    state, _ = run(method, log_p_RM, tokens_M=tokens_M)
    error[form] = np.abs(planted.recipe(method, state)[:4] - LAMBDA).max()
  # A hundred steps of 1 / 500: hardly away from equal shares.
  assert error["paper"] > 0.08
  assert error["em"] < 0.03


def test_the_first_step_is_the_papers():
  rng = np.random.default_rng(0)
  log_p_RM = -rng.uniform(20, 30, (4, 30))
  tokens_M = rng.integers(5, 20, 30).astype(float)
  method = mixmin.make(max_steps=1, holdout=0.0)
  state, _ = run(method, log_p_RM, tokens_M=tokens_M)

  def loss(lambda_R):
    log_p_M = np.log(lambda_R @ np.exp(log_p_RM))
    return -np.mean(log_p_M / tokens_M)

  slope_R = scipy.optimize.approx_fprime(np.full(4, 0.25), loss, 1e-7)
  expected_R = np.exp(-slope_R) / np.exp(-slope_R).sum()
  np.testing.assert_allclose(
    planted.recipe(method, state)[:4], expected_R, rtol=1e-4
  )
  # It stops by the gradient: not at the small change of the shares.
  change = np.abs(expected_R - 0.25).max()
  steepest = np.abs(slope_R).max()
  assert change < 0.5 * steepest
  for tolerance, stops in ((1.1 * steepest, True), (0.5 * steepest, False)):
    method = mixmin.make(max_steps=50, holdout=0.0, tolerance=tolerance)
    state, _ = run(method, log_p_RM, tokens_M=tokens_M)
    found_R = planted.recipe(method, state)[:4]
    assert (np.abs(found_R - expected_R).max() < 1e-4) == stops


def disjoint(domain_M):
  """Each document is explained by one model: the others give it e^-4000."""
  log_p_RM = np.full((4, len(domain_M)), -4000.0)
  log_p_RM[domain_M, np.arange(len(domain_M))] = -1000.0
  return log_p_RM


def test_every_target_counts_the_same_and_so_does_every_document_of_it():
  # Target 0: 30 documents of domain 0, 10 of 1. Target 1: 4 of domain 3.
  domain_M = np.repeat([0, 1, 3], [30, 10, 4])
  target_M = np.repeat([0, 1], [40, 4])
  method = mixmin.make(**EXACT)
  state, _ = run(method, disjoint(domain_M), target_M=target_M)
  # -sum_k w_k log lambda_k is least at w.
  np.testing.assert_allclose(
    planted.recipe(method, state), [0.375, 0.125, 0, 0.5, 0], atol=1e-5
  )


def test_a_document_counts_by_one_over_its_length():
  domain_M, tokens_M = np.array([0, 1, 3]), np.array([100.0, 200.0, 400.0])
  method = mixmin.make(**EXACT)
  state, _ = run(method, disjoint(domain_M), tokens_M=tokens_M)
  np.testing.assert_allclose(
    planted.recipe(method, state)[[0, 1, 3]],
    np.array([4, 2, 1]) / 7,
    atol=1e-5,
  )


@pytest.mark.parametrize("form", ["paper", "em"])
def test_the_cap_is_obeyed_and_the_rest_is_optimal(form):
  # w = (.5, .25, .25) on domains 0, 1, 3 of mass .1, .4, .3; the cap is 2 q.
  domain_M = np.repeat([0, 1, 3], [20, 10, 10])
  method = mixmin.make(form=form, max_steps=500, tolerance=1e-12, holdout=0.0)
  state, _ = run(method, disjoint(domain_M), max_weight=2.0)
  np.testing.assert_allclose(
    planted.recipe(method, state)[[0, 1, 3]], [0.2, 0.4, 0.4], atol=1e-3
  )


def test_within_the_caps_the_best_mixture_is_found():
  # Models overlap: what is taken from one goes to those like it, not to all.
  log_p_RM, tokens_M = synthetic()
  truth_V = LAMBDA @ MODEL_RV
  best = scipy.optimize.minimize(
    lambda p: -truth_V @ np.log(p @ MODEL_RV),
    planted.Q[:4],
    method="SLSQP",
    bounds=[(0, 2 * q) for q in planted.Q[:4]],
    constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
    options={"ftol": 1e-14},
  )
  method = mixmin.make(**EXACT)
  state, _ = run(method, log_p_RM, tokens_M=tokens_M, max_weight=2.0)
  np.testing.assert_allclose(
    planted.recipe(method, state)[:4], best.x, atol=1e-3
  )


def test_planted_domains_come_in_order():
  # Proxies of domain and duplicate predict the target alike and best, noise worst.
  rng = np.random.default_rng(0)
  nats_M = rng.uniform(300, 400, 60)
  log_p_RM = -nats_M * np.array([1.0, 1.5, 1.0, 1.2])[:, None]
  method = mixmin.make()
  state, _ = run(method, log_p_RM, tokens_M=np.full(60, 100.0))
  p_K = planted.recipe(method, state)
  # By symmetry the two share alike.
  np.testing.assert_allclose(p_K[planted.TARGET], p_K[planted.COPY], rtol=1e-4)
  assert p_K[planted.COPY] > 4 * p_K[planted.NEUTRAL]
  # The likelihoods of whole documents leave neither noise nor neutral anything
  # to explain, so the theory does not tell these two apart.
  np.testing.assert_allclose(
    p_K[planted.NOISE], p_K[planted.NEUTRAL], rtol=1e-3
  )


def test_the_held_out_loss_is_that_of_the_mixture_of_proxies():
  log_p_RM, tokens_M = synthetic()
  method = mixmin.make(form="em", max_steps=2000, tolerance=1e-10)
  state, infos = run(method, log_p_RM, tokens_M=tokens_M)
  assert np.isnan([info.heldout_loss for info in infos[:3]]).all()
  truth_V = LAMBDA @ MODEL_RV
  entropy = -truth_V @ np.log(truth_V)
  # A fifth of 2000 documents: the sampling error of their mean.
  assert abs(infos[-1].heldout_loss - entropy) < 0.1
  assert (state.weight_M > 0).sum() == 1600
  assert not ((state.weight_M > 0) & (state.heldout_M > 0)).any()


def test_one_run_per_domain_with_text_and_legal_after_any():
  log_p_RM, tokens_M = synthetic()
  method = mixmin.make(**EXACT)
  start, _ = run(method, log_p_RM[:0], tokens_M=tokens_M)
  asked_RK = method.ask(start).mixture_RK
  np.testing.assert_array_equal(asked_RK, np.eye(4, 5))
  np.testing.assert_allclose(
    planted.recipe(method, start), planted.Q, rtol=1e-5
  )
  # After two runs their domains divide what the two have in the corpus; the
  # others keep their shares.
  two, _ = run(method, log_p_RM[:2], tokens_M=tokens_M)
  p_K = planted.recipe(method, two)
  np.testing.assert_allclose(p_K[2:], planted.Q[2:], rtol=1e-4)
  assert p_K[0] > p_K[1] > 0  # though domain 1 is four times as large
  assert len(method.ask(two).mixture_RK) == 2
  done, _ = run(method, log_p_RM, tokens_M=tokens_M)
  assert len(method.ask(done).mixture_RK) == 0


def test_held_out_documents_are_drawn_from_each_target():
  target_M = np.repeat([0, 1], [50, 2])
  method = mixmin.make()
  state, _ = run(method, np.zeros((0, 52)), target_M=target_M)
  held_T = np.bincount(target_M, state.heldout_M > 0)
  np.testing.assert_array_equal(held_T, [10, 0])
  np.testing.assert_allclose(np.bincount(target_M, state.weight_M), [0.5, 0.5])


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(step_size=0.0), "above 0"),
    (dict(max_steps=0), "at least 1"),
    (dict(holdout=1.0), "below 1"),
    (dict(form="newton"), "Known: em, paper"),
  ],
)
def test_nonsense_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    mixmin.make(**options)


def test_facts_without_documents_are_refused():
  with pytest.raises(ValueError, match="document_nats_M"):
    mixmin.make().init(jax.random.key(0), planted.facts())
