r"""How few documents a recipe trains on, and which concentration is best.

The best share of a corpus to keep grows with the compute of the training, as a power
of it; so a small model asks for a recipe that is too sharp for a large one.
"""

import math
from collections.abc import Mapping

import numpy as np

from cmtree_jax.evaluate import statistics

# The published growth of the kept share with compute, 4e-5 C^.25 per cent.
PUBLISHED_SLOPE = 0.25


def effective_sample_size(log_w_N: np.ndarray, mass_N: np.ndarray) -> float:
  """Share of the corpus that the weights keep in effect."""
  w_N = np.exp(log_w_N)
  return float((mass_N @ w_N) ** 2 / (mass_N @ w_N**2))


def best(bpb: Mapping[float, statistics.Values]) -> float:
  """The concentration to train at, from trials paired by seed.

  The largest share whose mean is within one standard error of the best one (Breiman
  et al. 1984, 3.4.3): between shares that trials cannot tell apart, the broader one
  is safer, as short trainings of small models ask for too few documents.

  Args:
    bpb: kept share -> bits per byte of every seed.

  >>> best({0.3: [2.0, 2.1, 2.0], 0.6: [2.01, 2.09, 2.01], 1.0: [2.5, 2.6, 2.4]})
  0.6
  """
  shares = list(bpb)
  bpb_CS = np.array([bpb[share] for share in shares], np.float64)
  error = statistics.standard_error(bpb_CS)
  mean_C = bpb_CS.mean(axis=1)
  tied = mean_C <= mean_C.min() + (0.0 if math.isnan(error) else error)
  return max(share for share, ties in zip(shares, tied, strict=True) if ties)


def extrapolated(
  share: Mapping[float, float], compute: float
) -> tuple[float, float]:
  r"""(the share to keep at another compute, the slope that it follows).

  .. math:: \log s = a + b \log C, \qquad C = 6 P B

  for P parameters and B tokens, by least squares. One point has no slope of its own
  and takes the published one, `PUBLISHED_SLOPE`. No share is above one.

  Args:
    share: compute in FLOPs -> the best kept share there.
    compute: where it is wanted.

  >>> share, slope = extrapolated({1e12: 0.1, 1.6e13: 0.2}, 2.56e14)
  >>> round(share, 6), round(slope, 6)
  (0.4, 0.25)
  """
  log_C = np.log(list(share))
  log_s_C = np.log(list(share.values()))
  slope = PUBLISHED_SLOPE
  if len(share) > 1:
    slope = float(np.polyfit(log_C, log_s_C, 1)[0])
  log_s = log_s_C.mean() + slope * (math.log(compute) - log_C.mean())
  return float(min(1.0, math.exp(log_s))), slope
