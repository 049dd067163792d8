"""Bed G, scarcity: the default corpus at a sixteenth, a quarter, one and four epochs.

python -m experiments.beds --config beds.g:cpu --workdir runs/bed_g

Repetition is matched. Similarity runs out of near text; a learner should spread.
Refuted if methods rank as they do where text is abundant, at a sixteenth: trainings of
this size cannot match the repetition of fewer epochs.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  toy = beds.is_toy(argument)
  config = beds.start(
    argument,
    bed="",
    targets="python_topics" if toy else beds.UNION,
    refuted_if="ranks_alike",
    rivals=(*beds.ONE_ANGLE, *beds.FROZEN),
  )
  config.bed.epochs = (0.25, 1.0) if toy else (0.0625, 0.25, 1.0, 4.0)
  return config
