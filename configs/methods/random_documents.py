"""Random documents against natural: what repetition alone does.

python -m cmtree_jax.main --config configs/methods/random_documents.py --workdir W
"""

from configs.methods import scale


def get_config():
  """It weighs single documents and leaves no partition, so it is the baseline."""
  config = scale.get_config("natural")
  config.baselines = ("random_documents",)
  return config
