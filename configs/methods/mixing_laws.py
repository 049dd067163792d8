"""Data Mixing Laws: losses as a law of the mixture, extrapolated.

python -m cmtree_jax.main --config configs/methods/mixing_laws.py --workdir W
"""

from configs.methods import scale


def get_config():
  """mixing_laws on sixteen clusters."""
  return scale.get_config("mixing_laws")
