"""DoGE: a proxy steered by products of gradients at every step.

python -m cmtree_jax.main --config configs/methods/doge.py --workdir W
"""

from configs.methods import scale


def get_config():
  """doge on sixteen clusters."""
  return scale.get_config("doge")
