"""Every method on a planted corpus, with real proxies: does it find what was hidden?

Domain 0 is the target's text, 1 noise, 2 a duplicate of 0, 3 another text that can
be learned as well, 4 is empty.
"""

import functools

import jax
import numpy as np
import pytest

from cmtree_jax.loops import runs as swarm
from cmtree_jax.loops import steer
from cmtree_jax.loops.checkpoint import Checkpointer, StopFlag
from cmtree_jax.methods import METHODS
from cmtree_jax.methods.base import Signals
from tests import toy
from tests.toy import ROWS

TARGET, NOISE, COPY, OTHER, EMPTY = range(5)
STEPS = 60
SMALL = {
  "doge": dict(learning_rate=1e-2),
  "dga": dict(every=2),
  "rnb": dict(every=5),
  "skill_it": dict(every=5, warmup=2, horizon=1, update=2, eta=3.0),
  "aioli": dict(every=2, lp_rounds=1, eta=4.0),
  "tandem": dict(every=5, eta=0.5),
  "ado": dict(every=2, thin=8, num_steps=20, least_e=-2.0),
  "regmix": dict(runs=24, candidates=2000, minimum=0.01, surrogate="climb"),
  "climb": dict(rounds=(12, 6, 3), candidates=2000, minimum=0.01),
  "olmix": dict(runs=15),
  "mixing_laws": dict(num_mixtures=15, extrapolate=False, search="solver"),
  "mixmin": dict(form="em", max_steps=500, tolerance=1e-6),
}


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
    np.repeat([TARGET, NOISE, COPY, OTHER], 12),
    [cycle(1, length()) for _ in range(6)],
    target_K=[0.5, 0.0, 0.5, 0.0, 0.0],
    steps=STEPS,
  )


def weights(name, folder) -> np.ndarray:
  """w of the five domains."""
  method, data = METHODS[name](**SMALL.get(name, {})), corpus()
  common = dict(
    seed=0,
    checkpointer=Checkpointer(folder),
    stop=StopFlag(),
    advance=lambda work, text: None,
  )
  if method.loop == "none":
    found = method.finalize(method.init(jax.random.key(0), data.facts))
  elif method.loop == "steer":
    found = steer.run(
      method,
      data.facts,
      data.steer,
      steer.SteerPlan(steps=STEPS, rows=ROWS, saves=0),
      toy.engine(),
      flops_per_token=1.0,
      **common,
    ).weights
  else:
    size = swarm.Size(toy.engine(), 1.0)
    found = swarm.run(
      method,
      data.facts,
      data.swarm,
      swarm.SwarmPlan(rows=ROWS, population=1),
      [lambda: size],
      **common,
    ).weights
  common["checkpointer"].close()
  return np.exp(np.asarray(found.log_w(Signals(domain_B=np.arange(5)))))


@pytest.mark.parametrize(
  "name",
  sorted(
    name
    for name in METHODS
    if METHODS[name]().loop in ("none", "steer", "runs")
    and METHODS[name]().targeted
    and name != "worst_mixture"
  ),
)
def test_the_target_and_its_duplicate_come_before_noise(name, tmp_path):
  w_K = weights(name, tmp_path)
  q_K = corpus().facts.domain_mass_K
  wanted = q_K[[TARGET, COPY]] @ w_K[[TARGET, COPY]]
  assert wanted > q_K[[TARGET, COPY]].sum()  # more than natural
  mean = wanted / q_K[[TARGET, COPY]].sum()
  assert mean > w_K[NOISE]
  # So does what the target does not need, though it can be learned; but not to
  # TANDEM, which sees only what one proxy unlearns while it learns the target.
  if name != "tandem":
    assert mean > w_K[OTHER]


def test_the_worst_mixture_avoids_the_target(tmp_path):
  w_K = weights("worst_mixture", tmp_path)
  assert max(w_K[TARGET], w_K[COPY]) < 1e-5


def test_ado_tells_noise_from_what_can_be_learned(tmp_path):
  # It cannot know the target: text 3 is as good to it as text 0.
  w_K = weights("ado", tmp_path)
  learnable = [TARGET, COPY, OTHER]
  q_K = corpus().facts.domain_mass_K
  assert q_K[learnable] @ w_K[learnable] / q_K[learnable].sum() > w_K[NOISE]


def test_doremi_cannot_tell_noise_from_excess(tmp_path):
  # It looks at no target, and clips the excess of each token before the mean: the
  # chance differences of two models on noise add up, and noise gets more.
  w_K = weights("doremi", tmp_path)
  assert w_K[NOISE] > max(w_K[TARGET], w_K[COPY], w_K[OTHER])
