"""TANDEM: a penalty for the bilevel problem, probed by two proxies.

python -m cmtree_jax.main --config configs/methods/tandem.py --workdir W
"""

from configs.methods import scale


def get_config():
  """tandem on sixteen clusters."""
  return scale.get_config("tandem")
