"""What views of documents tell of their values, before a tree searches with them.

python -m experiments.views --config configs/views.py --workdir runs/views
"""

from ml_collections import ConfigDict

from configs import quickstart


def get_config():
  """The quickstart's corpus and proxies, with all views there are."""
  config = quickstart.get_config()
  config.embedding.views = (
    *("topic", "form", "grams"),
    *("loss", "trajectory", "hidden"),
  )
  config.measure = ConfigDict()
  config.measure.proxies = (
    8  # that value documents; one half predicts the other
  )
  config.measure.documents = 2000  # that are valued, at least those trained on
  config.measure.pieces = 2  # rows that are valued of a document, at most
  config.measure.trainings = 64  # from scratch, each on half of a sub-pool
  config.measure.steps = 100  # of each
  config.measure.together = 8  # trainings that are saved together
  return config
