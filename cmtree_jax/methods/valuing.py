"""Shared by methods that learn from values of documents, by the tree's learner."""

from cmtree_jax import shapes
from cmtree_jax.methods.base import Facts, Signals
from cmtree_jax.tree import learner, views
from cmtree_jax.tree.evidence import Training
from cmtree_jax.tree.mixture import Sample
from cmtree_jax.tree.replay import Round

# What they read, beside what tells where a document falls.
SIGNALS = frozenset(
  {"mass_B", "value_BT", "proxy_B", "log_proposal_B", "target_weight_T"}
)


def start(
  key: shapes.Key,
  theta: shapes.Tree,
  corpus: Sample,
  plan: learner.Plan,
  facts: Facts,
  *,
  masks: views.Masks | None = None,
) -> learner.State:
  """The learner before the first round, for the training that the facts tell of."""
  training = Training(
    facts.max_weight, facts.horizon, facts.epochs / facts.r_star
  )
  return learner.start(
    key,
    theta,
    corpus,
    plan,
    training,
    targets=facts.num_targets,
    proxies=facts.num_proxies,
    masks=masks,
  )


def step(
  state: learner.State,
  signals: Signals,
  features: shapes.Array,
  corpus: Sample,
  plan: learner.Plan,
) -> tuple[learner.State, learner.Info]:
  """A round of the learner.

  Args:
    state: before it.
    signals: the round's documents and their values.
    features: of these documents; tell where each falls.
    corpus: a sample of the natural distribution.
    plan: of the method.
  """
  new = Round(
    features=features,
    value_BT=signals.value_BT,
    proxy_B=signals.proxy_B,
    mass_B=signals.mass_B,
    log_proposal_B=signals.log_proposal_B,
  )
  return learner.step(state, new, corpus, signals.target_weight_T, plan)
