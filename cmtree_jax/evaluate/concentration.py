"""How few documents a recipe trains on."""

import numpy as np


def effective_sample_size(log_w_N: np.ndarray, mass_N: np.ndarray) -> float:
  """Share of the corpus that the weights keep in effect."""
  w_N = np.exp(log_w_N)
  return float((mass_N @ w_N) ** 2 / (mass_N @ w_N**2))
