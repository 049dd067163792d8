"""Bed A, an absent neighbour: the target's language is taken out of the pool.

python -m experiments.beds --config beds.a:cpu --workdir runs/bed_a

All German leaves the pool and is the target. Similarity takes what looks near (Dutch
catalogues, English debates); a learner should find what transfers. Refuted if the
joint tree is no better than the best frozen partition.
"""

from configs import beds


def get_config(argument: str = "cpu"):
  """The bed at a scale of configs/claims.py."""
  name = "readmes" if beds.is_toy(argument) else "de"
  return beds.start(
    argument,
    bed=f"absent:{name}",
    targets=name,
    refuted_if="no_better",
    rivals=(*beds.FROZEN, *beds.CRISP),
  )
