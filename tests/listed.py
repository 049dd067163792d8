"""Texts in memory, as methods and measures see those of a prepared corpus."""

from collections.abc import Mapping

import numpy as np

from cmtree_jax.embed.texts import Measure


class Listed(list[str]):
  """A list of texts that measures itself."""

  def measured(self, measure: Measure) -> Mapping[str, np.ndarray]:
    """What the measure says."""
    return measure(self)
