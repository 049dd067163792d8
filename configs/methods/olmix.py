"""Olmix: a convex law of each target, minimized under caps.

python -m cmtree_jax.main --config configs/methods/olmix.py --workdir W
"""

from configs.methods import scale


def get_config():
  """olmix on sixteen clusters."""
  return scale.get_config("olmix")
