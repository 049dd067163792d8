"""Bed F, a conflict: code, prose and German debates served by one recipe.

python -m experiments.beds --config beds.f:cpu --workdir runs/bed_f

A third of the German debates leaves the pool and is a target beside HumanEval and film
reviews. Similarity trades one of them away; a learner should keep the worst near its
own best. Refuted if CRISP, which weighs the targets alike, equals it on the worst.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  toy = beds.is_toy(argument)
  name = "licences" if toy else "parliament_de"
  others = "python_modules+python_topics" if toy else "film_reviews+humaneval"
  config = beds.start(
    argument,
    bed=f"held_out:{name}:0.33",
    targets=f"{others}+{name}",
    refuted_if="no_better_on_the_worst",
    rivals=beds.CRISP,
  )
  config["values"].target_weights = "dro"
  if toy:
    config.data.max_overlap = 1.0  # licences say the same in many packages
  return config
