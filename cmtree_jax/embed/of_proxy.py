"""Views of a model: what a trained proxy makes of a document.

How they are measured is not told here; `jobs/proxy_views.py` does it for a corpus. What
a corpus keeps of them whitens the numbers of its own documents, and says of others why
they have none: a recipe does not carry the proxy.
"""

from collections.abc import Sequence

import numpy as np

from cmtree_jax.embed import whiten
from cmtree_jax.shapes import FloatNE
from cmtree_jax.types import UserError


class ProxyEmbedder:
  """The rows of one view of a model, for whoever has its numbers."""

  def __init__(self, whitening: whiten.Whitening, flops_per_token: float):
    self.whitening, self.flops_per_token = whitening, flops_per_token

  def __call__(self, texts: Sequence[str]) -> FloatNE:
    """Refuses: texts alone do not tell.

    Raises:
      UserError: always.
    """
    del texts
    raise UserError(refusal(self.flops_per_token))

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Plain arrays, to be kept as .npz."""
    flops = np.array(self.flops_per_token)
    return {**self.whitening._asdict(), "flops_per_token": flops}

  @classmethod
  def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "ProxyEmbedder":
    """The embedder that `to_arrays` was called on."""
    kept = dict(arrays)
    flops = float(kept.pop("flops_per_token"))
    return cls(whiten.Whitening(**kept), flops)


def refusal(flops_per_token: float) -> str:
  """Why texts that are new cannot be weighed, and what it would cost."""
  return (
    "The recipe has views of a model (config.embedding.views): new documents would "
    f"want a pass of its proxy, {flops_per_token:.2g} FLOPs per token, and a recipe "
    "does not carry the proxy. Its documents.parquet has the weights of the corpus "
    "that it was made for; make a recipe with views of texts alone for others."
  )
