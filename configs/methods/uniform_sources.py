"""The same number of tokens from each labelled source.

python -m cmtree_jax.main --config configs/methods/uniform_sources.py --workdir W
"""

from configs.methods import scale


def get_config():
  """uniform_sources on the labelled domains."""
  config = scale.get_config("uniform_sources")
  config.partition.kind = "sources"
  return config
