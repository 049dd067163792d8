"""Options with which every method runs on a CPU in minutes, for a few short proxies.

The factories' own defaults are the papers', made for thousands of steps and hundreds
of runs. These were set before any test split was read, by arithmetic alone: how far
a method can move in 150 steps, how many runs a fit of 16 domains needs.
"""

from configs import default

OPTIONS = {
  "dga": dict(every=10, step_size=2.0),
  "doge": dict(learning_rate=5e-3),  # the proxies' rate, not the paper's
  "rnb": dict(every=10),
  "skill_it": dict(every=4, warmup=4, update=2, eta=1.0),
  "aioli": dict(every=2, lp_rounds=1, eta=6.0),
  "ado": dict(every=2, thin=4, num_steps=100),
  "tandem": dict(every=5),
  # The trees of RegMix need 20 runs in a leaf, those of CLIMB 5.
  "regmix": dict(runs=48, candidates=20_000, minimum=5e-3, surrogate="climb"),
  "climb": dict(rounds=(28, 14, 7), candidates=20_000, minimum=5e-3),
  "mixmin": dict(form="em", max_steps=1000, tolerance=1e-6),
  # A run whose learning rate decays within 60 steps shows no law of the steps, and
  # a grid over 16 domains is sparse.
  "mixing_laws": dict(num_mixtures=32, extrapolate=False, search="solver"),
}


def apply(config):
  """Sets the options of all methods, and sixteen domains."""
  config.partition.num_clusters = 16
  config.partition.fine_clusters = 200
  for method, options in OPTIONS.items():
    config[method].update(options)


def get_config(method: str):
  """A job that makes the recipe of one method and compares it with natural."""
  config = default.get_config()
  apply(config)
  config.method = method
  config.baselines = ()
  return config
