"""DoReMi: a reference model, and a proxy steered by its excess losses.

python -m cmtree_jax.main --config configs/methods/doremi.py --workdir W
"""

from configs.methods import scale


def get_config():
  """doremi on sixteen clusters."""
  return scale.get_config("doremi")
