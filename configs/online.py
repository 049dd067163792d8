"""Final trainings that move their own mixture, beside a static search; two cores.

python -m cmtree_jax.main --config configs/online.py --workdir runs/online
"""

from configs import quickstart


def get_config():
  """The quickstart's corpus and tree; the tree moves with the training itself."""
  config = quickstart.get_config()
  config.online.on = True
  # The same start without an event, the same tree by a static search, and its tilts
  # alone on a partition that stays.
  config.variants.static = ("cmtree", "online.on=false")
  config.variants.frozen = ("cmtree", "cmtree.mode=frozen")
  config.baselines = ("frozen", "static", "crisp_64", "classifier_soft")
  config.final.steps = 1200
  return config
