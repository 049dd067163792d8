"""What a method that learns from values is shown, and what is read of it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtree_jax.data.draw import packing, sampler
from cmtree_jax.loops.fleet import World
from cmtree_jax.loops.unrolls import Valued
from cmtree_jax.methods.base import Method, Signals

CHUNK = 65_536  # documents that are weighed at a time; bounds memory


class Sampling(NamedTuple):
  """Which documents stand for the corpus in a round."""

  seed: int
  size: int  # how many, at most

  def draw(self, world: World, number: int) -> tuple[np.ndarray, jax.Array]:
    """Numbers and masses of those of one round; the masses sum to one."""
    key_N = world.subpools.key_N
    chosen = sampler.some(key_N, self.size, self.seed, number)
    mass_N = world.mass_N[chosen]
    return chosen, jnp.asarray(mass_N / mass_N.sum(), jnp.float32)


def weigher(method: Method) -> Callable[[Any, Signals], Any]:
  """(state, signals) -> log-weights of documents, compiled."""
  return jax.jit(lambda state, x: method.finalize(state).log_w(x))


def log_w_N(
  weigh: Callable[[Any, Signals], Any], state: Any, world: World
) -> np.ndarray:
  """Log-weights of all documents, some at a time; float64.

  Args:
    weigh: of `weigher`.
    state: of the method.
    world: whose pool is weighed.
  """
  found = [
    weigh(
      state,
      Signals(
        mass_B=world.mass_N[rows].astype(np.float32),
        domain_B=world.domain_N[rows],
        index_B=np.arange(rows.start, rows.stop, dtype=np.int32),
        embedding_BE=np.asarray(world.embedding_NE[rows]),
      ),
    )
    for rows in packing.chunks(len(world.mass_N), CHUNK)
  ]
  return np.concatenate([np.asarray(x, np.float64) for x in found])


def signals(
  world: World,
  found: list[Valued],
  sample: tuple[np.ndarray, jax.Array],
  target_weight_T: np.ndarray,
  *,
  size: int,
) -> Signals:
  """Documents that proxies valued, filled up to a fixed number with mass zero.

  Proxies take turns, so that a method which keeps the first so many of them keeps
  as many of each.

  Args:
    world: that they were drawn from.
    found: of each proxy.
    sample: of `Sampling.draw`.
    target_weight_T: what each target's loss counts for.
    size: pieces of each proxy; more are left out, for they are a sample.
  """
  padded = [Valued(*(_filled(x, size) for x in one)) for one in found]
  document, value_BT, mass, log_proposal = (
    np.stack(x, axis=1).reshape(-1, *x[0].shape[1:])
    for x in zip(*padded, strict=True)
  )
  sample_N, sample_mass_N = sample
  return Signals(
    mass_B=jnp.asarray(mass, jnp.float32),
    domain_B=jnp.asarray(world.domain_N[document]),
    index_B=jnp.asarray(document, jnp.int32),
    embedding_BE=jnp.asarray(world.embedding_NE[document]),
    value_BT=jnp.asarray(value_BT, jnp.float32),
    proxy_B=jnp.tile(jnp.arange(len(found)), size),
    log_proposal_B=jnp.asarray(log_proposal, jnp.float32),
    target_weight_T=jnp.asarray(target_weight_T, jnp.float32),
    sample_NE=jnp.asarray(world.embedding_NE[sample_N]),
    sample_mass_N=sample_mass_N,
    sample_index_N=jnp.asarray(sample_N, jnp.int32),
  )


def nothing(targets: int) -> Valued:
  """No document, for so many targets."""
  none = np.zeros(0)
  return Valued(np.zeros(0, np.int64), np.zeros((0, targets)), none, none)


def columns(info: Any) -> dict[str, Any]:
  """What a method tells of a round, by name; several of one kind are "kind.name"."""
  found = {}
  for name, value in info._asdict().items():
    if isinstance(value, dict):
      found |= {f"{name}.{key}": one for key, one in value.items()}
    else:
      found[name] = value
  return found


def _filled(x: np.ndarray, size: int) -> np.ndarray:
  """The first `size` rows, with zeros where there are none."""
  x = x[:size]
  return np.pad(x, [(0, size - len(x))] + [(0, 0)] * (x.ndim - 1))
