"""Bed E, topic times quality: five strengths of spoiling across all topics.

python -m experiments.beds --config beds.e:cpu --workdir runs/bed_e

In every source a fifth of the documents has the words of no sentence, a quarter, half,
three quarters or all of them shuffled; targets are sound. Similarity finds topics
alone. A learner should find two angles: each level's information about its factor at
least half of what there is, their overlap below .3. Refuted if one level tells of both.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  config = beds.start(
    argument,
    bed="topic_by_quality",
    targets="python_topics" if beds.is_toy(argument) else beds.UNION,
    refuted_if="one_level_tells_both",
    rivals=(*beds.ONE_ANGLE, *beds.FROZEN),
  )
  config.budget.epochs = 0.1
  return config
