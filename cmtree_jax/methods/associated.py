"""Associated: documents that belong together are read in one row, attending to all."""

from typing import Any, NamedTuple

import numpy as np

from cmtree_jax import budget, checks, shapes
from cmtree_jax.methods.base import (
  DocumentWeights,
  Facts,
  Method,
  Path,
  Planted,
  Small,
)
from cmtree_jax.selection import paths

PATHS = ("greedy", "shuffled")

SMALL = Small()
PLANTED = Planted(
  cannot="what it finds is an order: by default all documents weigh the same"
)


class State(NamedTuple):
  """What is handed over, and what a person reads."""

  weights: DocumentWeights
  told: dict[str, np.ndarray]


def make(
  *, neighbors: int = 10, path: str = "greedy", gamma: float = 0.0
) -> Method:
  r"""Packs documents that are linked into the same rows of the training.

  .. math:: i \sim j \iff j \in N_k(i) \text{ or } i \in N_k(j), \qquad
            w_i = \min\big(R,\, c\, (1 + \gamma\, \mathrm{mean}_{j \sim i}
            \max(\cos(e_i, e_j), 0))\big)

  with the k nearest documents N, by the cosine of their embeddings. Documents that were
  cut from one original are linked as well, each with the k of them that are nearest to
  it. A path goes through all documents: from each to the one that is most strongly
  linked with it and has not been visited; where none is left, it starts anew at the
  document of the fewest links that has not been visited. Equal ones are told apart by
  their ids. The rows of the final training, and of the trials, are packed along the
  path, and a token attends to all earlier ones of its row, also those of other
  documents. So the model learns to make use of what stands before.

  How rows are drawn (`data/draw/bundles.py`): documents that follow one another on the
  path and fill some rows are seen together, or not at all, by a training that sees a
  part of the corpus. Each is drawn as often as its weight says.

  Departures: links with documents of one original are not in the paper, and neither is
  the weight. The paper removes near duplicates before; run it on a corpus without, for
  a text that stands twice in a row teaches to copy. Neighbors are exact, where the
  paper has an index. The path is that of the paper; the authors' code starts anew at
  any document, and after 21. With rows that are shorter than documents there is nothing
  to see: choose `config.batch.row_tokens` so that a row holds several.

  How sure this is: what the paper found, at 0.3 to 7 billion parameters and 8,192
  tokens, is not reproduced here. Tests show that a small model learns from related
  documents in a row what it does not learn from the same ones by chance. On the default
  corpus, in rows of 1,024 tokens or two documents and with 0.1m parameters, 150 steps
  were worse than the control by .03 to .04 bits per byte of three targets, within the
  noise of three seeds. Targets are read document by document there, so that no table
  shows what is learned of context; and after 300 steps such a model read related
  documents that it had not seen no better than its control did.

  Args:
    neighbors: k, nearest others of each document.
    path: "greedy" is the path above. "shuffled" is the control: the same documents are
      drawn as often, in rows packed by chance, with attention across them.
    gamma: :math:`\gamma`, how much more a document weighs that is strongly linked; 0:
      all weigh the same.
  Returns:
    A Method that reads the embedding of all documents; it knows no targets.
  Cost:
    N^2 products of features, no training. About 100 k bytes for each document.
  Raises:
    ValueError: for an unknown word, no neighbors, or a gamma that is below zero.
  References:
    Shi et al., `In-Context Pretraining <https://arxiv.org/abs/2310.10638>`_, 2023,
    section 2 and algorithm 1; swj0419/in-context-pretraining at 3e57a6a.
  """
  checks.one_of("path", path, PATHS)
  checks.at_least(1, neighbors=neighbors)
  checks.at_least(0, gamma=gamma)
  checks.finite(gamma=gamma)

  def init(key: shapes.Key, facts: Facts) -> State:
    del key
    pool = facts.pool
    assert pool is not None
    order_N = np.argsort(pool.key_N)  # by ids, which break ties
    group_N = pool.original_N
    links = paths.link(
      np.asarray(pool.embedding_NE)[order_N],
      k=neighbors,
      group_N=None if group_N is None else group_N[order_N],
    )
    path_N, starts = paths.walk(links)
    place_N = np.empty(len(order_N), np.int32)
    place_N[order_N[path_N]] = np.arange(len(order_N), dtype=np.int32)
    strength_N = np.empty(len(order_N))
    strength_N[order_N] = links.mean_strength_N
    w_N = budget.capped(
      1 + gamma * strength_N,
      pool.tokens_N / pool.tokens_N.sum(),
      max_weight=facts.max_weight,
    )
    weights = DocumentWeights(
      np.log(w_N).astype(np.float32), Path(place_N, path == "shuffled")
    )
    told = {
      "links": np.array(len(links.other_M) // 2),
      "strength": strength_N.mean(),
      "starts": np.array(len(starts)),
    }
    return State(weights, told)

  def history(state: State) -> tuple[dict[str, Any], ...]:
    return ({name: x.item() for name, x in state.told.items()},)

  return Method(
    init,
    step=lambda state, signals: (state, None),
    finalize=lambda state: state.weights,
    signals=frozenset({"index_B"}),
    loop="none",
    features=frozenset({"original_N"}),
    history=history,
    weighs="documents",
    targeted=False,
  )
