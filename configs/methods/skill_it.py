"""Skill-It: a graph of which domain helps the target, then its losses.

python -m cmtree_jax.main --config configs/methods/skill_it.py --workdir W
"""

from configs.methods import scale


def get_config():
  """skill_it on sixteen clusters."""
  return scale.get_config("skill_it")
