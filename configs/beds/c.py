"""Bed C, rewrites: twenty light rewrites beside each of a fifth of the documents.

python -m experiments.beds --config beds.c:cpu --workdir runs/bed_c

Similarity counts them all. A learner should spread weight over what says something new.
Refuted if random documents at the tree's effective sample size are as good.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  toy = beds.is_toy(argument)
  config = beds.start(
    argument,
    bed="rewrites:4" if toy else "rewrites:20",
    targets="python_topics" if toy else beds.UNION,
    refuted_if="no_better",
    rivals=("random_equal",),
  )
  config.budget.epochs = 0.1
  return config
