"""RegMix: runs on random mixtures, and a regression over them.

python -m cmtree_jax.main --config configs/methods/regmix.py --workdir W
"""

from configs.methods import scale


def get_config():
  """regmix on sixteen clusters."""
  return scale.get_config("regmix")
