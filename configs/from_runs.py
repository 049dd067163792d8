"""The best mixture from a table of runs that you have: no corpus, nothing is trained.

python -m cmtree_jax.main --config configs/from_runs.py:runs.csv --workdir runs/fit

One run a line: columns mixture.NAME, shares that sum to one, and loss.NAME of every
target. RegMix's tables have other names: --config.from_runs.mixture=train_
--config.from_runs.loss=valid_. Seconds to minutes on two cores.

Only `from_runs`, `seed` and the blocks of the three methods are read here.
"""

from ml_collections import ConfigDict

from cmtree_jax.types import UserError
from configs import default


def get_config(file: str = ""):
  """Fits of the runs in a file."""
  if not file:
    raise UserError(
      "configs/from_runs.py wants a table of runs; write --config "
      "configs/from_runs.py:FILE.csv, or FILE.parquet."
    )
  config = default.get_config()
  config.from_runs = ConfigDict()
  config.from_runs.file = file
  config.from_runs.mixture = (
    "mixture."  # begins the names of the shares' columns
  )
  config.from_runs.loss = "loss."  # and those of the losses
  config.from_runs.methods = ("olmix", "regmix", "mixing_laws")
  # The domains' shares of the corpus, in the order of their columns; none: those of
  # the runs' mean mixture.
  config.from_runs.natural = (0.0,)[:0]
  # How often more than natural a domain may be seen; 0: as often as you like.
  config.from_runs.max_weight = 0.0
  config.from_runs.draws = 100  # of runs, with replacement, for the intervals
  config.from_runs.left_out = (
    64  # runs that are predicted by the others, at most
  )
  # The law's optimum, where the paper takes the best of many mixtures of a grid.
  config.mixing_laws.search = "solver"
  config.mixing_laws.extrapolate = False  # a table has no curves
  # RegMix's own trees need a hundred runs; these need ten.
  config.regmix.surrogate = "climb"
  config.regmix.candidates = 20_000
  return config
