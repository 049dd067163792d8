"""Every document once per epoch.

python -m cmtree_jax.main --config configs/methods/natural.py --workdir W
"""

from configs.methods import scale


def get_config():
  """natural on sixteen clusters."""
  return scale.get_config("natural")
