"""The one interface of all methods: three pure functions, and what they read.

`step` is a `lax.scan` body: it gets the signals of one batch of documents (or, in
the `train` loop, of one round) and never touches data, proxy or ledger; the loops
in `loops.py` do, and they are the same for every method.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax.numpy as jnp

from cmtree_jax import shapes


class Signals(NamedTuple):
  """What a loop computes for a method; only the declared fields are filled.

  B documents; N documents of a sample that stands for the whole corpus.
  """

  mass_B: Any = None  # share of the corpus's tokens; 0 for a target's document
  target_mass_B: Any = None  # share of the target's tokens; 0 in the pool
  cluster_B: Any = None  # cluster of a frozen partition
  embedding_BE: Any = None  # document features
  value_B: Any = None  # fall of the outer loss per unit of weight
  log_proposal_B: Any = None  # log density that the documents were drawn with
  sample_NE: Any = None  # features of a corpus sample
  sample_mass_N: Any = None  # its masses; sum to one


class Weights(Protocol):
  """What a method hands over: densities against the natural distribution."""

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """log_w_B of the documents; reads the signals that the method declares."""
    ...


class Facts(NamedTuple):
  """What is known of corpus and target before the first step."""

  max_weight: float  # R: no document may be repeated more often than allowed
  num_clusters: int  # of the frozen partition
  horizon: float  # final training steps per step that a value was measured over
  sample_NE: shapes.Array  # features of a corpus sample
  sample_mass_N: shapes.Array
  target_NE: shapes.Array  # features of the targets' training documents
  target_mass_N: shapes.Array  # every target weighs the same; sums to one


def _no_judgement(state: Any, gain: shapes.Scalar) -> Any:
  del gain
  return state


class Method(NamedTuple):
  """A method of weighting documents."""

  init: Callable[[shapes.Key, Facts], Any]  # -> state
  step: Callable[[Any, Signals], tuple[Any, Any]]  # -> (state, info)
  finalize: Callable[[Any], Weights]  # legal after any step
  signals: frozenset[str]  # fields of Signals that it reads
  loop: Literal["pass", "train"]  # the driver in loops.py that runs it
  # (state, measured fall of the validation loss by the last step) -> state; the
  # train loop calls it after every step, so a method may take a step back.
  judge: Callable[[Any, shapes.Scalar], Any] = _no_judgement


class EqualWeights(NamedTuple):
  """Weight one for every document: the natural mixture."""

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """Zeros."""
    return jnp.zeros_like(signals.mass_B)


class DomainWeights(NamedTuple):
  """One weight per cluster."""

  log_w_K: shapes.FloatK  # corpus mean of the weights is one

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The weight of each document's cluster."""
    return self.log_w_K[signals.cluster_B]
