"""CRISP: each domain as often as the target falls into it.

python -m cmtree_jax.main --config configs/methods/crisp.py --workdir W
"""

from configs.methods import scale


def get_config():
  """crisp on sixteen clusters."""
  return scale.get_config("crisp")
