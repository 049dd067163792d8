"""The recipe of one method, compared with natural, on a CPU in minutes.

python -m cmtree_jax.main --config configs/method.py:NAME --workdir runs/NAME

Corpus and final training are those of default.py. A method divides the corpus as
its paper does, else into sixteen clusters; its options are `SMALL` in its file.

A method that knows no target is also a tool of its own, to deduplicate, balance or
prune a corpus: --config.data.source=jsonl:pool.jsonl without a target file, or
--config.data.targets=none. Nothing is compared then, and the job ends with what went
and why.
"""

from cmtree_jax.methods import METHODS
from cmtree_jax.types import UserError
from configs import default


def make_small(config):
  """Sets the options of all methods to what a CPU can do, and sixteen domains."""
  config.partition.num_clusters = 16
  config.partition.fine_clusters = 200
  for name, method in METHODS.items():
    if method.SMALL.options:
      config[name].update(method.SMALL.options)


def get_config(name: str = ""):
  """A job of the method of this name."""
  if name not in METHODS:
    raise UserError(
      f"configs/method.py wants a method, came {name!r}; write --config "
      f"configs/method.py:NAME. Known: {', '.join(sorted(METHODS))}."
    )
  config = default.get_config()
  make_small(config)
  config.partition.update(METHODS[name].SMALL.partition)
  config.method, config.baselines = name, ()
  config.export.formats = ("parquet",)  # weights, and how often to repeat
  return config
