"""Which method, for which target: five kinds of them on three targets, one by one.

python -m cmtree_jax.sweep --config configs/sweeps/methods.py --workdir runs/methods

Fifteen jobs of the quickstart's corpus, minutes each on two cores; every one hands
over a recipe of its own. One table with intervals of all methods together, on equal
draws, is that of configs/compare.py.
"""

from configs import method, quickstart


def get_config():
  """The quickstart, with options of methods that a CPU has time for."""
  config = quickstart.get_config()
  method.make_small(config)
  config.baselines = ()
  return config


def sweep(add):
  """A method and a target each."""
  for name in ("cmtree", "classifier_soft", "crisp_64", "regmix", "doremi"):
    for target in ("film_reviews", "humaneval", "news"):
      add(**{"method": name, "data.targets": (target,)})
