"""About a minute on two cores: every stage, too little training to learn much.

python -m cmtree_jax.main --config configs/smoke.py --workdir runs/smoke
"""

from configs import default


def get_config():
  """The standard library's text, a small tree, short runs of two seeds."""
  config = default.get_config()
  config.data.source = ("stdlib",)
  config.data.targets = ()
  config.final.steps = 25
  config.tree.solver_steps = 20
  config.search.sample_documents = 2048
  config.final.seeds = 2
  config.optimizer.warmup_steps = 10
  config.search.rounds = 2
  config.search.life = 60
  config.search.infancy = 20
  config.search.outer_rows = 64
  config.search.probe_rows = 64
  config.search.validation_rows = 64
  config.swarm.steps = 21
  config.steer.steps = 30
  config.evaluate.max_tokens = 10_000
  return config
