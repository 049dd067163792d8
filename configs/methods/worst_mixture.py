"""The negative control: what is least like the target.

python -m cmtree_jax.main --config configs/methods/worst_mixture.py --workdir W
"""

from configs.methods import scale


def get_config():
  """worst_mixture on sixteen clusters."""
  return scale.get_config("worst_mixture")
