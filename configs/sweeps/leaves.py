"""How many leaves, for which budget: trees of 4 to 64 leaves for 0.25 to 2 epochs.

python -m cmtree_jax.sweep --config configs/sweeps/leaves.py --workdir runs/leaves

Twelve jobs of the quickstart, about ten minutes each on two cores.
"""

from configs import quickstart

get_config = quickstart.get_config


def sweep(add):
  """A tree and a budget each; caps and repeats follow from the budget.

  At `budget.max_epochs`, four, no recipe may differ from the natural mixture.
  """
  for branching in ((2, 2), (4, 2), (4, 4), (8, 8)):
    for epochs in (0.25, 1.0, 2.0):
      add(**{"cmtree.branching": branching, "budget.epochs": epochs})
