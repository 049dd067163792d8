"""The same number of tokens from each domain.

python -m cmtree_jax.main --config configs/methods/uniform_clusters.py --workdir W
"""

from configs.methods import scale


def get_config():
  """uniform_clusters on sixteen clusters."""
  return scale.get_config("uniform_clusters")
