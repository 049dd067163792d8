"""A recipe in words: the nodes of a tree, or the documents that weigh most."""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtree_jax.methods.base import DocumentWeights
from cmtree_jax.recipe.partition import (
  Partition,
  TreePartition,
  document_log_w,
  leaf_paths,
)

ROOT = "root"  # what people read for the empty path
_SNIPPET = 160  # characters of a typical document


class Node(NamedTuple):
  """One node as a person reads it."""

  path: str  # child numbers from the root; "" is the root
  name: str  # path and top terms, unique in the tree
  mass: float  # share of the corpus's tokens
  mixture: float  # share of the training tokens
  weight: float  # mixture / mass
  terms: tuple[str, ...]
  typical_id: str
  typical: str  # the beginning of that document
  # Of a leaf that scores: words that more of its quarter with the highest scores have
  # than of that with the lowest, words of the opposite, and how many times the one
  # outweighs the other by the score alone.
  towards: tuple[str, ...] | None = None
  away: tuple[str, ...] | None = None
  times: float | None = None


class Document(NamedTuple):
  """One document as a person reads it."""

  id: str
  weight: float
  text: str  # its beginning


class Favored(NamedTuple):
  """What weights of single documents prefer: the documents of weight above one."""

  mass: float  # their share of the corpus's tokens
  mixture: float  # their share of the training tokens
  terms: tuple[str, ...]
  heaviest: tuple[Document, ...]  # of equal ones the most typical first


class Description(NamedTuple):
  """A recipe as a person reads it."""

  nodes: tuple[Node, ...]  # none without leaves
  favored: Favored | None = None  # where documents have weights of their own
  # What each level of a tree sees of each view, where there are several.
  levels: tuple[dict[str, float], ...] = ()
  # What happened to a tree that grows, in order; as `events.told` has it.
  growth: tuple[dict[str, Any], ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Its part of recipe.json."""
    found: dict[str, Any] = {
      "nodes": [
        {k: v for k, v in node._asdict().items() if v is not None}
        for node in self.nodes
      ],
      "mixtures": children(self.nodes),
    }
    if self.levels:
      found["levels"] = list(self.levels)
    if self.growth:
      found["growth"] = list(self.growth)
    if self.favored is None:
      return found
    heaviest = [one._asdict() for one in self.favored.heaviest]
    return {
      **found,
      "favored": {**self.favored._asdict(), "heaviest": heaviest},
    }


class Sample(NamedTuple):
  """The documents of a corpus that a recipe is shown by."""

  embedding_NE: np.ndarray
  mass_N: np.ndarray  # shares of the sample's tokens
  texts: Sequence[str]
  ids: Sequence[str]
  # Labels, by which leaves that are sources go; None: they are not known.
  sources: Sequence[str] | None = None


def describe(
  weights: Partition | DocumentWeights, sample: Sample
) -> Description:
  """A recipe as a sample of documents shows it.

  Args:
    weights: of leaves, or of the documents of the sample.
    sample: of the corpus.
  """
  if isinstance(weights, DocumentWeights):
    return Description((), favored(weights, sample))
  return Description(tuple(nodes(weights, sample)))


def nodes(
  partition: Partition, sample: Sample, *, num_terms: int = 5
) -> list[Node]:
  """Every node that holds a document, parents before children.

  Mass and mixture are those of the soft leaves; terms and the typical document
  come from the documents whose most probable leaf lies below the node.
  """
  embedding_NE, mass_N, texts, ids, sources = sample
  log_p_NL = partition.log_p_leaf(embedding_NE, sources)
  p_NL = np.exp(log_p_NL)
  leaf_N = np.argmax(p_NL, axis=1)
  mass_L = mass_N @ p_NL
  lean_NL = None
  if isinstance(partition, TreePartition) and partition.scores:
    log_w_N = document_log_w(partition, embedding_NE, log_p_NL)
    mixture_L = (mass_N * np.exp(log_w_N)) @ p_NL
    lean_NL = partition.lean(embedding_NE)
  else:
    mixture_L = mass_L * np.exp(partition.log_w_L)
  # Weights are as they were learned, from a part of the corpus perhaps: what all of
  # these documents have in common cancels where shares are made of them.
  mixture_L = mixture_L / mixture_L.sum()
  counts = _term_counts(texts, leaf_N, p_NL.shape[1])
  leaves = frozenset(leaf_paths(partition))
  found = []
  for depth in range(len(partition.branching) + 1):
    above = partition.branching[:depth]
    below = int(np.prod(partition.branching[depth:], dtype=int))
    for digits in itertools.product(*(range(b) for b in above)):
      number = _number(digits, above)
      places = slice(number * below, (number + 1) * below)
      inside_N = (leaf_N >= places.start) & (leaf_N < places.stop)
      path = ".".join(map(str, digits))
      # Below a leaf that is not split there is only itself again.
      above_it = (".".join(map(str, digits[:i])) for i in range(depth))
      is_below = any(one in leaves for one in above_it)
      if not inside_N.any() or is_below:
        continue
      typical = _typical(embedding_NE, inside_N)
      mass = float(mass_L[places].sum())
      mixed = float(mixture_L[places].sum())
      terms = _top_terms(counts, places, num_terms)
      node = Node(
        path=path,
        name=f"{path or ROOT}: {' '.join(terms[:3])}".strip(),
        mass=mass,
        mixture=mixed,
        weight=mixed / max(mass, 1e-12),
        terms=terms,
        typical_id=ids[typical],
        typical=_beginning(texts[typical]),
      )
      if lean_NL is not None and above == partition.branching:
        rows = np.flatnonzero(inside_N)
        some = [texts[i] for i in rows.tolist()]
        node = _leaning(node, lean_NL[rows, number], some, num_terms)
      found.append(node)
  return found


def _leaning(
  node: Node, lean_N: np.ndarray, texts: Sequence[str], num_terms: int
) -> Node:
  """The same leaf with the way that its score leans among its documents."""
  quarter = len(texts) // 4
  if not quarter:
    return node
  order_N = np.argsort(lean_N, kind="stable")
  ends = np.concatenate([order_N[:quarter], order_N[-quarter:]])
  is_high_N = np.repeat([0, 1], quarter)
  counts = _term_counts([texts[i] for i in ends], is_high_N, 2)
  more_W = (counts.leaf_LW[1] - counts.leaf_LW[0]) / quarter
  low, high = lean_N[ends].reshape(2, quarter).mean(axis=1)

  def words(more_W):
    best = np.argsort(-more_W, kind="stable")[:num_terms]
    return tuple(str(counts.words[w]) for w in best if more_W[w] > 0)

  return node._replace(
    towards=words(more_W), away=words(-more_W), times=float(np.exp(high - low))
  )


def favored(
  weights: DocumentWeights,
  sample: Sample,
  *,
  num_terms: int = 5,
  num_documents: int = 5,
) -> Favored:
  """What the weights of a sample of documents prefer."""
  embedding_NE, mass_N, texts, ids, _ = sample
  w_N = np.exp(np.asarray(weights.log_w_N, np.float64))
  above_N = w_N > 1
  counts = _term_counts(texts, above_N.astype(int), 2)
  similarity_N = embedding_NE @ ((mass_N * w_N) @ embedding_NE)
  order = np.lexsort((-similarity_N, -w_N))[:num_documents]
  return Favored(
    mass=float(mass_N[above_N].sum()),
    mixture=float((mass_N * w_N)[above_N].sum() / (mass_N @ w_N)),
    terms=_top_terms(counts, slice(1, 2), num_terms),
    heaviest=tuple(
      Document(ids[i], float(w_N[i]), _beginning(texts[i])) for i in order
    ),
  )


def leaf_names(
  weights: Partition | DocumentWeights, found: Sequence[Node]
) -> dict[str, str]:
  """Path -> name of every leaf, safe as a file name: "leaf_2.0_film-plot".

  Without leaves all documents are in one part, "all".
  """
  if isinstance(weights, DocumentWeights):
    return {"": "all"}
  terms = {node.path: node.terms for node in found}
  names = {}
  for path in leaf_paths(weights):
    words = [re.sub(r"[^a-z0-9]+", "", t) for t in terms.get(path, ())]
    name = "-".join(word for word in words[:3] if word)
    names[path] = f"leaf_{path}_{name}".rstrip("_")
  return names


def children(found: Sequence[Node]) -> dict[str, dict[str, float]]:
  """The mixture at every inner node: names of its children -> proportions."""
  by_path = {node.path: node for node in found}
  mixtures: dict[str, dict[str, float]] = {}
  for node in found:
    if node.path:
      parent = by_path[node.path.rpartition(".")[0]]
      mixtures.setdefault(parent.name, {})[node.name] = node.mixture
  return {
    name: {
      child: share / sum(shares.values()) for child, share in shares.items()
    }
    for name, shares in mixtures.items()
  }


def _beginning(text: str) -> str:
  return " ".join(text.split())[:_SNIPPET]


def _number(digits: Sequence[int], branching: Sequence[int]) -> int:
  number = 0
  for digit, children_count in zip(digits, branching, strict=True):
    number = number * children_count + digit
  return number


def _typical(embedding_NE, inside_N) -> int:
  """The document of the node nearest to its mean; ties go to the first."""
  center_E = embedding_NE[inside_N].mean(axis=0)
  return int(np.argmax(np.where(inside_N, embedding_NE @ center_E, -np.inf)))


class _Counts(NamedTuple):
  leaf_LW: np.ndarray  # documents of the leaf that hold the word
  words: np.ndarray


# Longer ones are no words: addresses, or one letter held down.
_WORD = r"(?u)\b[^\W\d_]{3,24}\b"


def _term_counts(texts, leaf_N, num_leaves) -> _Counts:
  from sklearn.feature_extraction.text import CountVectorizer

  # The first 600 characters name a document well enough, at a third of the time.
  beginnings = [text[:600] for text in texts]
  if not any(re.search(_WORD, text) for text in beginnings):
    return _Counts(np.zeros((num_leaves, 0)), np.empty(0, str))
  vectorizer = CountVectorizer(
    token_pattern=_WORD, max_features=8000, binary=True
  )
  found_NW: Any = vectorizer.fit_transform(beginnings)
  leaf_LW = np.zeros((num_leaves, found_NW.shape[1]))
  for leaf in np.unique(leaf_N):
    leaf_LW[leaf] = np.asarray(found_NW[leaf_N == leaf].sum(axis=0)).ravel()
  return _Counts(leaf_LW, vectorizer.get_feature_names_out())


def _top_terms(counts: _Counts, leaves: slice, num_terms: int):
  """Words by frequency times the log of how much more frequent than elsewhere.

  The class-based TF-IDF of Grootendorst, 2022 (BERTopic), eq. 2.
  """
  inside_W = counts.leaf_LW[leaves].sum(axis=0)
  total_W = counts.leaf_LW.sum(axis=0)
  average = total_W.sum() / max(len(counts.leaf_LW), 1)
  score_W = inside_W * np.log1p(average / np.maximum(total_W, 1))
  best = np.argsort(-score_W, kind="stable")[:num_terms]
  return tuple(str(counts.words[w]) for w in best if inside_W[w] > 0)
