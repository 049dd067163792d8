"""The one interface of all methods: pure functions, and the signals that they read.

A step reads the signals of one batch of documents, one round, one observation or
one whole run. It never touches data, proxies or the ledger: the loops do, and they
are the same for every method. It is a `lax.scan` body, except in the loop `runs`,
where a step comes after minutes of training and may use any library on the host.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol

import jax.numpy as jnp
import numpy as np

from cmtree_jax import shapes
from cmtree_jax.embed import Blocks
from cmtree_jax.embed.grams import Grams
from cmtree_jax.embed.texts import Texts
from cmtree_jax.methods.reasons import Reasons
from cmtree_jax.tree import mixture


class Signals(NamedTuple):
  """What a loop computes for a method; only the declared fields are filled.

  B documents; N documents of a sample that stands for the whole corpus; K domains
  of the partition; R rows of each; H numbers of a hidden state; T targets; C points
  of a learning curve; M documents of the targets. Losses of domains are nats per
  token, those of targets bits per byte.
  """

  # Documents of the pool (loop `values`, and what weights are read with).
  mass_B: Any = None  # share of the corpus's tokens
  domain_B: Any = None  # the document's domain
  index_B: Any = None  # number in the pool
  embedding_BE: Any = None  # document features
  value_BT: Any = None  # fall of every target's loss per unit of weight
  proxy_B: Any = None  # int, which proxy says so
  target_weight_T: Any = None  # what each target's loss counts for; sums to one
  log_proposal_B: Any = None  # log density that the documents were drawn with
  sample_NE: Any = None  # features of a corpus sample
  sample_mass_N: Any = None  # the sample's masses; sum to one
  sample_index_N: Any = None  # their numbers in the pool

  # Domains, seen by a proxy in training (loop `steer`) on equally many fresh rows of
  # each. A domain's gradient is the gradient of its mean loss.
  loss_K: Any = None  # mean loss (loop `runs`: at the end of the run)
  excess_K: Any = None  # mean over tokens of max(loss - reference's loss, 0)
  tokens_K: Any = None  # in the observed rows, without padding
  gram_KK: Any = None  # inner products of the domains' gradients
  head_gram_KK: Any = None  # the same for the gradients of the last layer
  # Inner products with the gradient of the targets' loss: the mean that tables
  # score, in nats per token (`signals.gradients.target_shares`).
  target_dot_K: Any = None
  head_dot_K: Any = None  # the same for the gradients of the last layer
  # The same with the gradient of each target's mean loss, the lengths of all these
  # gradients, and the targets' loss in nats per token of the same rows.
  target_dot_TK: Any = None
  domain_norm_K: Any = None
  target_norm_T: Any = None
  target_nats_T: Any = None
  # Means of the last layer's states over rows that stay the same, later tokens of a
  # document weighing more; zeros for a row without text. And over the targets' texts.
  late_hidden_KRH: Any = None
  target_late_hidden_TH: Any = None
  # Fall of the targets' loss per unit of a domain's log share of the rows that were
  # trained on since the last observation; sums to zero. Zeros where they were not
  # valued (`Ask.valued`).
  share_gain_K: Any = None
  target_loss_T: Any = None  # mean loss (loop `runs`: at the end of the run)

  # One whole run (loop `runs`).
  mixture_K: Any = None  # the mixture that it was trained on
  size: Any = None  # the proxy's size, an index into `Facts.sizes`
  curve_CT: Any = None  # the targets' losses at `Facts.curve_steps`
  document_nats_M: Any = None  # loss summed over each document of the targets

  def only(self, wanted: frozenset[str]) -> "Signals":
    """The same with all but the `wanted` fields None."""
    return self._replace(**dict.fromkeys(set(self._fields) - wanted))


class Weights(Protocol):
  """What a method hands over: densities against the natural distribution."""

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """Log-weights of documents; reads the signals that the method declares."""
    ...


class Documents(NamedTuple):
  """N documents one by one, on the host; their arrays may lie on disk.

  Fields from `grams` on are made for methods that name them in `Method.features`.
  What a model makes of documents is measured by the loop `look`, with one row for
  each observation of `Method.look`; means are over the tokens of a document.
  """

  key_N: np.ndarray  # uint64, a hash of every id, and of a pool's of the seed
  tokens_N: np.ndarray  # int, length of each
  embedding_NE: np.ndarray
  domain_N: np.ndarray | None = None  # int, the domain of each
  # Made only for a method whose `features` name them:
  grams: Grams | None = None  # counts of runs of words
  text: Texts | None = None
  # int, equal for documents that were cut from one original; of the pool alone.
  original_N: np.ndarray | None = None
  loss_ON: np.ndarray | None = None  # mean nats
  entropy_ON: np.ndarray | None = None  # mean entropy of the prediction, nats
  confidence_ON: np.ndarray | None = None  # mean of the largest probability
  error_ON: np.ndarray | None = (
    None  # mean length of (prediction - one-hot label)
  )
  # Mean of the largest probability of another token, less that of the token itself.
  margin_ON: np.ndarray | None = None
  correct_ON: np.ndarray | None = (
    None  # share of tokens that were the likeliest
  )
  hidden_ONH: np.ndarray | None = None  # mean of the last layer's states
  late_hidden_ONH: np.ndarray | None = None  # weighted by the token's position
  # Of the gradient of the mean loss: its norm, and sums with random signs.
  gradient_norm_ON: np.ndarray | None = None
  sketch_ONP: np.ndarray | None = None
  # Fall of the targets' loss, in bits per byte, after one training step on the
  # document alone; NaN where it was not asked for.
  influence_ON: np.ndarray | None = None

  @property
  def measured(self) -> dict[str, np.ndarray]:
    """Those that have a row for each observation."""
    fields = self._asdict().items()
    return {n: x for n, x in fields if "_O" in n and x is not None}


# Fields of `Documents` that the loop `look` measures.
MEASURED = frozenset(name for name in Documents._fields if "_O" in name)
MODELS = ("proxy", "teacher", "target")


class Sketch(NamedTuple):
  """How the loop `look` sketches gradients; what is compared is sketched alike."""

  size: int = 8192  # P
  # Of the pool's: "adam", "sgd" or "sign" (see `signals.sketches.formed`); those of
  # the targets' are plain gradients.
  form: str = "adam"


class Look(NamedTuple):
  """Which models of the loop `look` measure documents, and when.

  A "proxy" and a "teacher", which is larger, train on the pool; a "target" is a proxy
  that spends the second half of its training on the targets' texts. The observations
  are made model after model, seed after seed, checkpoint after checkpoint.
  """

  models: tuple[str, ...] = ("proxy",)  # of MODELS
  seeds: int = 1  # trainings of each, from different starts
  checkpoints: int = 1  # of each training, evenly spaced, the last its end
  # Whether each checkpoint ends a training of its own, as long as the time between
  # two checkpoints.
  afresh: bool = False
  # Tokens from the beginning of a document that gradients are read of; 0: all.
  longest: int = 0
  sketch: Sketch = Sketch()  # of `Documents.sketch_ONP`
  # Documents of the pool whose influence is measured, others at every observation.
  asked: int = 0

  @property
  def observations(self) -> int:
    """O, their number."""
    return len(self.models) * self.seeds * self.checkpoints


class Labelled(NamedTuple):
  """Texts that the user has given scores; they need not be of the pool."""

  key_M: np.ndarray  # uint64, a hash of every text
  embedding_ME: np.ndarray
  score_M: np.ndarray


class Facts(NamedTuple):
  """What is known of corpus and target before the first step."""

  max_weight: float  # R: no document may be repeated more often than allowed
  epochs: float  # e: how often the training sees a document of weight one
  r_star: float  # R*: looks at a document after which its worth is used up
  horizon: float  # final training steps per step that a value was measured over
  sample_NE: shapes.Array  # features of a corpus sample
  sample_mass_N: shapes.Array  # sums to one
  target_NE: shapes.Array  # features of the targets' training documents
  target_mass_N: shapes.Array  # every target weighs the same; sums to one
  target_of_N: shapes.Array  # int, the target of each
  held_out_NE: shapes.Array  # features of the targets' validation documents
  held_out_mass_N: shapes.Array  # every target weighs the same; sums to one
  held_out_of_N: shapes.Array  # int, the target of each
  # q: the domains' shares of the corpus's tokens; sums to one.
  domain_mass_K: shapes.Array
  # The domains' shares of each target's tokens; rows sum to one.
  target_domain_TK: shapes.Array
  blocks: Blocks = ()  # which columns of the features are of which view
  sample_index_N: shapes.Array = ()  # numbers of the sample's documents
  seed: int = 0  # of the search
  num_documents: int = 0  # documents of the pool
  num_proxies: int = 0  # that value documents (loop `values`)
  # For the loops `steer` and `runs`.
  steps: int = 0  # training steps of the steered proxy, or of one run
  # Of the training that the recipe is for: its tokens in steps of the proxies'
  # batch, and its model's parameters. Sizes are less the embedding.
  final_steps: int = 0
  final_size: int = 0
  sizes: tuple[int, ...] = ()  # parameters of the proxies that runs may have
  # Steps at which a run is measured; the last is its end.
  curve_steps: tuple[int, ...] = ()
  # Loop `look`: mean learning rate of the training that led to each observation.
  rate_O: shapes.Array = ()
  document_tokens_M: shapes.Array = ()  # length of each document of the targets
  document_target_M: shapes.Array = ()  # which target each belongs to
  # Every document, for methods that score them; targets one by one.
  pool: Documents | None = None
  train: tuple[Documents, ...] = ()
  validation: tuple[Documents, ...] = ()
  # Log-weights of the domains in the recipe that `Method.extends` names; NaN for a
  # domain that is new since. None where it names none.
  earlier_log_w_K: Any = None
  # Arrays that an earlier job kept in the folder that `Method.policy` names.
  policy: Mapping[str, np.ndarray] | None = None
  # What is in the files that `Method.entries` and `Method.labels` name.
  entries: tuple[str, ...] = ()
  labelled: Labelled | None = None

  @property
  def num_domains(self) -> int:
    """K."""
    return len(self.domain_mass_K)

  @property
  def num_targets(self) -> int:
    """T."""
    return len(self.target_domain_TK)


class Ask(NamedTuple):
  """What the proxy of the loop `steer` trains on until the next observation."""

  mixture_K: shapes.Array  # sums to one
  # Share of the rows that are drawn from the targets instead.
  target_share: shapes.Array = 0.0
  # Before these steps: keep the proxy as it is ("mark"), or return to the one kept.
  mark: shapes.Array = False
  back: shapes.Array = False
  # Before these steps: begin anew, from other random parameters.
  fresh: shapes.Array = False
  # Whether these steps are differentiated through, for `Signals.share_gain_K`.
  valued: shapes.Array = False


def _no_reasons(state: Any) -> Reasons | None:
  del state
  return None


def _nothing_to_tell(state: Any) -> dict[str, Any]:
  del state
  return {}


# What each loop does for a method; its file in loops/ and its block of the config
# have the same name.
LOOPS = {
  "none": "Nothing runs: `init` knows the domains' shares of corpus and targets, and"
  " what every document is written with.",
  "look": "Models train and measure every document at their checkpoints: its loss,"
  " its hidden states or its gradient. Then the method weighs the documents by that.",
  "values": "Proxies in training tell the values of documents for every target, round"
  " after round; every step of the method is measured and may be taken back.",
  "steer": "One proxy trains at a constant learning rate on a mixture of domains;"
  " the method observes it every few steps, changes the mixture, may mark the proxy and"
  " go back to the mark, or begin anew.",
  "runs": "Proxies train from scratch, each on one of the mixtures that the method"
  " asks for; the learning rate decays (`runs.decay`), except where a law of the"
  " steps is to be fitted.",
}


class Conclusion(NamedTuple):
  """What is handed over after all rounds of the loop `values`."""

  weights: Any  # as `Weights`
  reasons: Reasons | None = None  # as of `Method.reasons`
  history: tuple[
    dict[str, Any], ...
  ] = ()  # what a person should know of the end


class Method(NamedTuple):
  """A method of weighting documents."""

  init: Callable[[shapes.Key, Facts], Any]  # -> state
  step: Callable[[Any, Signals], tuple[Any, Any]]  # -> (state, info)
  finalize: Callable[[Any], Weights]  # legal after any step
  signals: frozenset[str]  # fields of Signals that it reads
  loop: Literal["none", "look", "values", "steer", "runs"]  # see LOOPS
  # The state with the last step taken back; the loop `values` asks for it where the
  # step was measured to do harm.
  undo: Callable[[Any], Any] = lambda state: state
  # Loop `values`: (state, key, facts, mean value of every document, NaN for one that
  # was never asked for) -> what is handed over, by a method that chooses documents of
  # the whole pool. None: `finalize` after the last round.
  conclude: (
    Callable[[Any, shapes.Key, Facts, np.ndarray], Conclusion] | None
  ) = None
  # Loop `values`: whether values are of the targets' mean loss along an unroll, and
  # not of that at its end.
  along_path: bool = False
  # Loop `steer`: state -> Ask. Loop `runs`: state -> Trials still to run, see
  # `Trials.pending`; none are left when the search is over.
  ask: Callable[[Any], Any] = lambda state: None
  # Loop `runs`: what a person should know of the end, beside the last run in the
  # history of recipe.json.
  tell: Callable[[Any], dict[str, Any]] = _nothing_to_tell
  # Loop `steer`: training steps between observations; and whether the observed
  # rows themselves are trained on (weighted, once each) or rows drawn from the
  # mixture. The first needs `every` = 1.
  every: int = 1
  train_on_observed: bool = False
  # Fields of `Documents` that `init` reads and that must be made for it.
  features: frozenset[str] = frozenset()
  # Loop `look`: which models measure documents. `init` is called after them.
  look: Look = Look()
  # Loop `look`: (facts with what observations 0 to o have measured, o) -> log-weights
  # of the documents that the training goes on with, up to a constant. None: all weigh
  # the same throughout.
  curate: Callable[[Facts, int], np.ndarray] | None = None
  # All loops but `runs`: state -> rows that tell a person what was found.
  history: Callable[[Any], tuple[dict[str, Any], ...]] = lambda state: ()
  # Why documents weigh less than others: state -> reasons, where the method has any
  # beside the weight itself.
  reasons: Callable[[Any], Reasons | None] = _no_reasons
  # The partition: the one that is given, or the labelled sources whatever is given.
  partition: Literal["given", "sources"] = "given"
  # What has a weight of its own: every document of the pool, every domain of the
  # partition, or every leaf of a tree that the method makes.
  weighs: Literal["documents", "domains", "tree"] = "domains"
  scores: bool = False  # whether its state has a score for every document
  # Whether the weights depend on the targets.
  targeted: bool = True
  # Workdir of an earlier recipe, of labelled sources or of the leaves that are given,
  # that `Facts.earlier_log_w_K` is read from.
  extends: str = ""
  # Workdir of an earlier job that `Facts.policy` is read from; and, in the loop `steer`,
  # state -> arrays that such a job keeps.
  policy: str = ""
  keeps: Callable[[Any], dict[str, np.ndarray]] = lambda state: {}
  # Files of the user: a list of entries that `Facts.entries` holds, and labelled texts
  # for `Facts.labelled`; see `data/read`. None: the method wants no labels.
  entries: str = ""
  labels: str | None = None


class Small(NamedTuple):
  """Settings with which a method runs on a CPU in minutes, `SMALL` of its file.

  The defaults of `make` are the paper's, for thousands of steps and hundreds of
  runs. These were set before any test split was read, by arithmetic alone: how far
  a method can move in 150 steps, how many runs a fit of 16 domains needs.
  """

  options: Mapping[str, Any] = MappingProxyType({})  # arguments of `make`
  # Fields of `config.partition`, where the paper divides the corpus in its own way.
  partition: Mapping[str, Any] = MappingProxyType({})


class Planted(NamedTuple):
  """What a method must find in a planted corpus, `PLANTED` of its file.

  `tests/methods/planted_test.py` plants four domains: "text" is what the target is
  of, "copy" repeats it, "other" can be learned as well, "noise" cannot. "target"
  stands for text and copy, "learnable" for all but noise, "natural" for the whole
  corpus; the weight of several domains is their mean per token.
  """

  # Arguments of `make` for 60 steps or two dozen runs, without random noise.
  options: Mapping[str, Any] = MappingProxyType({})
  # Pairs of which the first weighs more than the second.
  more: tuple[tuple[str, str], ...] = ()
  nothing: tuple[str, ...] = ()  # what gets no weight
  # The same among single documents, which `tests/methods/planted_documents.py` plants:
  # pairs of groups, of which the first weighs more, and groups of copies, of which no
  # document is kept twice.
  documents: tuple[tuple[str, str], ...] = ()
  once: tuple[str, ...] = ()
  cannot: str = ""  # or else why nothing can be asked of the method there


# What a method that knows its target can be expected to find.
TARGET_FIRST = (("target", "natural"), ("target", "noise"), ("target", "other"))
TARGET_DOCUMENTS = (
  ("target", "natural"),
  ("target", "plain"),
  ("target", "random"),
)


class EqualWeights(NamedTuple):
  """Weight one for every document: the natural mixture."""

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """Zeros."""
    return jnp.zeros_like(signals.mass_B)


class DomainWeights(NamedTuple):
  """One weight per domain."""

  log_w_K: shapes.FloatK  # corpus mean of the weights is one

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The weight of each document's domain."""
    return self.log_w_K[signals.domain_B]


class Path(NamedTuple):
  """An order in which documents are read together.

  The rows of a training are packed along it, and attention goes across the documents
  of a row; see `data/draw/bundles.py`.
  """

  place_N: np.ndarray  # int32, the place of each document of the pool
  # The control: the same documents are drawn as often, and packed by chance.
  shuffled: bool = False

  def text(self) -> str:
    """One line for a person."""
    order = "by chance, as a control" if self.shuffled else "along the path"
    return f"For rows packed {order}, with attention across their documents."


class DocumentWeights(NamedTuple):
  """One weight per document of the pool; of others nothing is known."""

  log_w_N: shapes.FloatN  # corpus mean of the weights is one
  path: Path | None = None  # None: documents are drawn and read one by one

  def log_w(self, signals: Signals) -> shapes.FloatB:
    """The documents' own weights."""
    return self.log_w_N[signals.index_B]


def domain_weights(
  mixture_K: shapes.FloatK,
  domain_mass_K: shapes.FloatK,
  *,
  max_weight: float | shapes.Scalar,
) -> DomainWeights:
  """The weights p / q of a mixture p, none above `max_weight`.

  What the cap takes from a domain goes to the others in proportion.

  Args:
    mixture_K: p, of any scale; a domain of share zero keeps 1e-6 of its mass.
    domain_mass_K: q.
    max_weight: R.
  """
  # An empty domain would have the density 0 / 0.
  q_K = jnp.maximum(domain_mass_K, 1e-9)
  q_K = q_K / jnp.sum(q_K)
  # Weights are logarithms, so that of a share of zero must be finite.
  ratio_K = jnp.maximum(mixture_K / jnp.sum(mixture_K) / q_K, 1e-6)
  return DomainWeights(
    mixture.leaf_log_w(jnp.log(ratio_K), jnp.log(q_K), max_weight=max_weight)
  )


def from_facts(
  weigh: Callable[[Facts], DomainWeights],
  *,
  partition: Literal["given", "sources"] = "given",
  targeted: bool = False,
) -> Method:
  """A method that needs no more than the facts.

  Args:
    weigh: does its whole work.
    partition: as in `Method`.
    targeted: as in `Method`.
  """
  return Method(
    init=lambda key, facts: weigh(facts),
    step=lambda state, signals: (state, None),
    finalize=lambda state: state,
    signals=frozenset({"domain_B"}),
    loop="none",
    partition=partition,
    targeted=targeted,
  )
