"""Every document is shown once: in chunks, with losses, or a domain at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.data.draw import packing
from cmtree_jax.loops import fleet, look
from cmtree_jax.loops.checkpoint import Interrupted, StopFlag
from cmtree_jax.methods.base import DomainWeights, Method, Signals
from cmtree_jax.proxy.ledger import FORWARD, GRADIENT
from tests import toy
from tests.toy import FLOPS, ROWS, K, T

PLAN = look.Plan(documents=12, steps=8, steps_per_call=4)


class Seen(NamedTuple):
  """What the method below was shown of the pool, by the document's number."""

  times_N: jax.Array
  loss_N: jax.Array
  mixed: jax.Array  # steps with documents of several domains
  target_mass: jax.Array


def watching(*signals: str, whole_domains: bool = False) -> Method:
  """Keeps what it sees."""

  def init(key, facts):
    del key
    zeros_N = jnp.zeros(facts.num_documents)
    return Seen(zeros_N, zeros_N, jnp.int32(0), jnp.float32(0.0))

  def step(state, signals):
    real_B = signals.mass_B > 0
    first = jnp.min(jnp.where(real_B, signals.domain_B, K))
    last = jnp.max(jnp.where(real_B, signals.domain_B, -1))
    loss_N = state.loss_N
    if signals.loss_B is not None:
      loss_N = loss_N.at[signals.index_B].set(signals.loss_B, mode="drop")
    return Seen(
      state.times_N.at[signals.index_B].add(1.0, mode="drop"),
      loss_N,
      state.mixed + jnp.int32(last > first),
      state.target_mass + jnp.sum(signals.target_mass_B),
    ), None

  reads = {"mass_B", "target_mass_B", "domain_B", "index_B", *signals}
  return Method(
    init,
    step,
    finalize=lambda state: (state, DomainWeights(jnp.zeros(K)))[1],
    signals=frozenset(reads),
    loop="look",
    whole_domains=whole_domains,
  )


def parts(corpus: toy.Corpus) -> list[look.Part]:
  """The pool, and the target's documents as a second part."""

  def part(sampler, domain_N, share):
    tokens: packing.TokenStore = sampler.tokens

    def signals(rows):
      mass_B = tokens.mass_N[rows].astype(np.float32)
      zero_B = np.zeros_like(mass_B)
      pool = share == 0
      return Signals(
        mass_B=mass_B if pool else zero_B,
        target_mass_B=zero_B if pool else mass_B * share,
        domain_B=domain_N[rows].astype(np.int32),
        index_B=rows.astype(np.int32)
        if pool
        else np.full(len(rows), look.NOT_IN_POOL, np.int32),
      )

    return look.Part(tokens, domain_N, signals)

  size = len(corpus.goal.tokens.bytes_N)
  return [
    part(corpus.world.pool, corpus.world.domain_N, 0),
    part(corpus.goal, np.zeros(size, int), 1),
  ]


def run(method, folder, stop=None, advance=None):
  """(outcome, the method's last state)."""
  world, facts = toy.corpus()
  last, finalize = [], method.finalize
  with toy.session(folder, stop) as session:
    found = look.run(
      method._replace(finalize=lambda s: last.append(s) or finalize(s)),
      facts._replace(num_documents=len(world.domain_N)),
      world,
      PLAN,
      session._replace(advance=advance or session.advance),
      parts(toy.corpus()),
    )
  return found, last[-1]


def test_every_document_is_shown_once_and_costs_nothing(tmp_path):
  found, seen = run(watching(), tmp_path)
  assert (seen.times_N == 1).all()
  assert seen.target_mass == pytest.approx(1.0)
  assert found.cost == (0, 0)


def test_a_domain_is_shown_whole_and_alone(tmp_path):
  _, seen = run(watching(whole_domains=True), tmp_path / "whole")
  assert (seen.times_N == 1).all()
  assert seen.mixed == 0
  _, seen = run(watching(), tmp_path / "chunks")
  assert seen.mixed > 0  # so the test could fail


def test_losses_are_those_of_a_proxy_that_knows_the_pool(tmp_path):
  found, seen = run(watching("loss_B"), tmp_path)
  world = toy.corpus().world
  loss_N = np.asarray(seen.loss_N)
  # A fresh proxy would pay log V for every token.
  assert (loss_N > 0).all()
  assert loss_N.mean() < np.log(toy.V) - 0.05
  # Each document's loss, one at a time, by the engine itself.
  model = world.model
  trained = fleet.start(world, jax.random.fold_in(jax.random.key(0), 1)[None])
  for _ in range(2):
    trained, batch = fleet.take(trained, world, np.ones(len(loss_N)), 4 * ROWS)
    trained, _ = fleet.train(trained, world, fleet.by_member([batch], ROWS))
  pieces = packing.pieces(world.pool.tokens, T)
  for document in (0, 9, 20):
    order = np.flatnonzero(pieces.document == document)
    rows = packing.pack(world.pool.tokens, pieces, order, num_rows=ROWS)
    one = jax.tree.map(lambda x: x[None], rows)
    loss = np.asarray(model.engine.losses(trained.phi.params, one))[0, 0]
    expected = loss[rows.document_BT >= 0].mean()
    assert loss_N[document] == pytest.approx(expected, rel=1e-5)
  # Trained on natural rows, then one pass over pool and target.
  scored = sum(_rows(one.tokens) for one in (world.pool, toy.corpus().goal))
  rows = PLAN.steps * ROWS * GRADIENT + scored * FORWARD
  assert found.cost.flops == pytest.approx(rows * T * FLOPS)


def _rows(tokens: packing.TokenStore) -> int:
  """Rows of documents none of which is cut: one after the other, if it fits."""
  rows, left = 0, 0
  for pairs in tokens.pairs_N.tolist():
    for size in [T] * (pairs // T) + [pairs % T] * (pairs % T > 0):
      if size > left:
        rows, left = rows + 1, T
      left -= size
  return rows


@pytest.mark.slow
def test_a_look_that_was_stopped_ends_as_if_it_had_not_been(tmp_path):
  method = watching("loss_B", whole_domains=True)
  whole = run(method, tmp_path / "whole")
  stop = StopFlag()
  stops = 0
  while True:
    stop.raised = True  # after every save
    try:
      again = run(method, tmp_path / "parts", stop)
      break
    except Interrupted:
      stops += 1
  assert stops == 2 + 3 + 1  # the proxy's calls, the domains, the target
  np.testing.assert_array_equal(again[1].loss_N, whole[1].loss_N)
  assert again[0].cost == whole[0].cost


def test_a_proxy_of_no_steps_is_refused():
  with pytest.raises(ValueError, match="multiple of steps_per_call"):
    look.Plan(steps=30, steps_per_call=25).check()
