"""Where every document lies in a fixed space, and the first clusters in it.

An embedder of topics is one file here and one entry of `EMBEDDERS`, another view of
texts one of `VIEWS`. Views of a model need a trained proxy: `jobs/proxy_views.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cmtree_jax import checks
from cmtree_jax.shapes import FloatNE
from cmtree_jax.types import UserError


class Plan(NamedTuple):
  """The config's block `embedding`, with its defaults."""

  kind: str = "tfidf"  # of the view "topic", a name in EMBEDDERS
  dim: int = 64  # numbers per document that tfidf keeps; minilm has 384
  max_features: int = 20_000  # commonest 3-grams looked at
  sample: int = 5_000  # documents that views of texts are fitted on
  # Side by side in this order. Of VIEWS: "topic" is what a text is about, "form" how
  # it is written, "grams" how much likelier its words are in each of the targets. Of
  # MODEL_VIEWS: "loss", "trajectory" and "hidden" are what a proxy
  # makes of it that `config.look.steps` of natural text have trained.
  views: tuple[str, ...] = ("topic",)
  # Numbers that are kept of its hidden states, at most as many as these have.
  hidden_dim: int = 16
  hidden_layers: int = 1  # the last layers, whose states "hidden" is made of
  # Ages of the proxy at which "trajectory" has the loss; even, for "loss" has it at
  # half of them and at the end.
  trajectory_ages: int = 4

  @property
  def of_texts(self) -> tuple[str, ...]:
    """The views that a text alone gives."""
    return tuple(name for name in self.views if name not in MODEL_VIEWS)

  @property
  def of_models(self) -> tuple[str, ...]:
    """The others, which want a trained proxy."""
    return tuple(name for name in self.views if name in MODEL_VIEWS)

  def check(self) -> None:
    """Raises ValueError for a field below one, and for views that cannot be."""
    texts_first = self.views == (*self.of_texts, *self.of_models)
    once = len(set(self.views)) == len(self.views)
    if not (self.of_texts and texts_first and once):
      raise ValueError(
        f"views must name each view once, one of texts ({', '.join(VIEWS)}) or more "
        f"and then any of a model ({', '.join(MODEL_VIEWS)}), came "
        f"{', '.join(self.views) or 'none'}."
      )
    checks.at_least(
      1,
      dim=self.dim,
      max_features=self.max_features,
      sample=self.sample,
      hidden_dim=self.hidden_dim,
      hidden_layers=self.hidden_layers,
    )
    if self.trajectory_ages < 2 or self.trajectory_ages % 2:
      raise ValueError(
        "trajectory_ages must be an even number of at least 2, came "
        f"{self.trajectory_ages}."
      )

  def identity(self) -> dict[str, Any]:
    """What tells embedders of texts apart, for keys of what they made.

    The default view is left out: what was made before there were others is still
    found.
    """
    fields = self._asdict() | {"views": self.of_texts}
    for of_models in ("hidden_dim", "hidden_layers", "trajectory_ages"):
      del fields[of_models]
    if self.of_texts == Plan().views:
      del fields["views"]
    return fields


class Block(NamedTuple):
  """The columns of an embedding that one view gives."""

  name: str
  start: int
  stop: int


Blocks = tuple[Block, ...]


@runtime_checkable  # tests check signatures at run time
class Embedder(Protocol):
  """Gives texts their place."""

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text, float32."""
    ...

  def to_arrays(self) -> dict[str, np.ndarray]:
    """What is kept of it, to be loaded again."""
    ...


Fit = Callable[[Sequence[str], Plan, Path], Embedder]
Goals = Mapping[
  str, Sequence[str]
]  # texts of every target that drive the search
FitView = Callable[[Sequence[str], Goals, Plan, Path], Embedder]
Load = Callable[[dict[str, np.ndarray], Path], Embedder]


class Kind(NamedTuple):
  """How embedders of one kind are made; what is large is imported then."""

  fit: Fit
  load: Load
  saved_as: str  # what its files call it


def fit(
  texts: Sequence[str],
  plan: Plan,
  *,
  cache_dir: Path,
  goals: Goals = MappingProxyType({}),
) -> Embedder:
  """The embedder of a plan's views of texts: fitted, or fetched into `cache_dir`.

  Args:
    texts: of the corpus.
    plan: says which views.
    cache_dir: for what is fetched.
    goals: the targets' training texts, which views of the targets read.
  """
  for field, name, known in (
    ("kind", plan.kind, EMBEDDERS),
    *(("views", view, VIEWS) for view in plan.of_texts),
  ):
    if name not in known:
      raise UserError(
        f"Unknown embedding.{field} {name!r}. Known: "
        f"{', '.join(sorted(known))}."
      )
  if plan.of_texts == ("topic",):
    return VIEWS["topic"](texts, goals, plan, cache_dir)
  from cmtree_jax.embed import views

  return views.fit(texts, goals, plan, cache_dir)


def to_arrays(embedder: Embedder) -> dict[str, np.ndarray]:
  """Plain arrays that `from_arrays` makes an equal embedder of."""
  kind = np.array(type(embedder).__name__)
  return {"kind": kind, **embedder.to_arrays()}


def from_arrays(
  arrays: Mapping[str, np.ndarray], *, cache_dir: Path
) -> Embedder:
  """The embedder that `to_arrays` was called on."""
  kept = dict(arrays)
  name = str(kept.pop("kind", None))
  if name in LOADERS:
    return LOADERS[name](kept, cache_dir)
  known = ", ".join(LOADERS)
  raise UserError(
    f"Unknown embedder {name!r} in a file. Known: {known}; use the version of "
    "this package that wrote it."
  )


# In the arrays of an embedder of several views: their names, and where the columns of
# each end.
NAMES, STOPS = "views", "stops"


def blocks(arrays: Mapping[str, np.ndarray], width: int) -> Blocks:
  """The views' columns of an embedding.

  Args:
    arrays: what `to_arrays` said of its embedder; few of them are read.
    width: E, of the embedding.
  """
  if NAMES not in arrays:
    return (Block("topic", 0, width),)
  stops = arrays[STOPS].tolist()
  starts = [0, *stops]
  return tuple(map(Block, arrays[NAMES].tolist(), starts, stops))


def _fit_minilm(texts: Sequence[str], plan: Plan, cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import minilm

  del texts, plan
  return minilm.load(cache_dir)


def _load_minilm(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import minilm

  del arrays  # they name its parameters, which stay in the wheel
  return minilm.load(cache_dir)


def _fit_tfidf(texts: Sequence[str], plan: Plan, cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import tfidf

  del cache_dir
  return tfidf.fit(
    texts,
    dim=plan.dim,
    max_features=plan.max_features,
    sample=plan.sample,
    seed=0,
  )


def _load_tfidf(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import tfidf

  del cache_dir
  return tfidf.TfidfEmbedder.from_arrays(arrays)


def _fit_form(
  texts: Sequence[str], goals: Goals, plan: Plan, cache_dir: Path
) -> Embedder:
  from cmtree_jax.embed import form

  del goals, cache_dir
  return form.fit(texts, sample=plan.sample, seed=0)


def _load_form(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import form

  del cache_dir
  return form.FormEmbedder.from_arrays(arrays)


def _fit_grams(
  texts: Sequence[str], goals: Goals, plan: Plan, cache_dir: Path
) -> Embedder:
  from cmtree_jax.embed import log_odds

  del cache_dir
  return log_odds.fit(texts, goals, sample=plan.sample, seed=0)


def _load_grams(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import log_odds

  del cache_dir
  return log_odds.LogOddsEmbedder.from_arrays(arrays)


def _load_proxy(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import of_proxy

  del cache_dir
  return of_proxy.ProxyEmbedder.from_arrays(arrays)


def _load_views(arrays: dict[str, np.ndarray], cache_dir: Path) -> Embedder:
  from cmtree_jax.embed import views

  return views.load(arrays, cache_dir)


def _fit_topic(
  texts: Sequence[str], goals: Goals, plan: Plan, cache_dir: Path
) -> Embedder:
  del goals
  return EMBEDDERS[plan.kind].fit(texts, plan, cache_dir)


EMBEDDERS = {
  "minilm": Kind(_fit_minilm, _load_minilm, "MiniLmEmbedder"),
  "tfidf": Kind(_fit_tfidf, _load_tfidf, "TfidfEmbedder"),
}
VIEWS: dict[str, FitView] = {
  "topic": _fit_topic,
  "form": _fit_form,
  "grams": _fit_grams,
}
MODEL_VIEWS = ("loss", "trajectory", "hidden")
# What a file may hold, by the class that wrote it.
LOADERS: dict[str, Load] = {
  kind.saved_as: kind.load for kind in EMBEDDERS.values()
} | {
  "FormEmbedder": _load_form,
  "LogOddsEmbedder": _load_grams,
  "ProxyEmbedder": _load_proxy,
  "ViewsEmbedder": _load_views,
}
