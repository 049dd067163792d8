"""Every control and method side by side, two targets of the default corpus, 3 seeds.

python -m cmtree_jax.compare --config configs/compare.py --workdir runs/compare

Data and final training are those of default.py, the options of a method are `SMALL`
in its file: all of them in some hours on two cores. `method`, `baselines`, `guard` and
`final.seeds` of default.py belong to `cmtree_jax.main` and are not read here.
"""

from ml_collections import ConfigDict

from cmtree_jax.methods import METHODS
from configs import default, method

# Those that wait for a file of the user's can be named beside them.
ALL = tuple(name for name, one in METHODS.items() if one.make().labels is None)


def get_config():
  """The defaults, and what is compared."""
  config = default.get_config()
  method.make_small(config)
  config.compare = ConfigDict()
  # Names in METHODS or config.variants; natural is compared in any case.
  config.compare.methods = ALL
  # Names of targets; "a+b" is one recipe for the mean of both, "a>b" is searched
  # (and chosen) on a and tested on b.
  config.compare.targets = ("film_reviews", "humaneval")
  config.compare.seeds = 3  # final trainings, paired by seed
  # Searches per method and target, at most `seeds`; the final training of seed s
  # uses search s modulo this. 0: as many as seeds, so that intervals hold the noise
  # of searches too.
  config.compare.search_seeds = 0
  # Final trainings at these shares of the token budget, each with a decay of its
  # own: how many tokens reach natural's final loss? 1.0 must be among them.
  config.compare.fractions = (0.5, 1.0)
  # Natural alone trained for so many budgets: quality at equal total FLOPs.
  config.compare.natural_multiples = (2.0, 4.0)
  config.compare.noise_repeats = 3  # more seeds of natural: the noise floor
  # More sizes of the final model than final.preset: each is a standing of its own.
  config.compare.final_presets = ("",)[:0]
  # Every recipe is trained on at the concentration that trials find best (the block
  # `trial`). Targeted ones are trained on once more at each of these effective sample
  # sizes, the same for all, as METHOD@SHARE.
  config.compare.effective_sample_sizes = ()
  # A folder whose cells several comparisons share, one after another, if all else
  # is equal, `data.targets` too; "": WORKDIR/cells.
  config.compare.cells = ""
  config.data.targets = ()  # none: those that `compare.targets` names
  return config
