"""What is declared is computed, once, for every proxy, and charged; nothing else."""

import logging

import jax
import numpy as np
import pytest

from cmtree_jax import sharding
from cmtree_jax.methods.base import Signals
from cmtree_jax.proxy.ledger import GRADIENT, Cost
from cmtree_jax.signals import (
  SIGNALS,
  gradients,
  look,
  measure,
  observe,
  read_reference,
)
from cmtree_jax.signals.base import token_weights
from experiments import hlo
from tests import toy
from tests.toy import FLOPS, K, T

P = 2
VIEW = toy.corpus().view
SHAPES = {
  "loss_K": (K,),
  "excess_K": (K,),
  "tokens_K": (K,),
  "head_gram_KK": (K, K),
  "gram_KK": (K, K),
  "target_dot_K": (K,),
  "target_dot_TK": (1, K),
  "domain_norm_K": (K,),
  "target_norm_T": (1,),
  "target_nats_T": (1,),
  "head_dot_K": (K,),
  "late_hidden_KRH": (K, 2, toy.CONFIG.width),
  "target_late_hidden_TH": (1, toy.CONFIG.width),
  "target_loss_T": (1,),
  "document_nats_M": (len(toy.corpus().facts.document_tokens_M),),
}


@pytest.fixture(scope="module")
def params():
  """Of two proxies, and of two reference models."""
  keys = jax.random.split(jax.random.key(0), 2 * P)
  init = toy.engine().init
  return init(keys[:P]).params, init(keys[P:]).params


def looked(params, *wanted, number=0):
  mine, reference = params
  return look(
    VIEW,
    toy.engine(),
    mine,
    frozenset(wanted),
    number=number,
    reference=reference,
    flops_per_token=FLOPS,
  )


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_answers_for_every_proxy_and_a_look_for_the_first(
  params, name
):
  seen = observe(VIEW, toy.engine(), params[0], reference=params[1])
  found, _ = measure(seen, frozenset({name}), FLOPS)
  assert set(found) == {name}  # also where another is computed with it
  assert found[name].shape == (P, *SHAPES[name])
  if name != "tokens_K":  # which is of the rows alone
    assert (found[name][0] != found[name][1]).any()
  signals = looked(params, name).signals
  shown = {k: v for k, v in signals._asdict().items() if v is not None}
  assert set(shown) == {name}
  assert shown[name].dtype == np.float32
  np.testing.assert_array_equal(shown[name], found[name][0].astype(np.float32))


def test_what_no_method_reads_costs_nothing(params):
  found = looked(params, "domain_B", "mass_B")
  assert found.signals == Signals()
  assert found.cost == Cost()


def test_a_shared_computation_is_done_and_charged_once(params, monkeypatch):
  count = 0
  products = SIGNALS["gram_KK"]

  def compute(seen):
    nonlocal count
    count += 1
    return products.compute(seen)

  for name in ("gram_KK", "target_dot_K"):
    monkeypatch.setitem(SIGNALS, name, products._replace(compute=compute))
  found = looked(params, "gram_KK", "target_dot_K")
  assert count == 1
  rows = K * VIEW.rows + VIEW.target_rows
  tokens = rows * T
  flops = (tokens * GRADIENT + K * (K + 1)) * FLOPS
  assert found.cost == Cost(tokens, flops)


def test_the_fresh_rows_are_those_of_the_observation(params):
  batches = [looked(params, number=number).batch for number in (0, 1, 0)]
  np.testing.assert_array_equal(batches[0].tokens_BT, batches[2].tokens_BT)
  assert (batches[0].tokens_BT != batches[1].tokens_BT).any()


def test_another_look_compiles_nothing(params, caplog):
  wanted = [name for name in SIGNALS]
  looked(params, *wanted)
  with jax.log_compiles(True), caplog.at_level(logging.WARNING):
    looked(params, *wanted, number=1)
  assert "Compiling" not in caplog.text


@pytest.mark.parametrize(
  "name", ["head_gram_KK", "gram_KK", "target_dot_TK", "head_dot_K"]
)
def test_the_ledger_counts_the_products_of_the_compiled_program(
  name, monkeypatch
):
  wide = toy.engine(width=16)
  config = wide.proxy.config
  params = wide.init(jax.random.split(jax.random.key(0), 1)).params
  seen = observe(VIEW, wide, params)
  _, told = measure(seen, frozenset({name}), config.flops_per_token(T))
  monkeypatch.setattr(sharding, "put", lambda tree, mesh, spec: tree)
  programs = gradients.compiled(wide)
  domains = seen.batch, token_weights(seen.batch)
  assert VIEW.targets is not None
  rows = VIEW.targets.rows(1, VIEW.target_rows)
  targets = rows, token_weights(rows)
  called, args = {
    "head_gram_KK": (programs.head_gram, (params, domains)),
    "gram_KK": (programs.products, (params, domains, targets)),
    "target_dot_TK": (programs.target_products, (params, domains, targets)),
    "head_dot_K": (
      programs.head_dot,
      (params, domains, targets, np.ones(1, np.float32)),
    ),
  }[name]
  lowered = jax.jit(called).lower(*args)
  compiled = lowered.compile()
  counted = hlo.count(compiled).flops
  # Products of gradients are charged as a token's forward pass, attention included.
  assert counted == pytest.approx(told.flops, rel=0.05)


def test_only_excess_losses_want_a_reference_model():
  for name in SIGNALS:
    assert read_reference(frozenset({name, "mass_B"})) == (name == "excess_K")
