"""MixMin: a proxy for each domain, and their best mixture for the target.

python -m cmtree_jax.main --config configs/methods/mixmin.py --workdir W
"""

from configs.methods import scale


def get_config():
  """mixmin on sixteen clusters."""
  return scale.get_config("mixmin")
