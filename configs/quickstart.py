"""The main job on the default corpus: a tree of 4 x 4 leaves for three targets.

python -m cmtree_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from configs import default


def get_config():
  """The defaults, with proxies and a hypergradient that a CPU has time for."""
  config = default.get_config()
  config.proxy.preset = "0.1m"
  # Nearly the direction of the exact one, at half its cost.
  config.hypergradient.estimator = "difference"
  # What repeats are worth to models of this size (experiments/repetition.py).
  config.budget.r_star = 5.3
  return config
