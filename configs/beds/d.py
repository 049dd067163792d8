"""Bed D, a tiny target: eight texts to learn from and eight to choose by.

python -m experiments.beds --config beds.d:cpu --workdir runs/bed_d
python -m experiments.beds --config beds.d:cpu --workdir runs/bed_d4 \
    --config.data.bed=tiny:4

The test has all of its texts. Similarity fits the eight; values should regularize.
Refuted if the joint tree overfits more: if it loses more from validation to test than
the best rival does.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  config = beds.start(
    argument,
    bed="tiny:8",
    targets="python_topics" if beds.is_toy(argument) else "film_reviews",
    refuted_if="overfits_more",
    rivals=beds.ONE_ANGLE,
  )
  config.budget.epochs = 0.25
  return config
