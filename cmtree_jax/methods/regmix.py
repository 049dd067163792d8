"""RegMix: many small runs on random mixtures, a regression, and its best region."""

from cmtree_jax import checks, shapes
from cmtree_jax.methods import searching
from cmtree_jax.methods.base import (
  TARGET_FIRST,
  DomainWeights,
  Facts,
  Method,
  Planted,
  Small,
)
from cmtree_jax.methods.laws import designs, surrogates

# The paper's trees need 20 runs in a leaf, those of CLIMB 5.
SMALL = Small(dict(runs=48, candidates=20_000, minimum=5e-3, surrogate="climb"))
PLANTED = Planted(
  dict(runs=24, candidates=2000, minimum=0.01, surrogate="climb"),
  more=TARGET_FIRST,
)


def make(
  *,
  runs: int = 512,
  candidates: int = 100_000,
  best: int = 128,
  exponent: float = 0.5,
  minimum: float = 2e-4,
  surrogate: str = "regmix",
) -> Method:
  r"""Averages the candidates that a regression of loss on mixture likes best.

  .. math:: \hat p = \frac{1}{128} \sum_{p \in \mathrm{top}} p, \qquad
            \mathrm{top} = \text{128 least of } \textstyle\frac1T \sum_t f_t(p),
            \quad p \sim \mathrm{Dirichlet}(q)

  with f_t boosted trees fit to the losses of target t in runs on mixtures of
  `designs.regmix`. The paper has one target (the loss on Pile-CC); with several,
  each has its own trees, and their mean is searched.

  Departures: the paper allows 15 epochs of a domain in the design and anything in
  the search; here both obey R, the allowed repetition of the final training. The
  trees stop early on a tenth of the runs, not on the test mixtures (see
  `surrogates.fit`). Candidates that tie with the last of the best count as well.

  Args:
    runs: proxies to train.
    candidates: mixtures that are scored.
    best: how many of them to average.
    exponent: flattens the prior of the design.
    minimum: the smallest share in the design, apart from zero; a proxy should still
      see about a hundred rows at this share.
    surrogate: whose settings the trees have, "regmix" or "climb". RegMix's need
      about a hundred runs: they put at least 20 in a leaf.
  Returns:
    A Method of whole runs. It is natural before the first run, and nearly so as
    long as there are too few to split.
  Cost:
    `runs` runs.
  Raises:
    ValueError: for counts that are not positive, an exponent below zero or an
      unknown surrogate.
  References:
    Liu et al., `RegMix: Data Mixture as Regression for Language Model Pre-training
    <https://arxiv.org/abs/2407.01492>`_, 2024, section 3 and
    `regression_fitting/regression.ipynb`.
  """
  checks.at_least(1, runs=runs, candidates=candidates, best=best)
  checks.at_least(0, exponent=exponent)
  checks.share(minimum=minimum)
  settings = surrogates.named(surrogate)

  def init(key: shapes.Key, facts: Facts) -> searching.State:
    state = searching.start(key, facts)
    mixture_RK = designs.regmix(
      state.q_K,
      runs,
      rng=state.rng(0),
      cap_K=state.cap_K,
      exponent=exponent,
      minimum=minimum,
    )
    return state.plan(mixture_RK)

  def finalize(state: searching.State) -> DomainWeights:
    trials, count = state.trials, int(state.trials.count)
    mixture_K = state.q_K
    if count:
      fitted = surrogates.fit(
        trials.mixture_RK[:count], trials.loss_RT[:count], settings
      )
      candidate_CK = designs.dirichlet(
        state.q_K,
        candidates,
        rng=state.rng(1),
        cap_K=state.cap_K,
      )
      loss_C = fitted.predict(candidate_CK).mean(axis=1)
      mixture_K = surrogates.mean_of_best(candidate_CK, loss_C, best)
    return state.weights(mixture_K)

  return Method(
    init,
    searching.step,
    finalize,
    frozenset({"domain_B", "target_loss_T"}),
    "runs",
    ask=lambda state: state.trials.pending(),
  )
