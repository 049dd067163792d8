"""The main job on the default corpus: a tree of 4 x 4 leaves for three targets.

python -m cmtree_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from configs import default


def get_config():
  """The defaults as they are."""
  return default.get_config()
