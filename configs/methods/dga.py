"""DGA: a proxy steered by products with the target's gradient.

python -m cmtree_jax.main --config configs/methods/dga.py --workdir W
"""

from configs.methods import scale


def get_config():
  """dga on sixteen clusters."""
  return scale.get_config("dga")
