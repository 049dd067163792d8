"""What every method must obey; what each of them does has a file of its own."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtree_jax.methods import METHODS, base
from cmtree_jax.methods.base import (
  DocumentWeights,
  DomainWeights,
  EqualWeights,
  Signals,
)
from cmtree_jax.methods.cmtree import TreeWeights
from cmtree_jax.methods.searching import Trials
from tests.methods.world import (
  BATCHES,
  MAX_WEIGHT,
  POOL,
  SIGNALS,
  B,
  K,
  assert_equal,
  declared,
  facts,
  make,
  measured_facts,
  observation,
  run_result,
  take,
)


class Run:
  """A method stepped to the end of a small loop, with a count of its traces."""

  def __init__(self, name):
    self.name, self.method = name, make(name)
    self.traces = 0
    self.known = measured_facts(self.method, facts())
    self.states = [self.method.init(jax.random.key(0), self.known)]
    self.step = self.method.step
    if self.method.loop != "runs":
      self.step = jax.jit(self._traced)
    while (signals := self.signals(len(self.states) - 1)) is not None:
      self.states.append(self.step(self.states[-1], signals)[0])

  def _traced(self, state, signals):
    self.traces += 1
    return self.method.step(state, signals)

  def signals(self, number):
    """What the loop shows a state; None at its end."""
    loop = self.method.loop
    if loop == "runs":
      pending = self.method.ask(self.states[number])
      if not len(pending.mixture_RK):
        return None
      shown = run_result(pending.mixture_RK[0], pending.size_R[0])
      return declared(self.method, shown)
    if loop == "steer":
      observations = facts().steps // self.method.every
      return self.observation(number) if number < observations else None
    if loop in ("none", "look") or number == len(BATCHES):
      return None
    return take(self.method, BATCHES[number])

  @property
  def some_states(self):
    """The first two, one on the way and the last: each may compile a fit anew."""
    numbers = {0, 1, len(self.states) // 2, len(self.states) - 1}
    return [
      self.states[i] for i in sorted(numbers & set(range(len(self.states))))
    ]

  def observation(self, number, order=range(K)):
    return declared(self.method, observation(number, order))

  def log_w(self, state, signals=SIGNALS):
    """Of the pool's documents."""
    pool = take(self.method, np.arange(POOL), signals)
    return np.asarray(self.method.finalize(state).log_w(pool))


@functools.cache
def run_of(name):
  return Run(name)


@pytest.fixture(params=sorted(METHODS))
def run(request):
  return run_of(request.param)


def only(run, *loops):
  if run.method.loop not in loops:
    pytest.skip(f"Methods of the loop {run.method.loop} have no such step.")


def shape_of(state):
  return jax.tree.map(lambda x: (np.shape(x), np.asarray(x).dtype), state)


def test_a_step_traces_once_and_can_be_scanned(run):
  only(run, "values", "steer")
  assert run.traces == 1
  signals = run.signals(0)
  stacked = jax.tree.map(lambda x: jnp.stack([x, x]), signals)
  # Traced only: scan refuses a state that changes its structure or types.
  state, _ = jax.eval_shape(
    lambda s, x: jax.lax.scan(run.method.step, s, x), run.states[0], stacked
  )
  for one in run.states:
    assert shape_of(one) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_a_run_changes_no_shape(run):
  only(run, "runs")
  assert len(run.states) > 3
  for number, one in enumerate(run.states):
    assert shape_of(one) == shape_of(run.states[0])
    # What Orbax can save.
    for leaf in jax.tree.leaves(one):
      assert isinstance(leaf, np.ndarray) and leaf.size
    assert isinstance(one.trials, Trials)
    assert one.trials.count == number


def test_what_is_asked_for_is_a_mixture(run):
  only(run, "steer", "runs")
  for state in run.states:
    asked = (
      run.method.ask(state).mixture_RK
      if run.method.loop == "runs"
      else (run.method.ask(state).mixture_K[None])
    )
    np.testing.assert_allclose(np.sum(asked, axis=-1), 1.0, atol=1e-5)
    assert (np.asarray(asked) >= 0).all()


def test_declared_signals_are_fields_and_loops_are_known(run):
  method = run.method
  assert method.signals <= set(Signals._fields)
  assert method.features <= {"grams", "original_N", "text", *base.MEASURED}
  assert (method.loop == "look") == bool(method.features & base.MEASURED)
  assert method.loop in base.LOOPS
  assert not method.train_on_observed or method.every == 1


def test_weights_are_of_what_the_method_says(run):
  method = run.method
  weights = method.finalize(run.states[-1])
  if method.conclude is not None:
    value_N = SIGNALS.value_BT[:POOL, 0]
    last = run.states[-1]
    weights = method.conclude(last, jax.random.key(0), facts(), value_N).weights
  assert isinstance(
    weights,
    {
      "documents": DocumentWeights,
      "domains": (DomainWeights, EqualWeights),
      "tree": TreeWeights,
    }[run.method.weighs],
  )


def test_the_factory_documents_its_options(run):
  assert_documented(METHODS[run.name].make)


def assert_documented(factory):
  """Every option has its line; a record of options documents its own."""
  lines = [line.strip() for line in (inspect.getdoc(factory) or "").split("\n")]
  for name, option in inspect.signature(factory).parameters.items():
    assert any(line.startswith(f"{name}: ") for line in lines), name
    if dataclasses.is_dataclass(option.default):
      assert_documented(type(option.default))


def test_what_trains_proxies_says_what_it_costs(run):
  if run.method.loop == "none":
    pytest.skip("It trains none.")
  assert "\nCost:\n" in (inspect.getdoc(METHODS[run.name].make) or "")


def test_finalize_is_legal_after_any_step(run):
  for state in run.some_states:
    log_w_N = run.log_w(state)
    assert log_w_N.shape == (POOL,)
    assert np.isfinite(log_w_N).all()


def test_weights_have_mean_one_and_obey_the_cap(run):
  for state in run.some_states:
    w_N = np.exp(run.log_w(state))
    np.testing.assert_allclose(w_N @ SIGNALS.mass_B[:POOL], 1.0, rtol=1e-5)
    assert w_N.max() <= MAX_WEIGHT * (1 + 1e-5)
    assert w_N.min() > 0


def test_permuted_documents_change_nothing(run):
  only(run, "values")
  # Numbers modulo five stay: cmtree holds out every fifth of a batch.
  order = np.random.default_rng(3).permutation(B // 5)
  order = (5 * order[:, None] + np.arange(5)).ravel()
  state = run.states[0]
  for index in BATCHES:
    state, _ = run.step(state, take(run.method, index[order]))
  # Sums round by 1e-7 in another order; 30 steps of Adam pass that on.
  assert_equal(run.log_w(state), run.log_w(run.states[-1]), atol=1e-3)


def test_relabelled_domains_change_nothing(run):
  only(run, "none", "steer")
  if run.name in ("aioli", "skill_it"):
    pytest.skip("Which domain is trained on next depends on their order.")
  if run.name == "meta_scheduler":
    pytest.skip(
      "What it learns of noise blows rounding up; it has its own test."
    )
  order = np.array([2, 0, 3, 1])
  known = run.known
  assert known.pool is not None and known.pool.domain_N is not None
  known = known._replace(
    domain_mass_K=known.domain_mass_K[order],
    target_domain_TK=known.target_domain_TK[:, order],
    pool=known.pool._replace(domain_N=np.argsort(order)[known.pool.domain_N]),
  )
  state = run.method.init(jax.random.key(0), known)
  for number in range(len(run.states) - 1):
    state, _ = run.step(state, run.observation(number, order))
  relabelled = SIGNALS._replace(domain_B=np.argsort(order)[SIGNALS.domain_B])
  assert_equal(
    run.log_w(state, relabelled), run.log_w(run.states[-1]), atol=1e-5
  )


def test_a_saved_state_continues_bit_by_bit(run):
  if len(run.states) < 3:
    pytest.skip("There is nothing to continue.")
  leaves, structure = jax.tree.flatten(run.states[1])
  state = jax.tree.unflatten(structure, [np.array(x) for x in leaves])
  state, _ = run.step(state, run.signals(1))
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(run.states[2]), strict=True
  ):
    np.testing.assert_array_equal(one, two)


def test_equal_keys_give_equal_states(run):
  state = run.method.init(jax.random.key(0), run.known)
  for one, two in zip(
    jax.tree.leaves(state), jax.tree.leaves(run.states[0]), strict=True
  ):
    np.testing.assert_array_equal(one, two)
