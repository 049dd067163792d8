"""ADO: scaling laws of the domains, fitted while a proxy trains.

python -m cmtree_jax.main --config configs/methods/ado.py --workdir W
"""

from configs.methods import scale


def get_config():
  """ado on sixteen clusters."""
  return scale.get_config("ado")
