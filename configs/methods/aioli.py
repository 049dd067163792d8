"""Aioli: a mixing law measured again and again on the way.

python -m cmtree_jax.main --config configs/methods/aioli.py --workdir W
"""

from configs.methods import scale


def get_config():
  """aioli on sixteen clusters."""
  return scale.get_config("aioli")
