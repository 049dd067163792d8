"""Models measure every document at their checkpoints, and a method weighs them."""

import jax
import numpy as np
import pytest

from cmtree_jax.data.draw import packing
from cmtree_jax.loops import fleet, look
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods import scoring
from cmtree_jax.methods.base import MEASURED, Look, Signals, Sketch
from cmtree_jax.proxy import loss as proxy_loss
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT
from cmtree_jax.signals import documents, single
from tests import toy
from tests.toy import FLOPS, ROWS, T

PLAN = look.Plan(documents=12, steps=8, steps_per_call=2)
WIDE = 16  # of the teacher
OF_GRADIENTS = {"gradient_norm_ON", "sketch_ONP", "influence_ON"}
FORWARD_ONLY = (MEASURED & documents.MEASURES.keys()) - OF_GRADIENTS


def watching(seen, *features, curate=None, **asked):
  """Keeps what it is shown in the list `seen`."""

  def weigh(key, facts):
    del key
    seen.append(facts)
    kept_N = np.arange(len(facts.pool.key_N)) < 5
    return scoring.chosen(kept_N, facts.pool, max_weight=100.0)

  return scoring.method(
    weigh, features=frozenset(features), look=Look(**asked), curate=curate
  )


def run(method, folder, stop=None, plan=PLAN):
  """The outcome of a look at the toy corpus."""
  world, facts = toy.corpus()
  with toy.session(folder, stop) as session:
    return look.run(
      method,
      facts,
      world,
      plan,
      session,
      models={
        "proxy": lambda: world.model,
        "target": lambda: world.model,
        "teacher": lambda: fleet.Model(toy.engine(WIDE), 3 * FLOPS),
      },
      parts=(world.pool.tokens, toy.corpus().goal.tokens),
    )


def looked(folder, *features, **asked):
  """The facts that a method was shown, with memory of their own, and the outcome."""
  seen = []
  found = run(watching(seen, *features, **asked), folder)
  return seen[-1], found


def trained(steps, *, seed=0, weight_N=None, calls=2):
  """A proxy as the loop trains it."""
  world = toy.corpus().world
  if weight_N is None:
    weight_N = np.ones(len(world.domain_N))
  key = jax.random.fold_in(jax.random.key(0), 1 + seed)
  one = fleet.start(world, key[None])
  for _ in range(steps // calls):
    one, batch = fleet.take(one, world, weight_N, calls * ROWS)
    one, _ = fleet.train(one, world, fleet.by_member([batch], ROWS))
  return one


def outputs(one, tokens, document):
  """(log-probabilities, labels, hidden states) of one document's tokens."""
  engine = toy.corpus().world.model.engine
  pieces = packing.pieces(tokens, T)
  order = np.flatnonzero(pieces.document == document)
  found = []
  for piece in order:  # one by one: attention stays within a piece
    rows = packing.pack_whole(tokens, pieces, np.array([piece]))
    params = jax.tree.map(lambda x: x[0], one.phi.params)
    hidden, logits = proxy_loss.hidden_and_logits(engine.proxy)(params, rows)
    real = rows.document_BT >= 0
    found.append(
      (jax.nn.log_softmax(logits)[real], rows.label_BT[real], hidden[real])
    )
  return [np.concatenate(x) for x in zip(*found, strict=True)]


def test_documents_are_measured_by_a_proxy_that_knows_the_pool(tmp_path):
  facts, found = looked(tmp_path, *FORWARD_ONLY)
  world = toy.corpus().world
  one = trained(PLAN.steps)
  # A fresh proxy would pay log V for every token.
  assert facts.pool.loss_ON.mean() < np.log(toy.V) - 0.05
  for part, tokens in (
    (facts.pool, world.pool.tokens),
    (facts.train[0], toy.corpus().goal.tokens),
  ):
    for document in (0, 3, len(part.key_N) - 1):
      log_p, label, hidden = outputs(one, tokens, document)
      p, size = np.exp(log_p), len(label)
      own = np.eye(toy.V)[label] == 1
      expected = dict(
        loss_ON=-log_p[np.arange(size), label],
        entropy_ON=-np.sum(p * log_p, axis=1),
        confidence_ON=p.max(axis=1),
        error_ON=np.linalg.norm(p - own, axis=1),
        margin_ON=(p - 2 * own).max(axis=1) - p[own],
        correct_ON=p.argmax(axis=1) == label,
        hidden_ONH=hidden,
      )
      for name, of_tokens in expected.items():
        np.testing.assert_allclose(
          getattr(part, name)[0, document],
          of_tokens.mean(axis=0),
          rtol=2e-5,
          atol=1e-6,
          err_msg=name,
        )
      late = np.average(hidden, axis=0, weights=1 + np.arange(size))
      np.testing.assert_allclose(
        part.late_hidden_ONH[0, document], late, rtol=1e-4, atol=1e-5
      )
  told = toy.told(tmp_path, part="proxy.0")
  assert [*told] == [
    *range(PLAN.steps_per_call, PLAN.steps + 1, PLAN.steps_per_call)
  ]
  assert all(0 < values["loss"] < 10 for values in told.values())
  # Trained on natural rows, then two passes over pool and target.
  scored = sum(_rows(x.tokens) for x in (world.pool, toy.corpus().goal))
  rows = PLAN.steps * ROWS * GRADIENT + 2 * scored * FORWARD
  assert found.cost.flops == pytest.approx(rows * T * FLOPS)
  w_N = np.exp(found.weights.log_w(Signals(index_B=np.arange(24))))
  assert (w_N[:5] > 1).all()
  assert (w_N[5:] < 1e-5).all()


def _rows(tokens: packing.TokenStore) -> int:
  """Rows of documents none of which is cut: one after the other, if it fits."""
  rows, left = 0, 0
  for pairs in tokens.pairs_N.tolist():
    for size in [T] * (pairs // T) + [pairs % T] * (pairs % T > 0):
      if size > left:
        rows, left = rows + 1, T
      left -= size
  return rows


def losses(one):
  """Of the pool's first document."""
  log_p, label, _ = outputs(one, toy.corpus().world.pool.tokens, 0)
  return -log_p[np.arange(len(label)), label].mean()


def test_observations_are_of_all_seeds_and_checkpoints(tmp_path):
  facts, _ = looked(tmp_path, "loss_ON", seeds=2, checkpoints=2)
  expected = [
    losses(trained(steps, seed=seed)) for seed in (0, 1) for steps in (4, 8)
  ]
  np.testing.assert_allclose(facts.pool.loss_ON[:, 0], expected, rtol=1e-5)


def test_a_training_can_begin_afresh_on_what_was_curated(tmp_path):
  told = []

  def curate(facts, number):
    told.append((number, np.isnan(facts.pool.loss_ON[:, 0]).tolist()))
    log_w_N = np.zeros(len(facts.pool.key_N))
    log_w_N[8:] = -30  # the first domain alone
    return log_w_N

  facts, _ = looked(
    tmp_path, "loss_ON", checkpoints=2, afresh=True, curate=curate
  )
  assert told == [(0, [False, True])]
  first = np.where(np.arange(len(facts.pool.key_N)) < 8, 1.0, np.exp(-30))
  expected = [losses(trained(4)), losses(trained(4, weight_N=first))]
  np.testing.assert_allclose(facts.pool.loss_ON[:, 0], expected, rtol=1e-4)


def test_the_models_differ_as_they_should(tmp_path):
  facts, found = looked(
    tmp_path, "loss_ON", models=("proxy", "teacher", "target")
  )
  proxy, teacher, target = facts.train[0].loss_ON.mean(axis=1)
  assert len({proxy, teacher, target}) == 3
  assert target < proxy
  assert proxy < facts.pool.loss_ON[2, 8:].mean()
  scored = sum(
    _rows(x.tokens) for x in (toy.corpus().world.pool, toy.corpus().goal)
  )
  one = PLAN.steps * ROWS * GRADIENT + scored * FORWARD
  assert found.cost.flops == pytest.approx((1 + 1 + 3) * one * T * FLOPS)


@pytest.mark.slow
def test_a_look_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
  asked = dict(models=("proxy", "teacher"), seeds=2, checkpoints=2)
  whole, outcome = looked(tmp_path / "whole", "loss_ON", **asked)
  seen, stops, stop = [], 0, StopFlag()
  method = watching(seen, "loss_ON", **asked)
  again = None
  while again is None:
    stop.raised = True  # after every save
    try:
      again = run(method, tmp_path / "parts", stop)
    except Interrupted:
      stops += 1
  # For each training the calls, and groups of documents at every checkpoint.
  assert stops == 4 * (4 + 2 * (2 + 1))
  for one, two in (
    (seen[0].pool, whole.pool),
    (seen[0].train[0], whole.train[0]),
  ):
    np.testing.assert_array_equal(one.loss_ON, two.loss_ON)
    assert np.isfinite(one.loss_ON).all()
  assert again.cost == outcome.cost


def test_gradients_are_of_the_checkpoints(tmp_path):
  asked = dict(checkpoints=2, sketch=Sketch(64, "adam"), asked=7, longest=20)
  facts, found = looked(tmp_path, *OF_GRADIENTS, **asked)
  world, goal = toy.corpus().world, toy.corpus().goal
  key = jax.random.key(0)
  for at, steps in enumerate((4, 8)):
    one = trained(steps)
    for part, tokens, form in (
      (facts.pool, world.pool.tokens, "adam"),
      (facts.train[0], goal.tokens, "sgd"),
    ):
      of = single.Source(
        world.model.engine, one.phi, tokens, T, ROWS, FLOPS, longest=20
      )
      every = np.arange(len(part.key_N))
      norm_B, _ = single.norms(of, every)
      sketch_BP, _ = single.sketched(of, every, form=form, size=64, key=key)
      np.testing.assert_allclose(part.gradient_norm_ON[at], norm_B, rtol=1e-5)
      np.testing.assert_allclose(
        part.sketch_ONP[at], sketch_BP, rtol=1e-3, atol=1e-4
      )
  assert np.isnan(facts.train[0].influence_ON).all()
  asked_ON = ~np.isnan(facts.pool.influence_ON)
  np.testing.assert_array_equal(asked_ON.sum(axis=1), 7)
  assert (asked_ON[0] != asked_ON[1]).any()
  # A step on a document that is like the target's helps more than one on another.
  gain = [
    np.nanmean(facts.pool.influence_ON[:, world.domain_N == k]) for k in (0, 1)
  ]
  assert gain[0] > gain[1]
  assert found.cost.flops > 0


def test_rates_are_means_over_the_steps_before_an_observation():
  plan = look.Plan(steps=8, steps_per_call=2)
  found = look.rates(plan, Look(checkpoints=2, seeds=2), lambda step: step)
  np.testing.assert_allclose(found, [1.5, 5.5, 1.5, 5.5])
  found = look.rates(plan, Look(checkpoints=2, afresh=True), lambda step: step)
  np.testing.assert_allclose(found, [1.5, 1.5])


def test_a_model_of_no_steps_is_refused():
  with pytest.raises(ValueError, match="multiple of steps_per_call"):
    look.Plan(steps=30, steps_per_call=25).check()


def test_more_checkpoints_than_calls_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"have 4 ends, came 5 checkpoints"):
    looked(tmp_path, "loss_ON", checkpoints=5)


def test_a_model_of_the_targets_wants_some(tmp_path):
  method = watching([], "loss_ON", models=("target",))
  world, facts = toy.corpus()
  with (
    toy.session(tmp_path) as session,
    pytest.raises(ValueError, match="wants a target, came none"),
  ):
    look.run(
      method,
      facts._replace(train=()),
      world._replace(targets=None),
      PLAN,
      session,
      models={},
      parts=(world.pool.tokens,),
    )


def test_a_model_of_the_targets_has_to_turn_to_them(tmp_path):
  plan = PLAN._replace(steps_per_call=8)  # one call, so no middle
  with pytest.raises(ValueError, match="even number of calls"):
    run(watching([], "loss_ON", models=("target",)), tmp_path, plan=plan)
