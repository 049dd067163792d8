"""The cluster-mixture tree: partition and mixture learned together.

python -m cmtree_jax.main --config configs/methods/cmtree.py --workdir W
"""

from configs.methods import scale


def get_config():
  """cmtree with 4 x 4 leaves."""
  return scale.get_config("cmtree")
