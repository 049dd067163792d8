"""R&B: domains balanced by the Gram matrix of their gradients.

python -m cmtree_jax.main --config configs/methods/rnb.py --workdir W
"""

from configs.methods import scale


def get_config():
  """rnb on its own domains."""
  config = scale.get_config("rnb")
  config.partition.kind = "silhouette"  # as R&B divides
  config.partition.candidates = (8, 12, 16, 24)
  return config
