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
  config.cmtree.step.solver_steps = 20
  config["values"].sample_documents = 2048
  config.final.seeds = 2
  config.trial.steps = 25
  config.trial.steps_per_call = 25
  config.trial.exponents = (0.5,)
  config.guard.rivals = ("crisp_16",)
  config.optimizer.warmup_steps = 10
  config["values"].rounds = 2
  config["values"].population = 4
  config["values"].max_age = 60
  config["values"].min_age = 20
  config["values"].outer_rows = 64
  config["values"].probe_rows = 64
  config["values"].validation_rows = 64
  config.runs.steps = 21
  config.steer.steps = 30
  config.evaluate.max_tokens = 10_000
  return config
