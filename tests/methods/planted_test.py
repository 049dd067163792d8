"""Every method on a planted corpus, with real proxies: does it find what was hidden?

What it must find stands beside it, as `PLANTED`.
"""

import functools

import jax
import numpy as np
import pytest

from cmtree_jax.loops import fleet, look, runs, steer
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Signals
from tests import toy

TEXT, NOISE, COPY, OTHER, EMPTY = range(5)
# What `Planted` can name.
DOMAINS = {
  "text": [TEXT],
  "copy": [COPY],
  "noise": [NOISE],
  "other": [OTHER],
  "target": [TEXT, COPY],
  "learnable": [TEXT, COPY, OTHER],
  "natural": [TEXT, NOISE, COPY, OTHER],
}
STEPS = 60
WITH_PROXIES = ("steer", "runs")


@functools.cache
def corpus() -> toy.Corpus:
  rng = np.random.default_rng(0)
  cycle = lambda first, n: first + (rng.integers(4) + np.arange(n)) % 4  # noqa: E731
  length = lambda: int(rng.integers(10, 40))  # noqa: E731
  own = [cycle(1, length()) for _ in range(12)]
  noise = [rng.integers(1, toy.V, length()) for _ in range(12)]
  other = [cycle(5, length()) for _ in range(12)]
  return toy.build(
    [*own, *noise, *own, *other],
    np.repeat([TEXT, NOISE, COPY, OTHER], 12),
    [cycle(1, length()) for _ in range(6)],
    target_K=[0.5, 0.0, 0.5, 0.0, 0.0],
    steps=STEPS,
  )


def weights(method, folder) -> np.ndarray:
  """w of the five domains."""
  world, facts = corpus()
  with toy.session(folder) as session:
    if method.loop == "none":
      found = method.finalize(method.init(jax.random.key(0), facts))
    elif method.loop == "steer":
      plan = steer.Plan(steps=STEPS)
      found = steer.run(method, facts, world, plan, session).weights
    elif method.loop == "look":
      models = {"proxy": 8, "teacher": 16, "target": 8}  # and their widths
      plan = look.Plan(steps=STEPS, steps_per_call=10)
      rate_O = look.rates(plan, method.look, lambda step: 1.0)
      found = look.run(
        method,
        facts._replace(rate_O=rate_O),
        world,
        plan,
        session,
        models={
          name: functools.partial(_model, width)
          for name, width in models.items()
        },
        parts=(world.pool.tokens, corpus().goal.tokens),
      ).weights
    else:
      plan = runs.Plan(steps=STEPS, curve_points=2)
      found = runs.run(
        method, facts, world, plan, session, [lambda: world.model]
      ).weights
  if method.weighs == "domains":
    return np.exp(np.asarray(found.log_w(Signals(domain_B=np.arange(5)))))
  every = Signals(index_B=np.arange(facts.num_documents))
  flow_N = world.mass_N * np.exp(np.asarray(found.log_w(every)))
  flow_K = np.bincount(world.domain_N, flow_N, minlength=5)
  return flow_K / np.maximum(facts.domain_mass_K, 1e-9)  # one domain is empty


def _model(width: int) -> fleet.Model:
  return fleet.Model(toy.engine(width), toy.FLOPS)


@pytest.mark.parametrize(
  "name",
  [
    name
    for name, method in METHODS.items()
    if method.PLANTED.more or method.PLANTED.nothing
  ],
)
def test_a_method_finds_what_was_planted(name, tmp_path):
  planted = METHODS[name].PLANTED
  w_K = weights(METHODS[name].make(**planted.options), tmp_path)
  q_K = corpus().facts.domain_mass_K
  weight = {
    one: q_K[part] @ w_K[part] / q_K[part].sum()
    for one, part in DOMAINS.items()
  }
  for more, less in planted.more:
    assert weight[more] > weight[less], (more, less, weight)
  for one in planted.nothing:
    assert weight[one] < 1e-5, (one, weight)


@pytest.mark.parametrize("name", METHODS)
def test_what_knows_the_target_or_trains_says_what_it_finds(name):
  method, planted = METHODS[name].make(), METHODS[name].PLANTED
  if method.loop in WITH_PROXIES or (method.loop == "none" and method.targeted):
    assert bool(planted.more or planted.nothing) != bool(planted.cannot)
