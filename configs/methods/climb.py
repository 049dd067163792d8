"""CLIMB: merged clusters, and rounds of runs steered by boosted trees.

python -m cmtree_jax.main --config configs/methods/climb.py --workdir W
"""

from configs.methods import scale


def get_config():
  """climb on its own domains."""
  config = scale.get_config("climb")
  config.partition.kind = "ward"  # as CLIMB divides
  return config
