"""Where every document lies in a fixed space, and the first clusters in it.

An embedder is one file here and one entry of `EMBEDDERS`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from cmtree_jax import checks
from cmtree_jax.shapes import FloatNE
from cmtree_jax.types import UserError


class Plan(NamedTuple):
  """The config's block `embedding`, with its defaults."""

  kind: str = "tfidf"  # a name in EMBEDDERS
  dim: int = 64  # numbers per document that tfidf keeps; minilm has 384
  max_features: int = 20_000  # commonest 3-grams looked at
  sample: int = 5_000  # documents that tfidf is fitted on

  def check(self) -> None:
    """Raises ValueError for a field below one."""
    checks.at_least(
      1, dim=self.dim, max_features=self.max_features, sample=self.sample
    )


@runtime_checkable  # tests check signatures at run time
class Embedder(Protocol):
  """Gives texts their place."""

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """One unit row per text, float32."""
    ...

  def to_arrays(self) -> dict[str, np.ndarray]:
    """What is kept of it, to be loaded again."""
    ...


class Kind(NamedTuple):
  """How embedders of one kind are made; what is large is imported then."""

  fit: Callable[[Sequence[str], Plan, Path], Embedder]
  load: Callable[[dict[str, np.ndarray], Path], Embedder]
  saved_as: str  # what its files call it


def fit(texts: Sequence[str], plan: Plan, *, cache_dir: Path) -> Embedder:
  """The embedder of a plan: fitted on the texts, or fetched into `cache_dir`."""
  if plan.kind not in EMBEDDERS:
    raise UserError(
      f"Unknown embedding.kind {plan.kind!r}. Known: "
      f"{', '.join(sorted(EMBEDDERS))}."
    )
  return EMBEDDERS[plan.kind].fit(texts, plan, cache_dir)


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
  for kind in EMBEDDERS.values():
    if kind.saved_as == name:
      return kind.load(kept, cache_dir)
  known = ", ".join(kind.saved_as for kind in EMBEDDERS.values())
  raise UserError(
    f"Unknown embedder {name!r} in a file. Known: {known}; use the version of "
    "this package that wrote it."
  )


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


EMBEDDERS = {
  "minilm": Kind(_fit_minilm, _load_minilm, "MiniLmEmbedder"),
  "tfidf": Kind(_fit_tfidf, _load_tfidf, "TfidfEmbedder"),
}
