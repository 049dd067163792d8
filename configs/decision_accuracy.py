"""How often a small scale ranks recipes as a large one does; twenty-four recipes.

python -m experiments.decision_accuracy --config decision_accuracy:cpu --workdir runs/d

The argument is that of configs/claims.py: a scale and, if wanted, a folder. At "cpu" on
the default corpus about half an hour of one core. Expect .90 of all pairs of recipes
for each target, .95 of those beyond noise, and .76 and .86 for the mean of the three.
"""

from ml_collections import ConfigDict

from configs import claims


def get_config(argument: str = "cpu"):
  """Two scales, and what recipes are made from."""
  config = claims.get_config(argument)
  if "," not in argument and argument != "toy":
    config.data.targets = ("film_reviews", "humaneval", "news")
    config.compare.targets = config.data.targets
  # Final trainings of both scales; noise is told by them, and there is no search.
  config.compare.seeds, config.compare.search_seeds = 2, 1
  config.compare.fractions = (0.25, 0.5, 1.0)  # of the small scale's tokens
  config.final.steps_per_call = 25
  config.optimizer.warmup_steps = 20
  config.variants.dsir_soft = ("dsir", "dsir.kind=soft")
  config.decision = ConfigDict()
  config.decision.recipes = 24  # natural among them
  # Recipes are powers of these weights, for one target or all, or mixtures of the
  # domains of the first by chance.
  config.decision.bases = (
    *("crisp_16", "crisp_64", "crisp_256", "classifier_soft", "dsir_soft"),
  )
  config.decision.small, config.decision.small_steps = "0.1m", 100
  config.decision.large, config.decision.large_steps = "0.4m", 300
  return config
