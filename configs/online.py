"""A training that moves its own mixture and tree, beside others; hours on two cores.

python -m cmtree_jax.main --config configs/online.py --workdir runs/online

On CPUs put MALLOC_ARENA_MAX=1 before it: events then take 14 % of a run, 17 % without.
It ends with the trained model and its schedule (cells/search/*.run), the table, and, in
WORKDIR/online, the mixture over time and the tree at three moments.
"""

from configs import quickstart


def get_config():
  """The quickstart's corpus and tree; the final trainings move them."""
  config = quickstart.get_config()
  config.online.on = True
  # As good as 40 iterations in nine pairs of runs, on 512 documents as on 4,096, and a
  # fraction of the time.
  config.cmtree.step.solver_steps = 10
  config.cmtree.step.solver_sample = 512
  # The values of six events; with room for more a step takes longer.
  config.cmtree.replay.size = 2048
  # The tree's tilts alone, on the partition of its start; and its static search.
  config.variants.frozen = ("cmtree", "cmtree.mode=frozen")
  config.variants.static = (
    "cmtree",
    "online.on=false",
    "cmtree.step.solver_steps=80",
    "cmtree.step.solver_sample=4096",
    "cmtree.replay.size=12288",
  )
  config.baselines = ("frozen", "static", "crisp_64", "classifier_soft")
  config.final.steps = 1200
  return config
