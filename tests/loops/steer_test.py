"""One proxy on a mixture that a method steers: what it trains on and shows."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.data.draw.batch import Batch
from cmtree_jax.loops import fleet, steer
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Ask, DomainWeights, Method, Signals
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT
from cmtree_jax.signals import domains as signals
from tests import toy
from tests.toy import FLOPS, ROWS, STEPS, K, T

ONE_HOT = np.eye(K)[[0, 1, 2, 0, 1, 2]]


class Seen(NamedTuple):
  """What a scripted method was shown."""

  number: jax.Array
  shown: dict[str, jax.Array]  # [observations, ...]


def scripted(asks: list[Ask], *wanted: str, **fields) -> Method:
  """A method that asks by heart and keeps what it sees."""
  asked = jax.tree.map(
    lambda *x: jnp.stack(x), *(jax.tree.map(jnp.asarray, a) for a in asks)
  )
  shapes = dict(
    loss_K=(K,),
    excess_K=(K,),
    gram_KK=(K, K),
    head_gram_KK=(K, K),
    target_dot_K=(K,),
    target_dot_TK=(1, K),
    head_dot_K=(K,),
    share_gain_K=(K,),
    late_hidden_KRH=(K, 2, toy.CONFIG.width),
    target_late_hidden_TH=(1, toy.CONFIG.width),
    target_loss_T=(1,),
    tokens_K=(K,),
  )

  def init(key, facts):
    del key, facts
    blank = {n: jnp.zeros((len(asks), *shapes[n])) for n in wanted}
    return Seen(jnp.int32(0), blank)

  def step(state, signals):
    shown = {
      name: kept.at[state.number].set(getattr(signals, name))
      for name, kept in state.shown.items()
    }
    return Seen(state.number + 1, shown), None

  return Method(
    init,
    step,
    finalize=lambda state: DomainWeights(jnp.zeros(K)),
    signals=frozenset(wanted),
    loop="steer",
    ask=lambda state: jax.tree.map(lambda x: x[state.number - 1], asked),
    **fields,
  )


class Spy:
  """An engine that remembers what it trained, from which parameters."""

  def __init__(self):
    self.trained: list[tuple[Batch, np.ndarray, np.ndarray]] = []
    self.engine = toy.engine()._replace(train=self._train)

  def _train(self, phi, batches, weight, which):
    first = np.array(jax.tree.leaves(phi.params)[0])
    self.trained.append((batches, np.asarray(weight), first))
    return toy.engine().train(phi, batches, weight, which)


def run(method, folder, engine=None, stop=None, steps=STEPS):
  corpus = toy.corpus()
  with toy.session(folder, stop) as session:
    return steer.run(
      method,
      corpus.facts._replace(steps=steps),
      corpus.world._replace(model=fleet.Model(engine or toy.engine(), FLOPS)),
      steer.Plan(steps=steps, saves=1),
      session,
    )


def mixtures(found: fleet.Outcome) -> np.ndarray:
  """That were asked for, [observations, K]."""
  rows = found.history
  return np.array([row["mixture"] for row in rows if "mixture" in row])


def domains_of(batches: Batch) -> set[int]:
  document = batches.document_BT
  return set(toy.corpus().world.domain_N[document[document >= 0]].tolist())


def test_it_trains_on_the_mixture_that_is_asked_for(tmp_path):
  spy = Spy()
  asks = [Ask(toy.mixture(*row)) for row in ONE_HOT]
  found = run(scripted(asks), tmp_path, spy.engine)
  assert [domains_of(b) for b, _, _ in spy.trained] == [
    {int(row.argmax())} for row in ONE_HOT
  ]
  np.testing.assert_array_equal(mixtures(found), ONE_HOT)
  tokens = STEPS * ROWS * T
  assert found.cost == (tokens, tokens * GRADIENT * FLOPS)
  told = toy.told(tmp_path)
  assert list(told) == list(range(1, STEPS + 1))
  for values in told.values():
    assert values["effective_domains"] == pytest.approx(1)
    assert values["loss"] > 0


def test_several_steps_between_observations(tmp_path):
  spy = Spy()
  asks = [Ask(toy.mixture(0.5, 0.5, 0, 0))] * 2
  run(scripted(asks, every=3), tmp_path, spy.engine)
  shapes = [b.tokens_BT.shape for b, _, _ in spy.trained]
  assert shapes == [(1, 3, ROWS, T)] * 2
  assert domains_of(spy.trained[0][0]) == {0, 1}


def test_a_share_of_the_rows_comes_from_the_target(tmp_path):
  spy = Spy()
  asks = [Ask(toy.mixture(0, 1, 0, 0), target_share=0.5)] * STEPS
  run(scripted(asks), tmp_path, spy.engine)
  for batches, weight, _ in spy.trained:
    rows = batches.tokens_BT[0, 0]
    pool, target = rows[: ROWS // 2], rows[ROWS // 2 :]
    assert set(pool.ravel().tolist()) <= {0, *range(5, 9)}
    assert set(target.ravel().tolist()) <= {0, *range(1, 5)}
    assert weight.shape == (1, 1, ROWS, T)


def test_a_proxy_goes_back_to_where_it_was_marked(tmp_path):
  spy = Spy()
  p_K = toy.mixture(1, 0, 0, 0)
  asks = [Ask(p_K)] * STEPS
  asks[1], asks[3], asks[5] = (
    Ask(p_K, mark=True),
    Ask(p_K, back=True),
    (Ask(p_K, back=True)),
  )
  run(scripted(asks), tmp_path, spy.engine)
  start = [first for _, _, first in spy.trained]
  for later in (3, 5):
    np.testing.assert_array_equal(start[later], start[1])
  for other in (2, 4):  # the learning rate begins at zero
    assert (start[other] != start[1]).any()


def test_a_proxy_begins_anew_from_other_parameters_and_on_other_rows(tmp_path):
  spy = Spy()
  p_K = toy.mixture(*toy.corpus().facts.domain_mass_K)
  asks = [Ask(p_K)] * STEPS
  asks[2] = asks[4] = Ask(p_K, fresh=True)
  run(scripted(asks), tmp_path, spy.engine)
  start = [first for _, _, first in spy.trained]
  key = jax.random.fold_in(jax.random.key(0), 1)
  for begin, number in ((2, 1), (4, 2)):
    keys = jax.random.fold_in(key, number)[None]
    fresh = jax.tree.leaves(toy.engine().init(keys).params)[0]
    np.testing.assert_array_equal(start[begin], fresh)
    # The learning rate begins at zero again.
    np.testing.assert_array_equal(start[begin + 1], fresh)
  rows = [batches.tokens_BT for batches, _, _ in spy.trained]
  assert (rows[0] != rows[2]).any() and (rows[2] != rows[4]).any()


def test_steps_are_valued_where_that_is_asked_for(tmp_path):
  p_K = toy.mixture(*toy.corpus().facts.domain_mass_K)
  asks = [Ask(p_K, valued=number in (2, 4)) for number in range(STEPS)]
  shown = {}
  method = scripted(asks, "share_gain_K")
  finalize = method.finalize
  run(
    method._replace(
      finalize=lambda state: shown.update(state.shown) or finalize(state)
    ),
    tmp_path,
  )
  told_O = [bool(gain_K.any()) for gain_K in shown["share_gain_K"]]
  assert told_O == [False, False, False, True, False, True]


def test_observed_rows_are_trained_on_with_the_mean_loss_of_each_domain(
  tmp_path,
):
  spy = Spy()
  p_K = np.array([0.2, 0.5, 0.3, 0.0])
  method = scripted(
    [Ask(toy.mixture(*p_K))] * STEPS, "excess_K", train_on_observed=True
  )
  run(method, tmp_path, spy.engine)
  # The reference comes first, on rows of the natural mixture.
  assert len(spy.trained) == 2 * STEPS
  for number, (batches, weight, _) in enumerate(spy.trained[STEPS:]):
    expected = toy.corpus().view.domains.rows(1 + number, 1)
    np.testing.assert_array_equal(
      batches.tokens_BT[0, 0], expected.tokens_BT.reshape(-1, T)
    )
    total_K = weight[0, 0].reshape(K, -1).sum(axis=1)
    np.testing.assert_allclose(total_K, p_K, rtol=1e-6)


def test_what_is_shown_is_what_the_proxy_has(tmp_path):
  names = (
    "loss_K",
    "gram_KK",
    "head_gram_KK",
    "target_dot_K",
    "target_loss_T",
    "tokens_K",
  )
  asks = [Ask(toy.mixture(*toy.corpus().facts.domain_mass_K))] * STEPS
  shown = {}
  method = scripted(asks, *names)
  finalize = method.finalize
  run(
    method._replace(
      finalize=lambda state: shown.update(state.shown) or finalize(state)
    ),
    tmp_path,
  )
  shown = {name: np.asarray(x) for name, x in shown.items()}
  # A fresh proxy knows nothing: every token costs about log V.
  np.testing.assert_allclose(shown["loss_K"][0][:3], np.log(toy.V), rtol=0.3)
  assert (shown["loss_K"][:, 3] == 0).all()  # no documents
  assert (shown["target_loss_T"] > 0).all()
  for gram in ("gram_KK", "head_gram_KK"):
    for gram_KK in shown[gram]:
      np.testing.assert_allclose(gram_KK, gram_KK.T, rtol=1e-5, atol=1e-6)
      assert (np.diag(gram_KK)[:3] > 0).all()
      assert (gram_KK[3] == 0).all()
  # The target is domain 0's text: on the whole their gradients agree best.
  dot_K = shown["target_dot_K"].mean(axis=0)
  assert dot_K[0] > dot_K[1]
  assert dot_K[3] == 0
  assert set(shown["tokens_K"].ravel().tolist()) <= {0, *range(1, T + 1)}


def test_the_excess_over_a_reference_falls_as_the_proxy_learns(tmp_path):
  natural = toy.mixture(*toy.corpus().facts.domain_mass_K)
  shown = {}
  method = scripted([Ask(natural)] * STEPS, "excess_K")
  finalize = method.finalize
  run(
    method._replace(
      finalize=lambda state: shown.update(state.shown) or finalize(state)
    ),
    tmp_path,
  )
  # The reference has all of its steps behind it, the proxy the first before it.
  excess_OK = np.asarray(shown["excess_K"])[:, :3]
  assert (excess_OK >= 0).all()
  assert excess_OK[0].mean() > 0.05
  assert excess_OK[0].mean() > excess_OK[-1].mean()


def test_the_ledger_counts_what_is_looked_at(tmp_path):
  asks = [Ask(toy.mixture(1, 0, 0, 0))] * STEPS
  view = toy.corpus().view
  # The output layer's products, of tokens and of domains, as tokens.
  head = 2 * toy.V * toy.CONFIG.width / FLOPS
  for name, rows, passes, products in (
    ("loss_K", K * 2, FORWARD, 0),
    ("gram_KK", K * 1 + 2, GRADIENT, K * (K + 1)),
    ("target_dot_TK", K * 1 + 2, GRADIENT, K * 1 + K + 1),
    ("head_gram_KK", K * 1, FORWARD, head * (K * T + K * K)),
    ("head_dot_K", K * 1 + 2, FORWARD, head * ((K + 2) * T + K + 1)),
    ("late_hidden_KRH", K * 2, FORWARD, 0),
    ("target_late_hidden_TH", 2, FORWARD, 0),
    ("target_loss_T", signals.eval_rows(view), FORWARD, 0),
    ("excess_K", 2 * K, FORWARD, 0),
  ):
    cost = run(scripted(asks, name), tmp_path / name).cost
    trained = STEPS * ROWS * (2 if name == "excess_K" else 1) * GRADIENT
    looked = STEPS * (rows * passes * T + products)
    expected = (trained * T + looked) * FLOPS
    assert cost.flops == pytest.approx(expected), name


def test_costs_follow_the_published_formulas(tmp_path):
  """Section on cost of Ge et al., `R&B <https://arxiv.org/abs/2505.00358>`_, 2025.

  N parameters are 2 N FLOPs for a token's forward pass and 6 N for training on it;
  D_t and D_e tokens are trained on and evaluated, by m domains in T rounds.
  """
  n, steps, rounds = FLOPS / 2, 12, 4
  view = toy.corpus().view
  trained = 6 * steps * ROWS * T * n  # all tokens, those of graphs included
  evaluated = view.frozen.tokens_BT.shape[1] * T  # D_e of a domain
  observed = view.rows * T  # a domain's batch for gradients
  target = view.target_rows * T
  expected = {
    # 6 (1 + delta) D_t N + 2 (T + m) D_e N: every evaluation is of all domains.
    "skill_it": trained + 2 * rounds * K * evaluated * n,
    # 6 D_t N + 2 T m D_e N
    "aioli": trained + 2 * rounds * K * evaluated * n,
    # 6 (1 + delta) D_t N + 6 T (D_e + m) N, and the products.
    "dga": trained
    + 6 * rounds * (target + K * observed) * n
    + 2 * rounds * K * (K + 1) * n,
    # 6 D_t N + m^2 N, which counts a product as one FLOP, not two, and N for the
    # output layer; and fresh rows of every domain with the outer products of their
    # tokens, for the paper takes its gradients from the training.
    "rnb": trained
    + 2 * rounds * K * observed * n
    + 2 * rounds * (K**2 + K * observed) * toy.V * toy.CONFIG.width,
  }
  for name, flops in expected.items():
    options = {"evaluate": "domains"} if name in ("skill_it", "aioli") else {}
    method = METHODS[name].make(every=steps // rounds, **options)
    cost = run(method, tmp_path / name, steps=steps).cost
    assert cost.flops == pytest.approx(flops), name


# Two short runs of four observations, stopped in each, and a longer one.
@pytest.mark.parametrize(
  ("name", "options"),
  [
    ("doremi", {}),
    ("skill_it", dict(every=1, warmup=1, update=1)),
    ("meta_scheduler", dict(every=1, runs=2, population=1, learn=0.7)),
  ],
)
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
  name, options, tmp_path
):
  method = METHODS[name].make(**options)
  whole = run(method, tmp_path / "whole", steps=12)
  stop = StopFlag()
  moves = 0

  def stop_soon(*args, train):
    nonlocal moves
    moves += 1
    stop.raised = moves % 4 == 0
    return train(*args)

  plain = toy.engine()
  engine = plain._replace(
    train=functools.partial(stop_soon, train=plain.train),
    valued=functools.partial(stop_soon, train=plain.valued),
  )
  stops = 0
  while True:
    try:
      again = run(method, tmp_path / "parts", engine, stop, steps=12)
      break
    except Interrupted:
      stop.raised = False
      stops += 1
  assert stops >= 2
  np.testing.assert_array_equal(mixtures(again), mixtures(whole))
  every = Signals(domain_B=np.arange(K))
  np.testing.assert_array_equal(
    again.weights.log_w(every), whole.weights.log_w(every)
  )
  assert again.cost == whole.cost
  assert again.history == whole.history
  jax.tree.map(np.testing.assert_array_equal, again.kept, whole.kept)
  assert bool(whole.kept) == (name == "meta_scheduler")


@pytest.mark.slow
@pytest.mark.parametrize(
  "name", ["dga", "grape", "head_alignment", "rnb", "skill_it"]
)
def test_devices_that_share_the_work_find_the_same(name, tmp_path):
  options = {"warmup": 1, "update": 1} if name == "skill_it" else {}
  method = METHODS[name].make(every=1, **options)
  alone = run(method, tmp_path / "alone")
  engine = toy.engine(data=2, model=2)
  shared = run(method, tmp_path / "shared", engine)
  np.testing.assert_allclose(mixtures(shared), mixtures(alone), atol=1e-4)
  assert np.ptp(mixtures(alone), axis=0).max() > 1e-3  # it moved


def test_work_is_what_is_trained_on():
  plan = steer.Plan(steps=STEPS)
  assert steer.work(METHODS["dga"].make(), plan, ROWS) == STEPS * ROWS
  assert steer.work(METHODS["doremi"].make(), plan, ROWS) == 2 * STEPS * ROWS
