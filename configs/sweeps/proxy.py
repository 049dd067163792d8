"""How large a proxy: searches by models of 0.1M to 1M parameters, the same final one.

python -m cmtree_jax.sweep --config configs/sweeps/proxy.py --workdir runs/proxy

Four jobs of the quickstart, from ten minutes to half an hour each on two cores.
"""

from configs import quickstart

get_config = quickstart.get_config


def sweep(add):
  """A size each, of the search alone."""
  for preset in ("0.1m", "0.3m", "0.4m", "1m"):
    add(**{"proxy.preset": preset})
