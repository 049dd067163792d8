"""Shares of the corpus, flattened.

python -m cmtree_jax.main --config configs/methods/temperature.py --workdir W
"""

from configs.methods import scale


def get_config():
  """temperature on sixteen clusters."""
  return scale.get_config("temperature")
